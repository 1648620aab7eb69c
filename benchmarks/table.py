"""The table of several runs: cross-entropy against ICASC over the same seeds, from their results.json.

  python benchmarks/table.py runs/*

Runs of the same data set, network, picture size and number of epochs form a row; a seed counts where both methods have
it. The difference is paired by seed, with the 95 % interval of Student's t. The last line is JSON: a list of rows with
`metric`, `cross_entropy`, `icasc`, `difference`, `low`, `high` (in points), `seeds`, ... The metric is the accuracy (or
mAP) on the test split after the last epoch.
"""

import json
import pathlib
import sys

import numpy as np
from scipy import stats

PAPER = {"cifar100": 3.33, "caltech256": 1.64, "ilsvrc2012": 0.92, "cub200": 4.8, "voc2012": 5.73}


def paired(first, second):
    """Mean difference of two lists, with the 95 % interval of Student's t (without, for a single pair)."""
    differences = np.subtract(second, first)
    mean = float(differences.mean())
    if len(differences) < 2:
        return mean, None, None
    half = float(stats.sem(differences) * stats.t.ppf(0.975, len(differences) - 1))
    return mean, mean - half, mean + half


def rows(folders):
    """The finished runs in these folders, grouped."""
    groups = {}
    for folder in map(pathlib.Path, folders):
        file = folder / "results.json"
        if not file.is_file():
            print(f"left out, no results.json: {folder}", file=sys.stderr)
            continue
        run = json.loads(file.read_text())
        config = run["config"]
        key = (run["dataset"], run["backbone"], config["image_size"], run["epochs"], run["examples"]["train"])
        metric = "mAP" if "mAP" in run["test"] else "accuracy"
        groups.setdefault((*key, metric), {}).setdefault(run["method"], {})[run["seed"]] = 100 * run["test"][metric]
    result = []
    for (dataset, backbone, size, epochs, pictures, metric), methods in sorted(groups.items(), key=str):
        plain, ours = methods.get("cross_entropy", {}), methods.get("icasc", {})
        seeds = sorted(plain.keys() & ours.keys())
        if not seeds:
            print(f"left out, no seed has both methods: {dataset}, {backbone}", file=sys.stderr)
            continue
        first, second = ([values[seed] for seed in seeds] for values in (plain, ours))
        mean, low, high = paired(first, second)
        row = {"dataset": dataset, "backbone": backbone, "image_size": size, "epochs": epochs, "train": pictures}
        row |= {"metric": metric, "cross_entropy": float(np.mean(first)), "icasc": float(np.mean(second))}
        row |= {"spread": [float(np.std(values, ddof=1)) if len(seeds) > 1 else None for values in (first, second)]}
        row |= {"difference": mean, "low": low, "high": high, "seeds": seeds, "paper": PAPER.get(dataset)}
        result.append(row)
    return result


def markdown(found):
    """The rows as a table."""

    def number(value, sign=""):
        return "-" if value is None else f"{value:{sign}.2f}"

    lines = ["| data | network | metric | seeds | cross-entropy | ICASC | difference | 95 % interval | paper |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for row in found:
        plain, ours = (
            f"{row[name]:.2f} ± {number(spread)}"
            for name, spread in zip(("cross_entropy", "icasc"), row["spread"], strict=True)
        )
        interval = "one seed" if row["low"] is None else f"{row['low']:+.2f} to {row['high']:+.2f}"
        cells = [f"{row['dataset']}, {row['train']:,} to train", row["backbone"], row["metric"], str(len(row["seeds"]))]
        cells += [plain, ours, f"{row['difference']:+.2f}", interval, number(row["paper"], "+")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(folders):
    if not folders:
        sys.exit(__doc__)
    found = rows(folders)
    if not found:
        sys.exit("no pair of finished runs: expected workdirs of train.py, with both methods for a seed.")
    print(markdown(found))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
