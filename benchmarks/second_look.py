"""Does a second look at the attended region classify better than other looks of the same cost?

  python benchmarks/second_look.py --data_dir=<folder with CUB_200_2011>          runs what is missing, prints the table
  python benchmarks/second_look.py --summary                                      the table of the stored runs

Ten-fold cross-validation over all images. For each fold and seed, cross-entropy is trained on eight folds; the network
then looks at the images of the two others in every way below, and the probabilities of each look are stored in
benchmarks/results/second_look. The summary takes the 30 % of the images with
the smallest margin between the two best probabilities for a second look, averages both looks, and chooses region and
weight for each test fold by the images of the nine others, in networks that were not trained on them.

- one: the whole image, at several sizes.
- attention: the image, cropped to where a map of the last layer reaches a share of its maximum; of the predicted class,
  its rival, or their contrast, in relative maps; of the predicted class in the score's own maps and at the inner layer.
- central, random: a central crop; one as large as that of attention, anywhere.
- box: the annotated box, an upper bound.

The last line is JSON.
"""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
from absl import app, flags

_ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))  # makes `benchmarks` and `sfocus_tf` importable from a script
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks import choices, looks

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder with CUB_200_2011.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds.")
_RUNS = flags.DEFINE_string("runs", "runs/second_look", "Folder of the workdirs.")
_RESULTS = flags.DEFINE_string("results", str(_ROOT / "benchmarks" / "results" / "second_look"), "Folder of the looks.")
_PARALLEL = flags.DEFINE_integer("parallel", 2, "Number of single-threaded runs at a time.")
_SUMMARY = flags.DEFINE_bool("summary", False, "Only summarise the stored runs.")
_ONE = flags.DEFINE_list("one", None, "Fold and seed to run in this process; internal.")
FOLDS = 10


def folds(labels):
    """The fold of each image; every class is spread evenly."""
    random, fold = np.random.default_rng(0), np.zeros(len(labels), int)
    for label in np.unique(labels):
        where = random.permutation(np.flatnonzero(labels == label))
        fold[where] = (np.arange(len(where)) + random.integers(FOLDS)) % FOLDS
    return fold


def run(fold, seed):
    """Trains on eight folds and stores what every look at the two others says."""
    file = pathlib.Path(_RESULTS.value, f"{fold}-{seed}.npz")
    if file.exists():
        return
    images = looks.listing(_DATA_DIR.value)
    of_fold = folds(np.array([image.label for image in images]))
    workdir = pathlib.Path(_RUNS.value, f"{fold}-{seed}").resolve()
    held_out = {fold: "test", (fold + 1) % FOLDS: None}
    for image, part in zip(images, of_fold, strict=True):
        if name := held_out.get(int(part), "train"):
            link = workdir / "images" / name / image.path.parent.name / image.path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(image.path.resolve())
    command = (sys.executable, str(_ROOT / "train.py"), *looks.RECIPE, f"--seed={seed}")
    command += (f"--data_dir={workdir / 'images'}", f"--workdir={workdir / 'run'}")
    subprocess.run(command, check=True, cwd=_ROOT, stdout=subprocess.DEVNULL)
    chosen = np.flatnonzero(np.isin(of_fold, list(held_out)))
    found = looks.all_looks(workdir / "run", [images[index] for index in chosen], np.random.default_rng([seed, fold]))
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".new.npz")
    names, probabilities = list(found), np.stack(list(found.values())).astype(np.float16)
    labels = np.array([image.label for image in images], np.int16)
    arrays = {"labels": labels[chosen], "test": of_fold[chosen] == fold, "images": chosen.astype(np.int16)}
    np.savez_compressed(partial, names=names, probabilities=probabilities, **arrays)
    partial.rename(file)


def run_missing():
    """Runs every fold and seed that is missing, each on one thread in a process of its own; seed after seed."""
    threads = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    common = [f"--{name}={flags.FLAGS[name].value}" for name in ("data_dir", "runs", "results")]

    def one(fold, seed):
        command = [sys.executable, __file__, *common, f"--one={fold},{seed}"]
        subprocess.run(command, env=os.environ | threads, check=True)
        print(f"fold {fold}, seed {seed}: done", flush=True)

    with concurrent.futures.ThreadPoolExecutor(_PARALLEL.value) as pool:
        pairs = [(fold, seed) for seed in range(_SEEDS.value) for fold in range(FOLDS)]
        list(pool.map(lambda pair: one(*pair), pairs))


def main(_):
    if _ONE.value:
        run(*map(int, _ONE.value))
        return
    if not _SUMMARY.value:
        if not _DATA_DIR.value:
            raise app.UsageError("--data_dir: expected the folder with CUB_200_2011.")
        run_missing()
    found = choices.summary(pathlib.Path(_RESULTS.value), FOLDS)
    print(choices.markdown(found))
    print(json.dumps(found))


if __name__ == "__main__":
    app.run(main)
