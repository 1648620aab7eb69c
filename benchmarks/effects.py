"""The figure of benchmarks/accuracy.py: what each arm changes, per measure and experiment, with intervals."""

import matplotlib
from matplotlib import pyplot

from benchmarks import stored_runs

matplotlib.use("Agg")
# Blue, orange and grey, told apart by the colour-blind too.
_COLOURS = {"default": "#0072b2", "light": "#e69f00", "paper": "#777777"}


def plot(summaries, file):
    """Draws a column of axes for each measure and a row for each experiment; bars are 95 % intervals."""
    metrics = {name: row["metric"] for name, row in summaries.items()}
    columns = ["metric", *(name for name in stored_runs.MEASURES if _known(summaries, name))]
    figure, axes = pyplot.subplots(
        len(columns), 1, figsize=(7, 0.9 * len(columns) + 0.3 * len(columns) * len(summaries)), layout="constrained"
    )
    for axis, measure in zip(axes, columns, strict=True):
        for place, (name, row) in enumerate(summaries.items()):
            for number, (arm, colour) in enumerate(_COLOURS.items()):
                found = row["arms"].get(arm, {}).get(metrics[name] if measure == "metric" else measure)
                if found:
                    at = -place - 0.2 * (number - 1)
                    if found["low"] is not None:
                        axis.plot([found["low"], found["high"]], [at, at], color=colour)
                    axis.plot(found["difference"], at, "o", color=colour)
        heading, better = ("accuracy or mAP", True) if measure == "metric" else stored_runs.MEASURES[measure]
        axis.set_title(f"{heading}: better to the {'right' if better else 'left'}", loc="left", fontsize=9)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks([-place for place in range(len(summaries))], list(summaries), fontsize=8)
        axis.set_ylim(-len(summaries) + 0.5, 0.5)
    axes[-1].set_xlabel("points over cross-entropy (of the log-loss: hundredths); lines: 95 % intervals over the seeds")
    handles = [pyplot.Line2D([], [], color=colour, marker="o", label=arm) for arm, colour in _COLOURS.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _known(summaries, measure):
    return any(measure in found for row in summaries.values() for found in row["arms"].values())
