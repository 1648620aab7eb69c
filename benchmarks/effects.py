"""The figure of benchmarks/accuracy.py: what each arm changes, per measure and experiment, with intervals."""

import matplotlib
from matplotlib import pyplot

from benchmarks import stored_runs

matplotlib.use("Agg")
# Blue, orange and grey, told apart by the colour-blind too.
_COLOURS = {"default": "#0072b2", "light": "#e69f00", "paper": "#777777"}
_ENOUGH = 3  # seeds; the interval of two is thirteen times as wide as their difference


def plot(summaries, file):
    """Draws axes for each measure with a row for each experiment; lines are 95 % intervals.

    The scale is that of the arms with intervals; what lies beyond it is a triangle at the edge, with its value.
    """
    summaries = {name: row for name, row in summaries.items() if row["arms"].keys() & _COLOURS}
    columns = ["metric", *(name for name in stored_runs.MEASURES if _known(summaries, name))]
    rows = -(-len(columns) // 2)
    height = rows * (0.7 + 0.35 * len(summaries)) + 0.8
    figure, grid = pyplot.subplots(rows, 2, figsize=(9, height), sharey=True, squeeze=False, layout="constrained")
    for axis, measure in zip(grid.flat, columns, strict=False):
        _measure(axis, measure, summaries)
    for axis in grid.flat[len(columns) :]:
        axis.remove()
    figure.supxlabel(
        "points over cross-entropy (log-loss: hundredths); lines: 95 % intervals; hollow: fewer than three seeds",
        fontsize=9,
    )
    handles = [pyplot.Line2D([], [], color=colour, marker="o", label=arm) for arm, colour in _COLOURS.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _measure(axis, measure, summaries):
    """Draws one measure: each experiment is a row, each arm a point."""
    points = []
    for place, row in enumerate(summaries.values()):
        for number, (arm, colour) in enumerate(_COLOURS.items()):
            found = row["arms"].get(arm, {}).get(row["metric"] if measure == "metric" else measure)
            if found:
                points.append((-place - 0.25 * (number - 1), colour, found))
    left, right = _limits([found for *_, found in points])
    for at, colour, found in points:
        value, enough = found["difference"], len(found["seeds"]) >= _ENOUGH
        if not left <= value <= right:
            edge, marker, inwards, aligned = (left, "<", 8, "left") if value < left else (right, ">", -8, "right")
            axis.plot(edge, at, marker, color=colour, clip_on=False)
            style = {"textcoords": "offset points", "ha": aligned, "va": "center", "fontsize": 7, "color": colour}
            axis.annotate(f"{value:+.0f}", (edge, at), (inwards, 0), **style)
            continue
        if enough:
            axis.plot([found["low"], found["high"]], [at, at], color=colour)
        axis.plot(value, at, "o", color=colour, markersize=5, markerfacecolor=colour if enough else "white")
    heading, better = ("accuracy or mAP", True) if measure == "metric" else stored_runs.MEASURES[measure]
    axis.set_title(f"{heading} (better: {'→' if better else '←'})", loc="left", fontsize=9)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks([-place for place in range(len(summaries))], list(summaries), fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.set(xlim=(left, right), ylim=(-len(summaries) + 0.5, 0.5))


def _limits(found):
    """The scale of one measure, so that every interval fits, and zero."""
    sure = [each for each in found if len(each["seeds"]) >= _ENOUGH]
    ends = [each[end] for each in sure for end in ("low", "high")] or [each["difference"] for each in found]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    margin = 0.15 * (high - low) or 1.0
    return low - margin, high + margin


def _known(summaries, measure):
    return any(measure in row["arms"].get(arm, {}) for row in summaries.values() for arm in _COLOURS)
