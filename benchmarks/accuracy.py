"""Does attention supervision help? Compares ICASC with cross-entropy over the same seeds, experiment by experiment.

  python benchmarks/accuracy.py cub200 --data_dir=<folder>     runs what is missing and prints the table
  python benchmarks/accuracy.py --summary                      prints the table of all stored runs
  python benchmarks/accuracy.py --summary --plot=docs/accuracy.png         plots it too
  python benchmarks/accuracy.py --summary --archive            the removed forms of separation

train.py runs three arms for each seed with the config of the data set: cross-entropy, ICASC, and cross-entropy for as
many epochs as fit in the time of ICASC, if that is more (control). --step_ratio is the time of an ICASC step over one
of cross-entropy; wall times of whole runs would depend on the machine's load. All arms share initial weights, data
order and recipe, use all training images, and test the network after the last epoch. --arms selects from these and
from ABLATIONS, which isolate the effect of each part. An interrupted run resumes, and a finished one is stored in
benchmarks/results/<experiment>/<arm>-<seed>.json. Cross-entropy and ICASC runs also get insertion and deletion, and the
overlap and pointing game of relative maps, which are invariant to a constant added to all scores. On two cores, two
single-threaded runs at a time are fastest. The last line is JSON: for each experiment the means over the seeds that
cross-entropy and ICASC share, and the paired difference with the 95 % interval of Student's t, in points (hundredths
for the log-loss); under `others`, the same for each ablation.
"""

import concurrent.futures
import dataclasses
import functools
import json
import operator
import os
import pathlib
import shutil
import subprocess
import sys

import matplotlib
import numpy as np
from absl import app, flags
from matplotlib import pyplot

_ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))  # makes `benchmarks` importable from a script

from benchmarks import table
from benchmarks.experiments import (
    ABLATIONS,
    ARMS,
    EXPERIMENTS,
    IMAGES_A_CLASS,
    PLAIN,
    REMOVED,
    TINY_FLAGS,
    few_a_class,
)
from sfocus_tf.losses import objective
from sfocus_tf.training import checkpoints

matplotlib.use("Agg")

_SEEDS = flags.DEFINE_integer("seeds", 5, "Seeds to run, from 0 on.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder with cifar10, VOCdevkit or CUB_200_2011 in it.")
_RUNS = flags.DEFINE_string("runs", "runs/accuracy", "Folder of the workdirs.")
_RESULTS = flags.DEFINE_string("results", str(_ROOT / "benchmarks" / "results"), "Folder of the finished runs.")
_SUMMARY = flags.DEFINE_bool("summary", False, "Only summarise stored runs.")
_ARCHIVE = flags.DEFINE_bool("archive", False, "With --summary: runs of forms removed from the package.")
_PLOT = flags.DEFINE_string("plot", None, "File for a plot of the differences, seed by seed.")
_STEP_RATIO = flags.DEFINE_float(
    "step_ratio", 1.02, "Time of an ICASC step over one of cross-entropy, as measured by benchmarks/train_step.py."
)
_TINY = flags.DEFINE_bool("tiny", False, "Run one epoch on a few images, as a check of the setup.")
_PARALLEL = flags.DEFINE_integer("parallel", 2, "Number of single-threaded runs at a time.")
_ARMS = flags.DEFINE_list("arms", list(ARMS), f"Arms to run: any of {', '.join((*ARMS, *ABLATIONS))}.")
# Metrics that `python -m sfocus_tf evaluate` adds with a flag: our name -> its name.
MEASURES = {
    "--faithfulness": {"insertion": "insertion", "deletion": "deletion"},
    "--of=relative": {"relative_overlap": "overlap_last", "relative_pointing": "pointing_last"},
}
BESIDES = ("log_loss", *(name for names in MEASURES.values() for name in names))  # also compared


def settings(experiment):
    """The flags of train.py that define an experiment."""
    return (*EXPERIMENTS[experiment], *(TINY_FLAGS if _TINY.value else ()))


def arguments(experiment, arm, seed, workdir, epochs):
    """The flags of train.py for one run."""
    run_flags = [*settings(experiment), f"--seed={seed}", f"--workdir={workdir}", "--config.validation_fraction=0"]
    run_flags += ["--config.attention_images_every=0"]
    run_flags += ["--method=cross_entropy"] if arm in PLAIN else []
    run_flags += objective_flags(ABLATIONS.get(arm, {}))
    if _DATA_DIR.value and experiment != "scenes":
        folder = pathlib.Path(_DATA_DIR.value).resolve()
        folder = folder / "cifar10" if experiment.startswith("cifar10") else folder
        count = IMAGES_A_CLASS.get(experiment)
        run_flags.append(f"--data_dir={few_a_class(folder, count) if count else folder}")
    return run_flags + ([f"--epochs={epochs}"] if epochs else [])


def objective_flags(changes, prefix="--config.objective"):
    """The flags of train.py for keyword arguments of `sfocus_tf.objective`."""
    result = []
    for key, value in changes.items():
        name = f"{prefix}.{key}"
        result += objective_flags(value, name) if isinstance(value, dict) else [f"{name}={value}"]
    return result


def stored(experiment, arm, seed):
    return pathlib.Path(_RESULTS.value, experiment, f"{arm}-{seed}.json")


def run(experiment, arm, seed, epochs=None):
    """Trains one run unless its results are stored, and stores them."""
    results = stored(experiment, arm, seed)
    workdir = pathlib.Path(_RUNS.value, experiment, f"{arm}-{seed}").resolve()
    if not results.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        alone(str(_ROOT / "train.py"), *arguments(experiment, arm, seed, workdir, epochs))
        results.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(workdir / "results.json", results)
        print(f"{experiment} {arm} {seed}: trained", flush=True)
    if arm in ARMS[:2]:
        add_measures(results, workdir)


def add_measures(results, workdir):
    """Adds the metrics in MEASURES to stored results that lack them, if the network of that run still exists."""
    run_results = json.loads(results.read_text())
    if not (workdir / "results.json").exists():
        return
    if json.loads((workdir / "results.json").read_text())["seconds"] != run_results["seconds"]:  # another run
        return
    for flag, names in MEASURES.items():
        several = flag == "--of=relative" and "mAP" in run_results["test"]  # sigmoids are not invariant to a constant
        if several or names.keys() & run_results["test"].keys():
            continue
        output = workdir / "evaluation.json"
        alone("-m", "sfocus_tf", "evaluate", str(workdir / "last.keras"), flag, f"--output={output}")
        measured = json.loads(output.read_text())["summary"]
        run_results["test"] |= {name: measured[key] for name, key in names.items() if key in measured}
        checkpoints.write_text(results, json.dumps(run_results, indent=2) + "\n")
        print(f"{results.parent.name} {results.stem}: {', '.join(names)} measured", flush=True)


def alone(*command):
    """Runs Python on one thread."""
    threads = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command, environment = [sys.executable, *command], os.environ | threads
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with exit code {done.returncode}:\n{done.stderr[-2000:]}")


def run_seed(experiment, seed):
    """Runs all arms of a seed."""
    for arm in _ARMS.value:
        if arm != "control":
            run(experiment, arm, seed)
    if "control" in _ARMS.value:
        plain = json.loads(stored(experiment, "cross_entropy", seed).read_text())
        epochs = round(plain["epochs"] * _STEP_RATIO.value)
        if epochs > plain["epochs"]:
            run(experiment, "control", seed, epochs)
        else:  # the same length as cross-entropy, so the same run
            shutil.copyfile(stored(experiment, "cross_entropy", seed), stored(experiment, "control", seed))


def objective_of(arm):
    """The objective of an arm in the form of results.json; `None` for cross-entropy."""
    return None if arm in PLAIN else dataclasses.asdict(objective(**ABLATIONS.get(arm, {})))


def foreign(experiment, arm, results):
    """Why a finished run does not match the current experiment and arm; `None` if it does."""
    if arm not in REMOVED and results.get("objective") != objective_of(arm):
        return f"its objective, {results.get('objective')}, is not what {arm} stands for now, {objective_of(arm)}"
    expected = dict(flag.removeprefix("--").removeprefix("config.").split("=") for flag in settings(experiment))
    if arm == "control":  # as long as ICASC takes
        expected.pop("epochs", None)
    for name, value in expected.items():
        had = functools.reduce(operator.getitem, name.split("."), results["config"])
        if had is None or type(had)(value) != had:
            return f"it was run with {name}={had}, {experiment} now has {value}"
    return None


def stored_runs(experiment, arms=(*ARMS, *ABLATIONS), folder=""):
    """Results of the finished runs, by arm and seed; exits on a run with other settings, such as former defaults."""
    runs = {arm: {} for arm in arms}
    for path in pathlib.Path(_RESULTS.value, folder, experiment).glob("*.json"):
        arm, _, seed = path.stem.rpartition("-")
        results = json.loads(path.read_text())
        results["test"]["log_loss"] = results["test_loss"]
        runs[arm][int(seed)] = results
        if why := foreign(experiment, arm, results):
            sys.exit(f"{path}: {why}. Remove it, and its workdir.")
    return runs


def compared(plain, ours, metric):
    """The paired difference over the shared seeds, in points, with its interval."""
    seeds = sorted(plain.keys() & ours.keys())
    values = [[runs[seed]["test"][metric] for seed in seeds] for runs in (plain, ours)]
    result = {key: None if value is None else round(100 * value, 2)
             for key, value in zip(("difference", "low", "high"), table.paired(*values), strict=True)}  # fmt: skip
    return result | {"seeds": len(seeds)}


def metric_of(by_seed):
    """The standard metric for the data of these runs."""
    return "mAP" if "mAP" in next(iter(by_seed.values()))["test"] else "accuracy"


def archive(experiment):
    """The paired difference to cross-entropy of each removed form with stored runs, in points."""
    plain = stored_runs(experiment)["cross_entropy"]
    removed = stored_runs(experiment, REMOVED, "archive")
    available = {arm: by_seed for arm, by_seed in removed.items() if by_seed.keys() & plain.keys()}
    return {arm: compared(plain, by_seed, metric_of(by_seed)) for arm, by_seed in available.items()}


def summary(experiment):
    """Summarises the stored runs, in points; `None` if there are none."""
    runs = stored_runs(experiment)
    seeds = sorted(runs["cross_entropy"].keys() & runs["icasc"].keys())
    if not seeds:
        return None

    def values(arm, key):
        return [runs[arm][seed]["test"].get(key) for seed in seeds if seed in runs[arm]]

    def points(arm, key):
        shares = values(arm, key)
        return None if None in shares or len(shares) < len(seeds) else round(100 * float(np.mean(shares)), 2)

    metric = metric_of(runs["icasc"])
    result = {"metric": metric, "cross_entropy": points("cross_entropy", metric), "icasc": points("icasc", metric)}
    result |= compared(*({seed: runs[arm][seed] for seed in seeds} for arm in ARMS[:2]), metric)
    result |= {"control": points("control", metric)}
    for name, key in (("overlap", "overlap_last"), ("pointing", "pointing_last")):
        result |= {f"{name}_{arm}": points(arm, key) for arm in ("cross_entropy", "icasc")}
    for arm in ARMS[:2]:
        result[f"seconds_{arm}"] = round(float(np.mean([runs[arm][seed]["seconds"] for seed in seeds])), 1)
        spread = [100 * value for value in values(arm, metric)]
        result[f"deviation_{arm}"] = round(float(np.std(spread, ddof=1)), 2) if len(seeds) > 1 else None
    others = {arm: runs[arm] for arm in ABLATIONS if runs[arm].keys() & runs["cross_entropy"].keys()}
    result["others"] = {arm: compared(runs["cross_entropy"], by_seed, metric) for arm, by_seed in others.items()}
    for key in BESIDES:
        measured = [{seed: run for seed, run in runs[arm].items() if key in run["test"]} for arm in ARMS[:2]]
        result[key] = compared(*measured, key) if measured[0].keys() & measured[1].keys() else None
    if runs["every_4"].keys() & runs["icasc"].keys():
        result["every_4_over_icasc"] = compared(runs["icasc"], runs["every_4"], metric)
    return result


def markdown(summaries):
    """Formats the summaries as a table, with a line for each ablation."""
    columns = "experiment | metric | seeds | cross-entropy | ICASC | difference | 95 % interval | control | overlap"
    lines = [f"| {columns} | pointing game |", "|---|---|---|---|---|---|---|---|---|---|"]
    ablations = []
    for name, row in summaries.items():
        if row is None:
            continue
        spreads = ["" if row[f"deviation_{arm}"] is None else f" ± {row[f'deviation_{arm}']}" for arm in ARMS[:2]]
        means = [f"{row[arm]}{spread}" for arm, spread in zip(ARMS[:2], spreads, strict=True)]
        cells = [name, row["metric"], str(row["seeds"]), *means, *table.words(row)]
        cells += ["not run" if row["control"] is None else str(row["control"])]
        pairs = [[row[f"{key}_{arm}"] for arm in ARMS[:2]] for key in ("overlap", "pointing")]
        cells += ["no boxes or masks" if None in pair else f"{pair[0]} to {pair[1]}" for pair in pairs]
        lines.append(f"| {' | '.join(cells)} |")
        others = {f"{arm} against cross_entropy": other for arm, other in row["others"].items()}
        if "every_4_over_icasc" in row:
            others["every_4 against icasc"] = row["every_4_over_icasc"]
        others |= {f"{key} of icasc against cross_entropy": row[key] for key in BESIDES if row[key]}
        ablations += [line(name, what, other) for what, other in others.items()]
    return "\n".join([*lines, *ablations])


def line(experiment, what, difference):
    """Formats a paired difference as a line of text."""
    seeds = f"; {difference['seeds']} seeds" if difference["seeds"] > 1 else ""
    return f"{experiment}, {what}: {' ('.join(table.words(difference))}{seeds})"


def plot(names, file):
    """Plots the difference to cross-entropy of ICASC and the control: a dot per seed, and the mean with interval."""
    figure, axes = pyplot.subplots(figsize=(7, 1 + 0.9 * len(names)), layout="constrained")
    labels = []
    for name in names:
        runs, metric = stored_runs(name), summary(name)["metric"]
        for arm, color in (("icasc", "tab:blue"), ("control", "tab:gray")):
            seeds = sorted(runs["cross_entropy"].keys() & runs[arm].keys())
            if arm == "control":  # of equal length, the control is the cross-entropy run itself
                seeds = [seed for seed in seeds if runs[arm][seed]["epochs"] > runs["cross_entropy"][seed]["epochs"]]
            if not seeds:
                continue
            values = [100 * (runs[arm][seed]["test"][metric] - runs["cross_entropy"][seed]["test"][metric])
                      for seed in seeds]  # fmt: skip
            mean, low, high = table.paired(np.zeros(len(values)), values)
            row = -len(labels)
            axes.plot(values, [row] * len(values), "o", color=color, alpha=0.4)
            axes.errorbar(mean, row, xerr=None if low is None else [[mean - low], [high - mean]], fmt="d", color=color)
            labels.append(f"{name} ({metric})\n{'ICASC' if arm == 'icasc' else 'cross-entropy, equal time'}")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks([-row for row in range(len(labels))], labels)
    axes.set_xlabel("points over cross-entropy (dots: seeds; bars: 95 % intervals)")
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def main(arguments_):
    names = arguments_[1:] or ([] if not _SUMMARY.value else list(EXPERIMENTS))
    unknown = [name for name in names if name not in EXPERIMENTS]
    if unknown or not names:
        sys.exit(f"expected experiments of {', '.join(EXPERIMENTS)}, or --summary; got {' '.join(unknown) or 'none'}.")
    if not set(_ARMS.value) <= {*ARMS, *ABLATIONS}:
        sys.exit(f"--arms={','.join(_ARMS.value)}: expected some of {', '.join((*ARMS, *ABLATIONS))}.")
    if "control" in _ARMS.value and "cross_entropy" not in _ARMS.value:
        sys.exit("--arms: control needs cross_entropy too, which determines its length.")
    if _TINY.value and not flags.FLAGS["results"].present:
        sys.exit("--tiny: expected --results=<folder>, to keep its runs apart from the real ones.")
    if _ARCHIVE.value and not _SUMMARY.value:
        sys.exit("--archive: expected --summary too, since removed forms cannot be run.")
    for name in names:
        stored_runs(name)  # rejects mismatched runs before starting any
    if not _SUMMARY.value:
        with concurrent.futures.ThreadPoolExecutor(_PARALLEL.value) as pool:
            for name in names:
                list(pool.map(lambda seed, name=name: run_seed(name, seed), range(_SEEDS.value)))
    if _ARCHIVE.value:
        archived = {name: others for name in names if (others := archive(name))}
        for name, others in archived.items():
            for arm, difference in others.items():
                print(line(name, f"{arm} against cross_entropy", difference))
        print(json.dumps(archived))
        return
    summaries = {name: summary(name) for name in names}
    print(markdown(summaries))
    if _PLOT.value:
        plot([name for name, row in summaries.items() if row is not None], _PLOT.value)
    print(json.dumps({name: row for name, row in summaries.items() if row is not None}))


if __name__ == "__main__":
    app.run(main)
