"""Kills and resumes train.py at random moments, and compares the result with that of an uninterrupted run.

  python benchmarks/faults.py                           one device, 30 kills, about 20 minutes on two cores
  python benchmarks/faults.py --workers=2 --epochs=80   two workers, of which one is killed each time

Every other kill waits until a checkpoint is being written. After each kill the last checkpoint is read in full. With
two workers, the survivor must exit by itself with code 69; if they had not connected yet, it waits, and only the killed
one is restarted. The last line is JSON: the kills and when they struck, the longest time a worker took to notice,
and whether the final weights are bit-identical to those of the uninterrupted run.
"""

import collections
import csv
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
import time
import zipfile

import keras
import numpy as np
from absl import app, flags

_ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))  # in case the package is not installed

import sfocus_tf  # noqa: F401 (registers the model)

_KILLS = flags.DEFINE_integer("kills", 30, "Number of kills.")
_WORKERS = flags.DEFINE_integer("workers", 1, "Number of worker processes.")
_EPOCHS = flags.DEFINE_integer("epochs", 240, "Length of the run; it must outlast the kills.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the random moments.")
_LONGEST_DELAY = 25.0  # most seconds from start to kill: from the imports to a few epochs later
_TRAIN = (
    "--dataset=scenes:tiny", "--config.image_size=16", "--config.examples=104", "--batch_size=4",
    "--deterministic", "--config.dropout=0.2", "--config.attention_images_every=0", "--config.validation_fraction=0",
)  # fmt: skip


class Run:
    """The processes of a run and their output."""

    def __init__(self, workdir):
        self.workdir = workdir
        for name in ("new.keras", "new_best.keras"):  # leftovers that look like a checkpoint being written
            (workdir / name).unlink(missing_ok=True)
        self.command = [sys.executable, str(_ROOT / "train.py"), f"--workdir={workdir}", f"--epochs={_EPOCHS.value}"]
        self.environments = [os.environ]
        if _WORKERS.value > 1:
            sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(_WORKERS.value)]
            hosts = [f"127.0.0.1:{server.getsockname()[1]}" for server in sockets]
            for server in sockets:
                server.close()
            tasks = [{"cluster": {"worker": hosts}, "task": {"type": "worker", "index": i}} for i in range(len(hosts))]
            self.environments = [os.environ | {"TF_CONFIG": json.dumps(task)} for task in tasks]
        self.output = workdir.with_name(f"{workdir.name}.txt")
        self.output.unlink(missing_ok=True)
        self.processes = [self.process(number) for number in range(len(self.environments))]

    def process(self, number):
        with open(self.output, "a") as file:
            return subprocess.Popen(
                [*self.command, *_TRAIN], cwd=_ROOT, env=self.environments[number],
                stdout=file, stderr=subprocess.DEVNULL,
            )  # fmt: skip

    def met(self):
        """Whether all workers have connected, after which the chief announces the start of training."""
        return "images per batch" in self.output.read_text()


def wait_for_moment(run, chance, in_checkpoint):
    """Waits for a random moment, or the next checkpoint write after it; returns whether the run is still going."""
    end = time.monotonic() + chance.uniform(0, _LONGEST_DELAY)
    while time.monotonic() < end or (in_checkpoint and not (run.workdir / "new.keras").exists()):
        if any(process.poll() is not None for process in run.processes):
            return False
        time.sleep(0.002)
    return True


def ended(processes, seconds):
    """Waits up to `seconds` for all processes to end; returns whether they did."""
    end = time.monotonic() + seconds
    while any(process.poll() is None for process in processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def kill_one(run, chance):
    """Kills one process; returns when it struck, and the seconds until the others ended (`None` if they wait)."""
    number = chance.randrange(len(run.processes))
    run.processes[number].kill()
    killed = time.monotonic()
    if not ended(run.processes, 20):
        if not run.met():
            run.processes[number] = run.process(number)
            return "while workers wait for each other", None
        if not ended(run.processes, 40):
            sys.exit("the other worker did not notice within a minute")
    seconds = time.monotonic() - killed
    codes = [process.returncode for process in run.processes]
    if sorted(codes) != [-9, *[69] * (len(codes) - 1)]:
        sys.exit(f"exit codes {codes}: expected 69 from the survivors")
    last = run.workdir / "last.keras"
    if not last.exists():
        return "before the first checkpoint", seconds
    with zipfile.ZipFile(last) as archive:
        if archive.testzip() is not None:
            sys.exit(f"{last} is damaged")
    return "in a checkpoint" if (run.workdir / "new.keras").exists() else "between checkpoints", seconds


def weights(workdir):
    return keras.models.load_model(workdir / "last.keras").get_weights()


def history(workdir):
    """The rows of history.csv without the times, which differ between any two runs."""
    with open(workdir / "history.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def finish(run):
    codes = [process.wait() for process in run.processes]
    if any(codes):
        sys.exit(f"exit codes {codes} of an uninterrupted run")


def main(_):
    chance = random.Random(_SEED.value)
    moments, noticed = collections.Counter(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        uninterrupted, killed = (pathlib.Path(folder, name) for name in ("whole", "disturbed"))
        finish(Run(uninterrupted))
        run = Run(killed)
        while sum(moments.values()) < _KILLS.value:
            if not wait_for_moment(run, chance, sum(moments.values()) % 2 == 1):
                sys.exit(f"the run ended by itself after {dict(moments)}: give it more epochs")
            moment, seconds = kill_one(run, chance)
            moments[moment] += 1
            print(f"kill {sum(moments.values())}: {moment}; all ended after {seconds} s", flush=True)
            if seconds is not None:
                noticed = max(noticed, seconds)
                run = Run(killed)
        finish(run)
        pairs = zip(weights(uninterrupted), weights(killed), strict=True)
        same = all(np.array_equal(one, other) for one, other in pairs)
        histories = [history(workdir) for workdir in (uninterrupted, killed)]
    result = {"workers": _WORKERS.value, "kills": sum(moments.values()), "moments": dict(moments)}
    result |= {"longest_seconds_to_notice": round(noticed, 1), "weights_identical": same}
    print(json.dumps(result | {"history_identical": histories[0] == histories[1], "epochs": len(histories[1])}))


if __name__ == "__main__":
    app.run(main)
