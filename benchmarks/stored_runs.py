"""Reads the finished runs of benchmarks/accuracy.py and compares the arms, seed by seed."""

import functools
import json
import operator
import pathlib
import sys

import numpy as np

from benchmarks import experiments, table
from sfocus_tf import evaluation

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
# Keys of a config that may differ between the runs of one recipe; those of the objective had several names.
_NOT_THE_RECIPE = (
    "method", "seed", "data_dir", "objective", "attention", "terms", "recipe", "epochs", "attention_images_every",
    "check_images", "check_pictures", "attention_pictures_every",
)  # fmt: skip
# Where archived runs have some of the measures, in `test`.
_FORMER_MEASURES = {
    "overlap_last": "relative_overlap",
    "pointing_last": "relative_pointing",
    "insertion": "insertion",
    "deletion": "deletion",
}
# What is compared, in this order: name in `measures`, heading, and whether it is better the higher it is.
_MAPS = (
    "overlap_last", "pointing_last", "energy_pointing_last", "insertion", "deletion", "inside_region",
    "own_overlap_last", "own_pointing_last",
)  # fmt: skip


def _described(name):
    measure = evaluation.describe(name.removeprefix("own_"))
    own = ", the scores' own maps" if name.startswith("own_") else ""
    return measure.text + own, measure.more_is_better


MEASURES = {"log_loss": ("log-loss", False)} | {name: _described(name) for name in _MAPS}


def metric_of(run):
    """The standard metric for the data of a run."""
    return "mAP" if "mAP" in run["test"] else "accuracy"


def value_of(run, measure):
    """A measure of a run; `None` if it was not measured.

    Maps are relative ones; on data of several labels, where sigmoids do notice what is added to all scores, the scores'
    own.
    """
    if measure in ("accuracy", "mAP"):
        return run["test"].get(measure)
    if measure == "log_loss":
        return run["test_loss"]
    if measure.startswith("own_"):
        return run.get("own", run["test"]).get(measure.removeprefix("own_"))
    return run.get("measures", {}).get(measure)


def read(experiment, results=RESULTS, tiny=False):
    """The finished runs of an experiment by arm and seed; exits on a run of another recipe or objective."""
    runs = {arm: {} for arm in experiments.ARMS}
    for path in sorted(pathlib.Path(results, experiment).glob("*.json")):
        arm, _, seed = path.stem.rpartition("-")
        run = json.loads(path.read_text())
        if why := _foreign(experiment, arm, run, tiny):
            sys.exit(f"{path}: {why}. Move it to the archive, and remove its workdir.")
        runs[arm][int(seed)] = run
    return runs


def _foreign(experiment, arm, run, tiny):
    """Why a finished run does not match the current experiment and arm; `None` if it does."""
    if arm not in experiments.ARMS:
        return f"{arm} is no arm; expected one of {', '.join(experiments.ARMS)}"
    if run["objective"] != experiments.objective_of(arm):
        return f"its objective, {run['objective']}, is not what {arm} stands for, {experiments.objective_of(arm)}"
    for flag in experiments.settings(experiment, tiny):
        name, text = flag.removeprefix("--").removeprefix("config.").split("=")
        had, value = functools.reduce(operator.getitem, name.split("."), run["config"]), text.partition(":")[0]
        if had is None or type(had)(value) != had:
            return f"it was run with {name}={had}, {experiment} now has {value}"
    return None


def read_archive(experiment, results=RESULTS):
    """The former runs of an experiment by arm and seed; exits if they differ in recipe."""
    runs, recipes = {}, {}
    for path in sorted(pathlib.Path(results, "archive", experiment).glob("*.json")):
        arm, _, seed = path.stem.rpartition("-")
        run = json.loads(path.read_text())
        recipe = {key: value for key, value in run["config"].items() if key not in _NOT_THE_RECIPE}
        recipes.setdefault(json.dumps(recipe, sort_keys=True), path)
        run["measures"] = {name: run["test"].get(former) for name, former in _FORMER_MEASURES.items()}
        runs.setdefault(arm, {})[int(seed)] = run
    if len(recipes) > 1:
        sys.exit(f"{' and '.join(map(str, recipes.values()))} differ in their recipes, and cannot be compared.")
    return runs


def compared(plain, ours, measure):
    """The paired difference over the shared seeds that have the measure, in points; `None` if there are none.

    For the log-loss a point is a hundredth.
    """
    pairs = {seed: (value_of(plain[seed], measure), value_of(ours[seed], measure)) for seed in plain.keys() & ours}
    pairs = {seed: pair for seed, pair in sorted(pairs.items()) if None not in pair}
    if not pairs:
        return None
    first, second = (100 * np.array(values) for values in zip(*pairs.values(), strict=True))
    difference, low, high = table.paired(first, second)
    found = {"from": first.mean(), "to": second.mean(), "difference": difference, "low": low, "high": high}
    return {key: None if value is None else round(float(value), 2) for key, value in found.items()} | {
        "seeds": list(pairs)
    }


def alone(runs, measure):
    """Mean and standard deviation of a measure over the seeds, in points; `None` if it was not measured."""
    values = [100 * value for run in runs.values() if (value := value_of(run, measure)) is not None]
    if not values:
        return None
    spread = round(float(np.std(values, ddof=1)), 2) if len(values) > 1 else None
    return {"mean": round(float(np.mean(values)), 2), "deviation": spread, "seeds": len(values)}


def summary(runs):
    """Cross-entropy by itself, every other arm against it, and how far rounding alone moves the metric."""
    plain = runs["cross_entropy"]
    if not plain:
        return None
    metric = metric_of(next(iter(plain.values())))
    measures = (metric, *MEASURES)
    result = {"metric": metric, "seeds": len(plain), "seconds": _seconds(plain)}
    result["cross_entropy"] = {name: found for name in measures if (found := alone(plain, name))}
    others = {arm: by_seed for arm, by_seed in runs.items() if arm != "cross_entropy" and plain.keys() & by_seed.keys()}
    result["arms"] = {
        arm: {name: found for name in measures if (found := compared(plain, by_seed, name))}
        for arm, by_seed in others.items()
        if arm != "rounding"
    }
    rounded = runs.get("rounding", {})
    moved = [100 * (value_of(rounded[s], metric) - value_of(plain[s], metric)) for s in plain.keys() & rounded.keys()]
    result["rounding"] = round(float(np.sqrt(np.mean(np.square(moved)))), 2) if moved else None
    return result


def _seconds(runs):
    return round(float(np.mean([run["seconds"] for run in runs.values()])))


def markdown(summaries):
    """Two tables: cross-entropy by itself, and what each arm changes."""
    lines = [
        "| experiment | metric | seeds | cross-entropy | moved by rounding alone | log-loss |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in summaries.items():
        cells = [name, row["metric"], str(row["seeds"]), _spread(row["cross_entropy"][row["metric"]])]
        cells += ["not measured" if row["rounding"] is None else f"{row['rounding']:.2f}"]
        lines.append(f"| {' | '.join([*cells, _spread(row['cross_entropy']['log_loss'])])} |")
    if any(row["arms"] for row in summaries.values()):
        lines += ["", "| experiment | arm | measure | seeds | from | to | difference | 95 % interval |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
    for name, row in summaries.items():
        for arm, measures in row["arms"].items():
            for measure, found in measures.items():
                heading = MEASURES[measure][0] if measure in MEASURES else measure
                cells = [name, arm, heading, str(len(found["seeds"])), str(found["from"]), str(found["to"])]
                lines.append(f"| {' | '.join([*cells, *table.words(found)])} |")
    return "\n".join(lines)


def _spread(found):
    return f"{found['mean']}" + ("" if found["deviation"] is None else f" ± {found['deviation']}")
