"""Does attention supervision help? Compares the objectives with cross-entropy, seed by seed.

  python benchmarks/accuracy.py cub200 --data_dir=<folder>     runs what is missing and prints the tables
  python benchmarks/accuracy.py --summary                      the tables of all stored runs
  python benchmarks/accuracy.py --summary --plot=docs/effects.png          with a figure
  python benchmarks/accuracy.py --summary --archive            former recipes and objectives
  python benchmarks/accuracy.py cub200 --data_dir=<folder> --repeat        runs seed 0 again and compares it

Each run is one of train.py, with the recipe of benchmarks/experiments.py. All arms of a seed share initial weights,
data order and recipe, use all training images, and test the network after the last epoch. Runs are deterministic: on
the same machine they give the same bits again. A finished run is stored in
benchmarks/results/<experiment>/<arm>-<seed>.json, an interrupted one resumes.

Measured besides accuracy (mAP) and log-loss, by `python -m sfocus_tf evaluate`: what relative maps show (on data of
several labels those of the scores), and insertion and deletion on the first 100 test images. On two cores, two
single-threaded runs at a time are fastest. The last line is JSON: for each experiment cross-entropy by itself, and for
each arm the paired difference of every measure, in points (hundredths for the log-loss), with the 95 % interval of
Student's t.
"""

import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys

from absl import app, flags

_ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))  # makes `benchmarks` importable from a script

from benchmarks import effects, experiments, stored_runs
from sfocus_tf.training import checkpoints

_SEEDS = flags.DEFINE_integer("seeds", None, "Seeds to run, from 0 on; by default as many as the experiment has.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder with birds100, cifar10, VOCdevkit or CUB_200_2011 in it.")
_RUNS = flags.DEFINE_string("runs", "runs/accuracy", "Folder of the workdirs.")
_RESULTS = flags.DEFINE_string("results", str(stored_runs.RESULTS), "Folder of the finished runs.")
_SUMMARY = flags.DEFINE_bool("summary", False, "Only summarise stored runs.")
_ARCHIVE = flags.DEFINE_bool("archive", False, "With --summary: runs of former recipes and objectives.")
_PLOT = flags.DEFINE_string("plot", None, "File for a figure of what each arm changes.")
_REPEAT = flags.DEFINE_bool("repeat", False, "Run seed 0 of cross-entropy again, and compare it with the stored run.")
_TINY = flags.DEFINE_bool("tiny", False, "Run one epoch on a few images, as a check of the setup.")
_PARALLEL = flags.DEFINE_integer("parallel", 2, "Number of single-threaded runs at a time.")
_ARMS = flags.DEFINE_list("arms", ["cross_entropy", "default", "light"], f"Some of {', '.join(experiments.ARMS)}.")
_FAITHFULNESS_IMAGES = 100


def arguments(experiment, arm, seed, workdir):
    """The flags of train.py for one run."""
    data_dir = _DATA_DIR.value and pathlib.Path(_DATA_DIR.value)
    return [
        *experiments.settings(experiment, _TINY.value),
        *experiments.arm_flags(arm),
        *experiments.data_flags(experiment, data_dir),
        *(f"--seed={seed}", f"--workdir={workdir}", "--deterministic"),
        *("--config.validation_fraction=0", "--config.attention_images_every=0"),
    ]


def run(experiment, arm, seed, runs, results):
    """Trains and measures one run unless it is stored, and stores it; returns its results."""
    file = pathlib.Path(results, experiment, f"{arm}-{seed}.json")
    if not file.exists():
        workdir = pathlib.Path(runs, experiment, f"{arm}-{seed}").resolve()
        workdir.mkdir(parents=True, exist_ok=True)
        python(str(_ROOT / "train.py"), *arguments(experiment, arm, seed, workdir))
        finished = json.loads((workdir / "results.json").read_text())
        if finished["of"] != "score":
            finished["own"] = evaluated(workdir, "--of=score")
        few = evaluated(workdir, "--faithfulness", f"--examples={8 if _TINY.value else _FAITHFULNESS_IMAGES}")
        finished["measures"] = finished["test"] | {
            key: value for key, value in few.items() if key.endswith(("insertion", "deletion"))
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        checkpoints.write_text(file, json.dumps(finished, indent=2) + "\n")
        print(f"{experiment} {arm} {seed}: done", flush=True)
    return json.loads(file.read_text())


def evaluated(workdir, *flags_):
    """The summary of `python -m sfocus_tf evaluate` with these flags."""
    output = workdir / "evaluation.json"
    python("-m", "sfocus_tf", "evaluate", str(workdir), f"--output={output}", *flags_)
    return json.loads(output.read_text())["summary"]


def python(*command):
    """Runs Python on one thread."""
    threads = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command, environment = [sys.executable, *command], os.environ | threads
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with exit code {done.returncode}:\n{done.stderr[-2000:]}")


def repeated(experiment):
    """Runs seed 0 of cross-entropy again, elsewhere; what the stored run and this one found, and what differs."""
    before = stored_runs.read(experiment, _RESULTS.value, _TINY.value)["cross_entropy"].get(0)
    if before is None:
        sys.exit(f"--repeat: {experiment} has no stored run of cross-entropy with seed 0 in {_RESULTS.value}.")
    elsewhere = pathlib.Path(_RUNS.value, "repeated")  # an interrupted repetition goes on there
    again = run(experiment, "cross_entropy", 0, elsewhere, elsewhere / "results")
    shutil.rmtree(elsewhere)
    metric = stored_runs.metric_of(before)
    pairs = {
        name: [stored_runs.value_of(run, name) for run in (before, again)] for name in (metric, *stored_runs.MEASURES)
    }
    differing = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    return {"metric": metric, "stored": pairs[metric][0], "repeated": pairs[metric][1], "differing": differing}


def archive():
    """Cross-entropy's mean and every other arm against it, for each former experiment."""
    result = {}
    for folder in sorted(pathlib.Path(_RESULTS.value, "archive").iterdir()):
        found = stored_runs.summary(stored_runs.read_archive(folder.name, _RESULTS.value))
        if found:
            result[folder.name] = found
    return result


def main(arguments_):
    names = arguments_[1:] or (list(experiments.EXPERIMENTS) if _SUMMARY.value else [])
    unknown = [name for name in names if name not in experiments.EXPERIMENTS]
    if unknown or not names:
        expected = ", ".join(experiments.EXPERIMENTS)
        sys.exit(f"expected experiments of {expected}, or --summary; got {' '.join(unknown) or 'none'}.")
    if not set(_ARMS.value) <= experiments.ARMS.keys():
        sys.exit(f"--arms={','.join(_ARMS.value)}: expected some of {', '.join(experiments.ARMS)}.")
    if _TINY.value and not flags.FLAGS["results"].present:
        sys.exit("--tiny: expected --results=<folder>, to keep its runs apart from the real ones.")
    if _ARCHIVE.value and not _SUMMARY.value:
        sys.exit("--archive: expected --summary too, since former recipes are not run.")
    if _REPEAT.value:
        print(json.dumps({name: repeated(name) for name in names}))
        return
    for name in names:
        stored_runs.read(name, _RESULTS.value, _TINY.value)  # rejects mismatched runs before starting any
    if not _SUMMARY.value:
        train(names)
    if _ARCHIVE.value:
        summaries = archive()
    else:
        found = {name: stored_runs.summary(stored_runs.read(name, _RESULTS.value, _TINY.value)) for name in names}
        summaries = {name: row for name, row in found.items() if row is not None}
    print(stored_runs.markdown(summaries))
    if _PLOT.value:
        effects.plot(summaries, _PLOT.value)
    print(json.dumps(summaries))


def train(names):
    """Runs what is missing of these experiments, seed by seed, all arms of a seed one after another."""

    def arms_of(name, seed):
        for arm in _ARMS.value:
            run(name, arm, seed, _RUNS.value, _RESULTS.value)

    with concurrent.futures.ThreadPoolExecutor(_PARALLEL.value) as pool:
        for name in names:
            seeds = range(experiments.SEEDS[name] if _SEEDS.value is None else _SEEDS.value)
            list(pool.map(lambda seed, name=name: arms_of(name, seed), seeds))


if __name__ == "__main__":
    app.run(main)
