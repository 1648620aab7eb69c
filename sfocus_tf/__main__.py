"""Explain, evaluate, compare and export classifiers of train.py or of plain Keras."""

import argparse
import sys
import warnings
from typing import Any

from sfocus_tf import commands, startup
from sfocus_tf.attention import EXPLAINED

_FORMS = """MODEL is a .keras file, or a workdir of train.py for the last.keras in it. A
plain Keras classifier works too; set --preprocessing if its training pixels
were scaled outside the model."""
_START = """start with:
  python -m sfocus_tf explain MODEL photo.jpg    figures of where it looks
  python -m sfocus_tf COMMAND --help             flags and examples of a command
"""
_EXPLAIN = """examples:
  python -m sfocus_tf explain runs/voc2012-icasc-0 photo.jpg
  python -m sfocus_tf explain model.keras photos/ 'more/*.png' --class=dog
"""
_EVALUATE = """examples:
  python -m sfocus_tf evaluate runs/voc2012-icasc-0
  python -m sfocus_tf evaluate model.keras --dataset=voc2012 --data_dir=data \\
    --preprocessing=tf
"""
_COMPARE = """example:
  python -m sfocus_tf compare runs/cub200-cross_entropy-0 runs/cub200-icasc-0
"""
_EXPORT = """example:
  python -m sfocus_tf export runs/voc2012-icasc-0 --output=served/1
"""


def parser() -> argparse.ArgumentParser:
    """The command-line parser."""
    main_parser = argparse.ArgumentParser(
        prog="python -m sfocus_tf",
        description=__doc__,
        epilog=f"{_START}\n{_FORMS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subcommands = main_parser.add_subparsers(
        dest="command", required=True, metavar="explain | evaluate | compare | export"
    )
    _add_explain(_command(subcommands, "explain", "Show where a classifier looks: one figure per image.", _EXPLAIN))
    evaluate = _command(subcommands, "evaluate", "Measure accuracy, confusion, and where it looks.", _EVALUATE)
    evaluate.add_argument("model", metavar="MODEL")
    evaluate.add_argument(
        "--output", metavar="FILE", default="evaluation.json", help="file for all numbers, as JSON (%(default)s)"
    )
    compare = _command(subcommands, "compare", "Compare two classifiers in an HTML page.", _COMPARE)
    compare.add_argument("model", metavar="MODEL_A")
    compare.add_argument("model_b", metavar="MODEL_B")
    compare.add_argument("--names", metavar="A,B", help="names on the page; by default their methods or paths")
    compare.add_argument("--output", metavar="FILE", default="comparison.html", help="file for the page (%(default)s)")
    export = _command(subcommands, "export", "Write a SavedModel for TF Serving.", _EXPORT)
    export.add_argument("model", metavar="MODEL")
    export.add_argument(
        "--output", metavar="FOLDER", default="served/1", help="folder to write: model name and version (%(default)s)"
    )
    for command in (evaluate, compare):
        command.add_argument("--dataset", metavar="NAME", help="dataset, as in train.py; by default the workdir's")
        command.add_argument("--data_dir", metavar="FOLDER", help="folder of the dataset; by default the workdir's")
        command.add_argument("--split", default="test", help="train, validation or test (%(default)s)")
        command.add_argument(
            "--examples", type=_positive, metavar="N", help="maximum number of images; by default as in training"
        )
        command.add_argument(
            "--faithfulness",
            action="store_true",
            help="measure insertion and deletion too (slow): of the target's probability, or with --of=contrast of "
            "the target against its rival",
        )
    return main_parser


def _add_explain(explain: argparse.ArgumentParser) -> None:
    explain.add_argument("model", metavar="MODEL")
    explain.add_argument("images", metavar="IMAGE", nargs="+", help="image files, folders or quoted patterns")
    explain.add_argument(
        "--class",
        dest="class_name",
        metavar="NAME",
        help="class to explain, by name or number; by default the predicted one",
    )
    explain.add_argument("--rival", metavar="NAME", help="class to compare it with; by default the best other one")
    explain.add_argument(
        "--cam",
        metavar="NAME",
        help="CAM method: grad_cam (the default), grad_cam_positive, grad_cam_plus_plus, hires_cam or layer_cam; or "
        "from tf-keras-vis: vis:score_cam, vis:grad_cam_plus_plus, vis:saliency",
    )
    explain.add_argument(
        "--output", metavar="FOLDER", default="explanations", help="folder for the figures (%(default)s)"
    )


def _command(subcommands: Any, name: str, text: str, examples: str) -> argparse.ArgumentParser:
    """Adds a subcommand with the flags they share."""
    command = subcommands.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"{examples}\n{_FORMS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if name == "explain":
        _add_flags_of_maps(command, "the default, if --cam allows it")
    elif name != "export":
        _add_flags_of_maps(command, "default: relative; score for two classes or several labels")
    command.add_argument(
        "--image_size",
        type=_positive,
        metavar="N",
        help="height and width in pixels, if the classifier takes images of any size",
    )
    command.add_argument(
        "--preprocessing",
        metavar="NAME",
        default="none",
        help="pixels that a plain Keras classifier expects: none (0 to 255), unit (0 to 1), tf (-1 to 1), torch or "
        "caffe, as in keras.applications (%(default)s)" + ("; A,B if the two differ" if name == "compare" else ""),
    )
    if name in ("explain", "export"):
        _add_flags_of_classes(command)
    return command


def _add_flags_of_maps(command: argparse.ArgumentParser, default: str) -> None:
    """Adds the flags of commands that compute maps."""
    command.add_argument("--batch_size", type=_positive, default=32, metavar="N", help="images per step (%(default)s)")
    command.add_argument("--skip_corrupt", action="store_true", help="skip images that cannot be decoded")
    command.add_argument(
        "--of",
        choices=EXPLAINED,
        help="what maps explain: score, the score of each class; relative, that score minus the mean over the classes, "
        f"so that shifts of all scores cancel; or contrast, the target's score minus the rival's ({default})",
    )


def _add_flags_of_classes(command: argparse.ArgumentParser) -> None:
    """Adds the flags that tell what a plain Keras classifier does not."""
    command.add_argument(
        "--class_names",
        metavar="FILE",
        help="text file with one class name per line; by default the workdir's names",
    )
    command.add_argument(
        "--multi_label",
        action="store_true",
        help="images may have several classes; only for a plain Keras classifier that does not end in a sigmoid",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, got {text!r}")
    return int(text)


def main(argv: list[str] | None = None) -> None:
    """Runs a command; errors that a user can fix are shown without a traceback."""
    arguments = parser().parse_args(argv)
    startup.find_gpus()
    warnings.showwarning = lambda message, *_, **__: print(f"sfocus_tf {arguments.command}: {message}", file=sys.stderr)
    try:
        getattr(commands, arguments.command)(arguments)
    except KeyboardInterrupt:
        sys.exit(f"sfocus_tf {arguments.command}: stopped by Ctrl-C")
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"sfocus_tf {arguments.command}: {error}")


if __name__ == "__main__":
    main()
