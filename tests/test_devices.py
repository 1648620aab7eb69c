"""Several replicas give what one gives: on logical devices, and as worker processes on the loopback address."""

import csv
import json
import os
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from sfocus_tf.training import checkpoints
from tests.conftest import ROOT
from tests.test_training import FILES


def python(module, *arguments, cluster=None):
    environment = os.environ | ({"TF_CONFIG": json.dumps(cluster)} if cluster else {})
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finished(processes, code=0):
    """What each of them printed."""
    all_printed = []
    for process in processes:
        printed, _ = process.communicate(timeout=1000)  # for one that hangs; a busy machine takes minutes
        assert process.returncode == code, printed[-3000:]
        all_printed.append(printed)
    return all_printed


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def clusters(workers):
    """TF_CONFIG of each."""
    hosts = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    return [{"cluster": {"worker": hosts}, "task": {"type": "worker", "index": n}} for n in range(workers)]


@pytest.fixture(scope="module")
def on_devices(tmp_path_factory):
    """Results of 3 logical devices and of 1."""
    folder = tmp_path_factory.mktemp("devices")
    finished([python("tests.replicated", str(folder), str(devices)) for devices in (3, 1)])
    return folder


def differences(one, other):
    """Those weights after 20 steps or more, scores, losses and metrics that differ, by how much.

    In double precision; Keras computes the moments of synchronised BatchNormalization in single.
    """
    with np.load(one) as mine, np.load(other) as theirs:
        assert mine.files == theirs.files and mine["values"].size > 20
        found = {key: np.abs(mine[key] - theirs[key]).max() for key in mine.files}
    return {key: value for key, value in found.items() if not value < 1e-6}


@pytest.mark.parametrize("kind", ["plain", "normalised"])
def test_logical_devices_equal_one(kind, on_devices):
    assert not differences(on_devices / f"{kind}-device1.npz", on_devices / f"{kind}-device3.npz")


def test_worker_processes_equal_one(on_devices, tmp_path):
    """Every worker ends with the same weights, and knows the metrics of the global batch."""
    finished([python("tests.replicated", str(tmp_path), cluster=cluster) for cluster in clusters(2)])
    results = list(tmp_path.glob("*.npz"))
    assert len(results) == 4
    for path in results:
        assert not differences(on_devices / f"{path.name.partition('-')[0]}-device1.npz", path)


def settings(workdir, *more):
    """Flags of a small run with normalisation, dropout and augmentation: 26 steps an epoch."""
    return (
        "--dataset=scenes:tiny", f"--workdir={workdir}", "--config.image_size=16", "--config.examples=104",
        "--batch_size=4", "--epochs=3", "--deterministic", "--config.dropout=0.2", "--config.validation_fraction=0",
        *more,
    )  # fmt: skip


def test_two_runs_on_two_devices_are_the_same_to_the_bit(tmp_path):
    folders = [tmp_path / "one", tmp_path / "other"]
    runs = [python("train", *settings(folder, "--devices=CPU:0,CPU:1", "--epochs=2")) for folder in folders]
    for printed in finished(runs):
        assert "2 replicas on 1 worker(s); 4 images per batch, 2 per replica; learning rate 0.005" in printed
    one, other = (keras.models.load_model(folder / "last.keras").get_weights() for folder in folders)
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_train_with_two_workers_stops_together_and_goes_on(tmp_path):
    """The second worker gets SIGTERM; both stop at the same step, saved once, and the same command finishes the run."""
    workdir = tmp_path / "run"
    flags = settings(workdir, "--method=cross_entropy", "--epochs=2")
    first, second = clusters(2)
    one = python("train", *flags, cluster=first)
    other = python("tests.faulty_train", "sigterm", "1", "2", *flags, cluster=second)
    for printed in finished([one, other], code=75):
        assert "saved after step 10 of epoch 2. Run the same command again" in printed
    assert checkpoints.position(workdir / "last.keras")[:2] == (1, 10)
    printed = finished([python("train", *flags, cluster=cluster) for cluster in clusters(2)])
    assert "accuracy" in printed[0] and "accuracy" not in printed[1], "the chief alone reports"
    assert {path.name for path in workdir.iterdir()} == FILES - {"best.keras"}
    results = json.loads((workdir / "results.json").read_text())
    assert results["machine"]["replicas"] == 2 and results["epochs"] == 2
    assert [row["epoch"] for row in csv.DictReader((workdir / "history.csv").open())] == ["0", "1"]


def test_a_worker_that_is_killed_ends_the_others_with_a_message(tmp_path):
    workdir = tmp_path / "run"
    flags = settings(workdir, "--method=cross_entropy", "--epochs=200")
    one, other = (python("train", *flags, cluster=cluster) for cluster in clusters(2))
    deadline = time.monotonic() + 200
    while not (workdir / "last.keras").exists():
        assert time.monotonic() < deadline and other.poll() is None
        time.sleep(0.05)
    other.kill()
    killed = time.monotonic()
    (printed,) = finished([one], code=69)
    assert time.monotonic() - killed < 60 and "another worker was lost" in printed
    other.communicate()


def test_workers_that_see_different_folders_are_refused(tmp_path):
    """The second has its own workdir: no error of either could be seen later, only two diverging runs."""
    runs = [
        python("train", *settings(tmp_path / str(number), "--method=cross_entropy"), cluster=cluster)
        for number, cluster in enumerate(clusters(2))
    ]
    for printed in finished(runs, code=1):
        assert "the workers differ in the workdir or in the data" in printed


def test_a_last_batch_that_leaves_a_replica_without_images_is_refused_with_normalisation(on_devices):
    printed = (on_devices / "refused.txt").read_text()
    assert "batch_size=6: the last batch of 103 images would have 1 for 3 replicas" in printed
