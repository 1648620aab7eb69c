"""Looks into trained classifiers, whether attention supervision trained them or plain Keras."""

import argparse
import sys
from typing import Any

from sfocus_tf import commands
from sfocus_tf.attention import EXPLAINED

_FORMS = """MODEL is a .keras file, or a workdir of train.py. A classifier that plain Keras trained is taken as it is;
give --preprocessing where it expects pixels that were scaled outside of it."""
_EXPLAIN = """examples:
  python -m sfocus_tf explain runs/voc2012-icasc-0 photo.jpg
  python -m sfocus_tf explain model.keras photos/ 'more/*.png' --class=dog --output=figures
"""
_EVALUATE = """examples:
  python -m sfocus_tf evaluate runs/voc2012-icasc-0
  python -m sfocus_tf evaluate model.keras --dataset=voc2012 --data_dir=data --preprocessing=tf
"""
_COMPARE = """example:
  python -m sfocus_tf compare runs/voc2012-cross_entropy-0 runs/voc2012-icasc-0
"""
_EXPORT = """example:
  python -m sfocus_tf export runs/voc2012-icasc-0 --output=served/1
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main_parser = argparse.ArgumentParser(
        prog="python -m sfocus_tf", description=__doc__, epilog=_FORMS, formatter_class=argparse.RawTextHelpFormatter
    )
    added = main_parser.add_subparsers(dest="command", required=True, metavar="explain | evaluate | compare | export")
    _add_explain(_command(added, "explain", "Where a classifier looks: one figure an image.", _EXPLAIN))
    evaluate = _command(added, "evaluate", "How often it is right, what it confuses, and where it looks.", _EVALUATE)
    evaluate.add_argument("model", metavar="MODEL")
    evaluate.add_argument(
        "--output", metavar="FILE", default="evaluation.json", help="all numbers as JSON (%(default)s)"
    )
    compare = _command(added, "compare", "Two classifiers on the same images, as one HTML page.", _COMPARE)
    compare.add_argument("model", metavar="MODEL_A")
    compare.add_argument("model_b", metavar="MODEL_B")
    compare.add_argument("--names", metavar="A,B", help="what the page calls them; their methods or paths by default")
    compare.add_argument("--output", metavar="FILE", default="comparison.html", help="the page (%(default)s)")
    export = _command(added, "export", "A SavedModel for TF Serving: classes, explanations, encoded images.", _EXPORT)
    export.add_argument("model", metavar="MODEL")
    export.add_argument("--output", metavar="FOLDER", default="served/1", help="name and version (%(default)s)")
    for command in (evaluate, compare):
        command.add_argument("--dataset", metavar="NAME", help="as for train.py; as the workdir has it by default")
        command.add_argument("--data_dir", metavar="FOLDER", help="where the data are; as the workdir has it")
        command.add_argument("--split", default="test", help="train, validation or test (%(default)s)")
        command.add_argument("--faithfulness", action="store_true", help="measure insertion and deletion too (slow)")
    return main_parser


def _add_explain(explain: argparse.ArgumentParser) -> None:
    explain.add_argument("model", metavar="MODEL")
    explain.add_argument("images", metavar="IMAGE", nargs="+", help="files, folders or patterns")
    explain.add_argument(
        "--class", dest="class_name", metavar="NAME", help="class to explain, by name or number; the predicted one"
    )
    explain.add_argument("--rival", metavar="NAME", help="class to compare it with; the best of the others by default")
    explain.add_argument(
        "--cam",
        metavar="NAME",
        help="how maps are made: grad_cam (the default), grad_cam_positive,\ngrad_cam_plus_plus, hires_cam or "
        "layer_cam, or by tf-keras-vis: vis:score_cam, vis:grad_cam_plus_plus, vis:saliency",
    )
    explain.add_argument("--output", metavar="FOLDER", default="explanations", help="for the figures (%(default)s)")


def _command(added: Any, name: str, text: str, examples: str) -> argparse.ArgumentParser:
    """A subcommand with the flags that all of them have."""
    command = added.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"{examples}\n{_FORMS}",
        formatter_class=argparse.RawTextHelpFormatter,
    )
    if name != "export":
        command.add_argument(
            "--batch_size", type=_positive, default=32, metavar="N", help="images a step (%(default)s)"
        )
        command.add_argument("--skip_corrupt", action="store_true", help="leave images that cannot be decoded out")
        command.add_argument(
            "--of",
            choices=EXPLAINED,
            default="score",
            help="what maps explain: the score of each class; relative, that less\nthe mean over the classes, which "
            "what changes no answer cannot change;\nor contrast, the target's score less the rival's (%(default)s)",
        )
    command.add_argument(
        "--image_size",
        type=_positive,
        metavar="N",
        help="side in pixels, for a classifier that takes images of any size",
    )
    command.add_argument(
        "--preprocessing",
        metavar="NAME",
        default="none",
        help="what a plain classifier expects: none (pixels from 0 to 255),\nunit (0 to 1), tf (-1 to 1), torch or "
        "caffe, as keras.applications names them" + ("; A,B where two differ" if name == "compare" else ""),
    )
    if name in ("explain", "export"):
        command.add_argument(
            "--class_names",
            metavar="FILE",
            help="names of the classes, a line each; as the workdir has them",
        )
        command.add_argument(
            "--multi_label",
            action="store_true",
            help="images may have several classes, where a plain classifier\ndoes not end in a sigmoid that says so",
        )
    return command


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, got {text!r}")
    return int(text)


def main(argv: list[str] | None = None) -> None:
    """Runs a command; what a user can mend is shown as one message, without a traceback."""
    arguments = parser().parse_args(argv)
    try:
        getattr(commands, arguments.command)(arguments)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"sfocus_tf {arguments.command}: {error}")


if __name__ == "__main__":
    main()
