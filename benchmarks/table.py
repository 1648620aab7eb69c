"""Tabulates runs from their results.json: ICASC against cross-entropy over the same seeds.

  python benchmarks/table.py runs/*

Runs of the same config and objective form a row; seeds that both methods have are used. The difference is paired by
seed, with the 95 % interval of Student's t. The last line is JSON: a list of rows with
`metric`, `cross_entropy`, `icasc`, `difference`, `low`, `high` (in points), `seeds`, ... The metric is the accuracy (or
mAP) on the test split after the last epoch.
"""

import dataclasses
import json
import pathlib
import sys

import numpy as np
from scipy import stats

_ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))  # makes `sfocus_tf` importable from a script

from sfocus_tf.losses import OBJECTIVES

PAPER = {"cifar100": 3.33, "caltech256": 1.64, "ilsvrc2012": 0.92, "cub200": 4.8, "voc2012": 5.73}


def paired(first, second):
    """Mean of `second - first`, with the 95 % interval of Student's t (`None` for a single pair)."""
    differences = np.subtract(second, first)
    mean = float(differences.mean())
    if len(differences) < 2:
        return mean, None, None
    half = float(stats.sem(differences) * stats.t.ppf(0.975, len(differences) - 1))
    return mean, mean - half, mean + half


def words(difference):
    """Formats a paired difference and its interval, in points."""
    interval = "one seed" if difference["low"] is None else f"{difference['low']:+.2f} to {difference['high']:+.2f}"
    return f"{difference['difference']:+.2f}", interval


def read(folders):
    """Reads the finished runs in these folders."""
    for folder in map(pathlib.Path, folders):
        file = folder / "results.json"
        if not file.is_file():
            print(f"skipped, no results.json: {folder}", file=sys.stderr)
            continue
        run = json.loads(file.read_text())
        if "objective" not in run:
            print(f"skipped, a run of version 0.1: {folder}", file=sys.stderr)
            continue
        run["metric"] = "mAP" if "mAP" in run["test"] else "accuracy"
        if run["test"][run["metric"]] is None:
            print(f"skipped, its {run['metric']} is undefined: {folder}", file=sys.stderr)
            continue
        yield run


def settings(run, besides):
    """A run's config as text, without the settings in `besides`, which may differ within a row."""
    return json.dumps({key: value for key, value in run["config"].items() if key not in besides}, sort_keys=True)


def rows(folders):
    """A row for each ICASC setting that has cross-entropy runs of the same recipe and seeds."""
    runs = list(read(folders))
    alike = ("method", "seed", "data_dir", "attention_images_every", "check_images")
    plain, ours = {}, {}
    for run in runs:
        recipe = settings(run, (*alike, "objective"))
        ours_key = (recipe, settings(run, alike), json.dumps(run.get("objective"), sort_keys=True))
        key, group = (recipe, plain) if run["method"] == "cross_entropy" else (ours_key, ours)
        group.setdefault(key, {})[run["seed"]] = run
    result = []
    for (recipe, *_), by_seed in ours.items():
        seeds = sorted(by_seed.keys() & plain.get(recipe, {}).keys())
        first_run = next(iter(by_seed.values()))
        if not seeds:
            print(f"skipped, no seed has both methods: {first_run['dataset']}", file=sys.stderr)
            continue
        metric, config = first_run["metric"], first_run["config"]
        first, second = ([100 * runs[seed]["test"][metric] for seed in seeds] for runs in (plain[recipe], by_seed))
        mean, low, high = paired(first, second)
        row = {"dataset": first_run["dataset"], "backbone": first_run["backbone"]}
        row |= {"objective": config["objective"]["name"], "settings": first_run["objective"]}
        row |= {"image_size": config["image_size"], "epochs": first_run["epochs"]}
        row |= {"train": first_run["examples"]["train"], "metric": metric}
        row |= {"cross_entropy": float(np.mean(first)), "icasc": float(np.mean(second))}
        row |= {"spread": [float(np.std(values, ddof=1)) if len(seeds) > 1 else None for values in (first, second)]}
        row |= {"difference": mean, "low": low, "high": high, "seeds": seeds, "paper": PAPER.get(first_run["dataset"])}
        result.append(row)
    return result


def objective_in_words(row):
    """The objective's name, and the settings that differ from its current definition."""
    current = flat(dataclasses.asdict(OBJECTIVES[row["objective"]]))
    changed = [f"{key}={value}" for key, value in flat(row["settings"]).items() if current.get(key) != value]
    return ", ".join([row["objective"], *changed])


def flat(settings, prefix=""):
    """Flattens nested settings to dotted names, such as `last.weight`."""
    result = {}
    for key, value in settings.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return result


def markdown(table_rows):
    """Formats the rows as a table."""

    def number(value, sign=""):
        return "-" if value is None else f"{value:{sign}.2f}"

    lines = [
        "| data | network | objective | metric | seeds | cross-entropy | ICASC | difference | 95 % interval | paper |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    for row in table_rows:
        plain, ours = (
            f"{row[name]:.2f} ± {number(spread)}"
            for name, spread in zip(("cross_entropy", "icasc"), row["spread"], strict=True)
        )
        cells = [f"{row['dataset']}, {row['train']:,} to train", row["backbone"], objective_in_words(row)]
        cells += [row["metric"], str(len(row["seeds"]))]
        cells += [plain, ours, *words(row), number(row["paper"], "+")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(folders):
    if not folders:
        sys.exit(__doc__)
    table_rows = rows(folders)
    if not table_rows:
        sys.exit("no pair of finished runs: expected workdirs of train.py, with both methods for a seed.")
    print(markdown(table_rows))
    print(json.dumps(table_rows))


if __name__ == "__main__":
    main(sys.argv[1:])
