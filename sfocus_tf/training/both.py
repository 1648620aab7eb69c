"""`--method=both`: trains cross-entropy and ICASC by the same recipe, and compares them on the test images."""

import pathlib

import ml_collections
import numpy as np

from sfocus_tf import distribution, evaluation, report, saved_models
from sfocus_tf.evaluation import Evaluation
from sfocus_tf.training import build, checkpoints
from sfocus_tf.training.config import resolve
from sfocus_tf.training.run import run

_IMAGES = 4  # in the figure


def run_both(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> str:
    """Trains both methods, in `<workdir>/cross_entropy` and `<workdir>/icasc`, and writes what differs beside them.

    Writes `comparison.html`, a page of all measures and of the images whose answers changed, and `comparison.png`, what
    speaks for the label and what for its rival in a few of them. Finished runs are not repeated.

    Args:
        config: a config with every key of `configs/common.py`; its `method` is set to each in turn.
        workdir: the folder; created if it does not exist.

    Returns:
        A table for the terminal.

    Raises:
        ValueError: several workers, which end together with each run.
        As `sfocus_tf.training.run`.
    """
    if distribution.workers_named() > 1:
        raise ValueError(
            "method='both': expected one process, got several workers. Run --method=cross_entropy and --method=icasc, "
            "and compare their workdirs by python -m sfocus_tf compare."
        )
    folder = pathlib.Path(workdir).expanduser()
    for method, name in saved_models.METHOD_NAMES.items():
        config.method = method
        print(f"\n{name}:", flush=True)
        run(config, folder / method)
    test = build.split(resolve(config), "test", regions=True)
    plain, ours = (
        evaluation.evaluate(saved_models.find(folder / each).load(), test) for each in saved_models.METHOD_NAMES
    )
    names = (saved_models.METHOD_NAMES["cross_entropy"], saved_models.METHOD_NAMES["icasc"])
    comparison = report.compare(plain, ours)
    page = report.comparison_page(
        plain, ours, test.images, names, f"{config.dataset}, test split", comparison=comparison
    )
    checkpoints.write_text(folder / "comparison.html", page)
    chosen = _examples(comparison, plain, ours)
    images = test.images(chosen)
    figure = report.comparison_figure([images[number] for number in chosen], chosen, plain, ours, names)
    figure.savefig(folder / "comparison.png", dpi=110)
    return f"{_table(comparison, names, plain.of)}\n\n{_next_commands(folder)}"


def _examples(comparison: report.Comparison, plain: Evaluation, ours: Evaluation) -> list[int]:
    """Numbers of a few images: some whose answers changed for better and for worse, the others right in both."""
    right = np.flatnonzero(plain.correct() & ours.correct() & plain.valid & ours.valid)
    others = right if len(right) else np.arange(len(plain.labels))
    chosen = [int(number) for group in (comparison.mended, comparison.broken) for number in group[:1]]
    spread = others[np.linspace(0, len(others) - 1, _IMAGES - len(chosen)).astype(int)]
    return sorted({*chosen, *map(int, spread)})


def _table(comparison: report.Comparison, names: tuple[str, str], of: str) -> str:
    """The key measures of both, with intervals of their differences; lines fit a terminal of 80 columns."""
    lines = [f"{'':<29}  {names[0]:>13}  {names[1]:>7}  difference (95 %)"]
    by_name = {difference.name: difference for difference in comparison.differences}
    for name in evaluation.KEY_MEASURES:
        if name in by_name:
            found = by_name[name]
            change, low, high = (100 * value for value in (found.b - found.a, found.low, found.high))
            chance = " ~" if low <= 0 <= high else ""
            values = f"{100 * found.a:>11.1f} %  {100 * found.b:>5.1f} %"
            text = evaluation.describe(name).text
            lines.append(f"{text:<29}  {values}  {change:+.1f} ({low:+.1f} to {high:+.1f}){chance}")
    lines += [
        "Maps are of the last layer. They are",
        f"{evaluation.MAPS[of]}.",
        "~ within chance. Intervals are over the test images, for these two networks",
        "alone: another seed gives other networks, and other differences.",
        f"Images that only {names[1]} gets right: {len(comparison.mended)}; only {names[0]}: {len(comparison.broken)}.",
    ]
    return "\n".join(lines)


def _next_commands(folder: pathlib.Path) -> str:
    """What to look at, and what to try next."""
    plain, ours = folder / "cross_entropy", folder / "icasc"
    steps = {
        "see what speaks for a class, and what for its rival": folder / "comparison.png",
        "see every measure, and the images whose answers changed": folder / "comparison.html",
        "explain your photo": f"python -m sfocus_tf explain {ours} photo.jpg",
        "compare maps of the scores themselves": f"python -m sfocus_tf compare {plain} {ours} --of=score",
        "train on your images": "python train.py --dataset=folder:photos --data_dir=<folder>",
    }
    return "\n".join(f"{what}:\n  {how}" for what, how in steps.items())
