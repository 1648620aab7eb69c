"""Several replicas give what one gives: on logical devices, and as worker processes on the loopback address."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT


def start(kind, replicas, normalised, output, cluster=None):
    command = [sys.executable, "-m", "tests.replicated", kind, str(replicas), normalised, str(output)]
    environment = os.environ | ({"TF_CONFIG": json.dumps(cluster)} if cluster else {})
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(processes):
    for process in processes:
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed[-3000:]


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def one_replica(tmp_path_factory):
    """The results of a single replica, with and without normalisation."""
    results = {}

    def run(normalised):
        if normalised not in results:
            path = tmp_path_factory.mktemp("one") / "one.npz"
            finished([start("mirrored", 1, normalised, path)])
            results[normalised] = np.load(path)
        return results[normalised]

    return run


def same(one, path):
    """Weights after 21 steps, scores, and every loss and metric, in double precision; Keras computes the moments of
    synchronised BatchNormalization in single.
    """
    other = np.load(path)
    assert one.files == other.files and one["values"].size > 20
    for key in one.files:
        np.testing.assert_allclose(other[key], one[key], rtol=1e-6, atol=1e-6, err_msg=key)


@pytest.mark.parametrize(("replicas", "normalised"), [(4, "no"), (2, "yes")])
def test_logical_devices_equal_one(replicas, normalised, one_replica, tmp_path):
    path = tmp_path / "several.npz"
    finished([start("mirrored", replicas, normalised, path)])
    same(one_replica(normalised), path)


@pytest.mark.parametrize(("workers", "normalised"), [(3, "no"), (2, "yes")])
def test_worker_processes_equal_one(workers, normalised, one_replica, tmp_path):
    """Every worker ends with the same weights, and knows the metrics of the global batch."""
    hosts = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    paths = [tmp_path / f"{number}.npz" for number in range(workers)]
    clusters = [{"cluster": {"worker": hosts}, "task": {"type": "worker", "index": n}} for n in range(workers)]
    finished(
        [start("worker", workers, normalised, path, cluster) for path, cluster in zip(paths, clusters, strict=True)]
    )
    for path in paths:
        same(one_replica(normalised), path)
