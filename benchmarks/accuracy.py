"""Does attention supervision gain? Cross-entropy against ICASC over the same seeds, on the pictures of one experiment.

  python benchmarks/accuracy.py cub200 --data_dir=<folder>     runs what is missing, and prints the table
  python benchmarks/accuracy.py --summary                      the table of all stored runs, nothing is run
  python benchmarks/accuracy.py --summary --plot=docs/accuracy.png         and a plot of it
  python benchmarks/accuracy.py --summary --archive            the forms of separation that were removed

Each seed is run three times by train.py with the config of the data set: by cross-entropy, by ICASC, and by
cross-entropy with as many epochs as take the time of ICASC, where these are more (control; how much longer a step takes
is --step_ratio, as wall times of whole runs tell of the machine's load). All have the same initial weights, data order
and recipe; all training pictures are used, and the network after the last epoch is tested. --arms chooses, of these and
of ABLATIONS, which show what each part does. An interrupted run goes on where it stopped, and a finished one is kept in
benchmarks/results/<experiment>/<arm>-<seed>.json, of cross-entropy and ICASC with insertion and deletion, and with
overlap and pointing game of relative maps, which what changes no answer cannot change. Two runs at a time, of one
thread each, use two cores best. The last line is JSON: for each experiment the means over the seeds that cross-entropy
and ICASC have, and the paired difference with the 95 % interval of Student's t, in points (hundredths, where it is of
the log-loss); under `others` the same of each ablation.
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
sys.path.insert(0, str(_ROOT))  # for this folder, as a script

from benchmarks import table
from benchmarks.experiments import (
    ABLATIONS,
    ARMS,
    EXPERIMENTS,
    PICTURES_A_CLASS,
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
_RUNS = flags.DEFINE_string("runs", "runs/accuracy", "Where the workdirs are.")
_RESULTS = flags.DEFINE_string("results", str(_ROOT / "benchmarks" / "results"), "Where finished runs are kept.")
_SUMMARY = flags.DEFINE_bool("summary", False, "Run nothing.")
_ARCHIVE = flags.DEFINE_bool("archive", False, "With --summary: the stored runs of what was removed from the package.")
_PLOT = flags.DEFINE_string("plot", None, "File for a picture of the differences, seed by seed.")
_STEP_RATIO = flags.DEFINE_float(
    "step_ratio", 1.02, "A step of ICASC over one of cross-entropy, as benchmarks/train_step.py measures it in turns."
)
_TINY = flags.DEFINE_bool("tiny", False, "An epoch on a few pictures, to see that all is in place.")
_PARALLEL = flags.DEFINE_integer("parallel", 2, "Runs at a time, of one thread each.")
_ARMS = flags.DEFINE_list("arms", list(ARMS), f"Which to run: of {', '.join((*ARMS, *ABLATIONS))}.")
# What `python -m sfocus_tf evaluate` measures with a flag, by the names that it has here and there.
MEASURES = {
    "--faithfulness": {"insertion": "insertion", "deletion": "deletion"},
    "--of=relative": {"relative_overlap": "overlap_last", "relative_pointing": "pointing_last"},
}
BESIDES = ("log_loss", *(name for names in MEASURES.values() for name in names))  # compared, too


def settings(experiment):
    """The flags of train.py that make an experiment what it is."""
    return (*EXPERIMENTS[experiment], *(TINY_FLAGS if _TINY.value else ()))


def arguments(experiment, arm, seed, workdir, epochs):
    """Flags of train.py."""
    given = [*settings(experiment), f"--seed={seed}", f"--workdir={workdir}", "--config.validation_fraction=0"]
    given += ["--config.attention_images_every=0"]
    given += ["--method=cross_entropy"] if arm in PLAIN else []
    given += objective_flags(ABLATIONS.get(arm, {}))
    if _DATA_DIR.value and experiment != "scenes":
        folder = pathlib.Path(_DATA_DIR.value).resolve()
        folder = folder / "cifar10" if experiment.startswith("cifar10") else folder
        count = PICTURES_A_CLASS.get(experiment)
        given.append(f"--data_dir={few_a_class(folder, count) if count else folder}")
    return given + ([f"--epochs={epochs}"] if epochs else [])


def objective_flags(changes, prefix="--config.objective"):
    """Flags of train.py for keyword arguments of `sfocus_tf.objective`."""
    given = []
    for key, value in changes.items():
        name = f"{prefix}.{key}"
        given += objective_flags(value, name) if isinstance(value, dict) else [f"{name}={value}"]
    return given


def stored(experiment, arm, seed):
    return pathlib.Path(_RESULTS.value, experiment, f"{arm}-{seed}.json")


def run(experiment, arm, seed, epochs=None):
    """Trains, if that was not done before, and keeps the results."""
    kept = stored(experiment, arm, seed)
    workdir = pathlib.Path(_RUNS.value, experiment, f"{arm}-{seed}").resolve()
    if not kept.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        alone(str(_ROOT / "train.py"), *arguments(experiment, arm, seed, workdir, epochs))
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(workdir / "results.json", kept)
        print(f"{experiment} {arm} {seed}: trained", flush=True)
    if arm in ARMS[:2]:
        add_measures(kept, workdir)


def add_measures(kept, workdir):
    """Measures what is in MEASURES too, if that was not done before and the network of that run is still there."""
    found = json.loads(kept.read_text())
    if not (workdir / "results.json").exists():
        return
    if json.loads((workdir / "results.json").read_text())["seconds"] != found["seconds"]:  # another run
        return
    for flag, names in MEASURES.items():
        several = flag == "--of=relative" and "mAP" in found["test"]  # sigmoids do notice what is added to all scores
        if several or names.keys() & found["test"].keys():
            continue
        output = workdir / "evaluation.json"
        alone("-m", "sfocus_tf", "evaluate", str(workdir / "last.keras"), flag, f"--output={output}")
        measured = json.loads(output.read_text())["summary"]
        found["test"] |= {name: measured[key] for name, key in names.items() if key in measured}
        checkpoints.write_text(kept, json.dumps(found, indent=2) + "\n")
        print(f"{kept.parent.name} {kept.stem}: {', '.join(names)} measured", flush=True)


def alone(*command):
    """Runs Python with one thread."""
    threads = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command, environment = [sys.executable, *command], os.environ | threads
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with exit code {done.returncode}:\n{done.stderr[-2000:]}")


def run_seed(experiment, seed):
    """The runs of a seed."""
    for arm in _ARMS.value:
        if arm != "control":
            run(experiment, arm, seed)
    if "control" in _ARMS.value:
        plain = json.loads(stored(experiment, "cross_entropy", seed).read_text())
        epochs = round(plain["epochs"] * _STEP_RATIO.value)
        if epochs > plain["epochs"]:
            run(experiment, "control", seed, epochs)
        else:  # as long as cross-entropy, whose run it is then
            shutil.copyfile(stored(experiment, "cross_entropy", seed), stored(experiment, "control", seed))


def objective_of(arm):
    """The objective that an arm stands for, as results.json has it; `None` for cross-entropy."""
    return None if arm in PLAIN else dataclasses.asdict(objective(**ABLATIONS.get(arm, {})))


def foreign(experiment, arm, found):
    """Why a finished run is none of this experiment and arm as they are now, or `None`."""
    if arm not in REMOVED and found.get("objective") != objective_of(arm):
        return f"its objective, {found.get('objective')}, is not what {arm} stands for now, {objective_of(arm)}"
    expected = dict(flag.removeprefix("--").removeprefix("config.").split("=") for flag in settings(experiment))
    if arm == "control":  # as long as ICASC takes
        expected.pop("epochs", None)
    for name, value in expected.items():
        had = functools.reduce(operator.getitem, name.split("."), found["config"])
        if had is None or type(had)(value) != had:
            return f"it was run with {name}={had}, {experiment} has {value}"
    return None


def stored_runs(experiment, arms=(*ARMS, *ABLATIONS), folder=""):
    """Results of the finished runs, by arm and seed; one of other settings, as before a default changed, ends it."""
    runs = {arm: {} for arm in arms}
    for path in pathlib.Path(_RESULTS.value, folder, experiment).glob("*.json"):
        arm, _, seed = path.stem.rpartition("-")
        found = json.loads(path.read_text())
        found["test"]["log_loss"] = found["test_loss"]
        runs[arm][int(seed)] = found
        if why := foreign(experiment, arm, found):
            sys.exit(f"{path}: {why}. Remove it, and its workdir.")
    return runs


def compared(plain, ours, metric):
    """The paired difference over the seeds that both have, in points, with its interval."""
    seeds = sorted(plain.keys() & ours.keys())
    values = [[runs[seed]["test"][metric] for seed in seeds] for runs in (plain, ours)]
    found = {key: None if value is None else round(100 * value, 2)
             for key, value in zip(("difference", "low", "high"), table.paired(*values), strict=True)}  # fmt: skip
    return found | {"seeds": len(seeds)}


def metric_of(by_seed):
    """The name of the measure that the field reports for the data of these runs."""
    return "mAP" if "mAP" in next(iter(by_seed.values()))["test"] else "accuracy"


def archive(experiment):
    """Of each removed form with stored runs, its paired difference to cross-entropy, in points."""
    plain = stored_runs(experiment)["cross_entropy"]
    removed = stored_runs(experiment, REMOVED, "archive")
    having = {arm: by_seed for arm, by_seed in removed.items() if by_seed.keys() & plain.keys()}
    return {arm: compared(plain, by_seed, metric_of(by_seed)) for arm, by_seed in having.items()}


def summary(experiment):
    """What the stored runs say, in points; `None` where there are none."""
    runs = stored_runs(experiment)
    seeds = sorted(runs["cross_entropy"].keys() & runs["icasc"].keys())
    if not seeds:
        return None

    def values(arm, key):
        return [runs[arm][seed]["test"].get(key) for seed in seeds if seed in runs[arm]]

    def points(arm, key):
        found = values(arm, key)
        return None if None in found or len(found) < len(seeds) else round(100 * float(np.mean(found)), 2)

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
        having = [{seed: run for seed, run in runs[arm].items() if key in run["test"]} for arm in ARMS[:2]]
        result[key] = compared(*having, key) if having[0].keys() & having[1].keys() else None
    if runs["every_4"].keys() & runs["icasc"].keys():
        result["every_4_over_icasc"] = compared(runs["icasc"], runs["every_4"], metric)
    return result


def markdown(found):
    """The summaries as a table, and a line for each ablation."""
    columns = "experiment | metric | seeds | cross-entropy | ICASC | difference | 95 % interval | control | overlap"
    lines = [f"| {columns} | pointing game |", "|---|---|---|---|---|---|---|---|---|---|"]
    ablations = []
    for name, row in found.items():
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
    """A paired difference in words."""
    seeds = f"; {difference['seeds']} seeds" if difference["seeds"] > 1 else ""
    return f"{experiment}, {what}: {' ('.join(table.words(difference))}{seeds})"


def plot(names, file):
    """Each seed's difference to cross-entropy as a dot, and their mean with its interval, for ICASC and the control."""
    figure, axes = pyplot.subplots(figsize=(7, 1 + 0.9 * len(names)), layout="constrained")
    labels = []
    for name in names:
        runs, metric = stored_runs(name), summary(name)["metric"]
        for arm, color in (("icasc", "tab:blue"), ("control", "tab:gray")):
            seeds = sorted(runs["cross_entropy"].keys() & runs[arm].keys())
            if arm == "control":  # what is no longer is the run of cross-entropy itself
                seeds = [seed for seed in seeds if runs[arm][seed]["epochs"] > runs["cross_entropy"][seed]["epochs"]]
            if not seeds:
                continue
            values = [100 * (runs[arm][seed]["test"][metric] - runs["cross_entropy"][seed]["test"][metric])
                      for seed in seeds]  # fmt: skip
            mean, low, high = table.paired(np.zeros(len(values)), values)
            row = -len(labels)
            axes.plot(values, [row] * len(values), "o", color=color, alpha=0.4)
            axes.errorbar(mean, row, xerr=None if low is None else [[mean - low], [high - mean]], fmt="d", color=color)
            labels.append(f"{name} ({metric})\n{'ICASC' if arm == 'icasc' else 'cross-entropy, as long'}")
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
        sys.exit("--arms: control needs cross_entropy beside it, from whose length its own follows.")
    if _TINY.value and not flags.FLAGS["results"].present:
        sys.exit("--tiny: expected --results=<folder>, as its runs must not be kept among the real ones.")
    if _ARCHIVE.value and not _SUMMARY.value:
        sys.exit("--archive: expected --summary beside it, as what was removed cannot be run.")
    for name in names:
        stored_runs(name)  # refuses what does not belong together, before any run
    if not _SUMMARY.value:
        with concurrent.futures.ThreadPoolExecutor(_PARALLEL.value) as pool:
            for name in names:
                list(pool.map(lambda seed, name=name: run_seed(name, seed), range(_SEEDS.value)))
    if _ARCHIVE.value:
        found = {name: others for name in names if (others := archive(name))}
        for name, others in found.items():
            for arm, difference in others.items():
                print(line(name, f"{arm} against cross_entropy", difference))
        print(json.dumps(found))
        return
    found = {name: summary(name) for name in names}
    print(markdown(found))
    if _PLOT.value:
        plot([name for name, row in found.items() if row is not None], _PLOT.value)
    print(json.dumps({name: row for name, row in found.items() if row is not None}))


if __name__ == "__main__":
    app.run(main)
