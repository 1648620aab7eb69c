"""Strategies by name, and how batches are dealt to replicas and workers."""

import json
import os
import types

import numpy as np
import pytest
import tensorflow as tf

from sfocus_tf import distribution
from sfocus_tf.data import Data, scenes
from tests.replicated import numbered

TWO_WORKERS = {"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 1}}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


def test_one_device_is_no_strategy_at_all():
    assert distribution.strategy() is tf.distribute.get_strategy()
    assert distribution.strategy("one", ["CPU:0"]).num_replicas_in_sync == 1
    assert distribution.is_chief()


@pytest.mark.parametrize(
    ("name", "devices", "message"),
    [
        ("miror", [], "strategy='miror' is not known. Did you mean 'mirrored'"),
        ("mirrored", ["GPU:0", "GPU:1"], "devices='GPU:0' is not known. Did you mean 'CPU:0'"),
        ("mirrored", ["CPU:0", "CPU:0"], "devices=CPU:0,CPU:0: name each device once"),
        ("multi_worker", ["CPU:0"], "strategy=multi_worker takes all devices"),
        ("multi_worker", [], "expected TF_CONFIG in the environment, or a Slurm job"),
    ],
)
def test_what_cannot_be_is_told(name, devices, message):
    with pytest.raises(ValueError, match=message):
        distribution.strategy(name, devices)


def test_workers_are_found_in_slurm_in_its_order_and_in_tf_config(monkeypatch):
    assert distribution.workers_named() == 0
    for name, value in {
        "PROCID": "1", "STEP_NODELIST": "node[9-10]", "STEP_NUM_TASKS": "3", "STEP_TASKS_PER_NODE": "2,1",
        "JOB_ID": "40007",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("TF_CONFIG", "")  # so that what is set below is taken back
    del os.environ["TF_CONFIG"]
    assert distribution.workers_named() == 3
    found = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    assert found.cluster_spec().as_dict() == {"worker": ["node9:10007", "node9:10008", "node10:10007"]}
    assert (found.task_type, found.task_id) == ("worker", 1)
    os.environ["TF_CONFIG"] = json.dumps(TWO_WORKERS)  # goes before Slurm, as it was set by hand
    assert distribution.workers_named() == 2
    os.environ["TF_CONFIG"] = "{'cluster': }"
    with pytest.raises(ValueError, match="TF_CONFIG=.*expected JSON"):
        distribution.workers_named()


@pytest.mark.parametrize(
    ("jobs", "task", "chief"),
    [
        (("worker",), ("worker", 0), True),
        (("worker",), ("worker", 1), False),
        (("chief", "worker"), ("worker", 0), False),
        (("chief", "worker"), ("chief", 0), True),
    ],
)
def test_the_first_worker_is_the_chief_where_none_is_named(jobs, task, chief, monkeypatch):
    monkeypatch.setattr(distribution, "several_workers", lambda: True)
    resolver = types.SimpleNamespace(
        task_type=task[0], task_id=task[1], cluster_spec=lambda: types.SimpleNamespace(jobs=jobs)
    )
    strategy = types.SimpleNamespace(cluster_resolver=resolver)
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: strategy)
    assert distribution.is_chief() is chief


def replicas(workers, each):
    """What the replicas of so many workers get, by step and replica, through the function that a strategy calls."""
    return types.SimpleNamespace(
        num_replicas_in_sync=workers * each,
        distribute_datasets_from_function=lambda function: [
            list(function(tf.distribute.InputContext(workers, worker, workers * each)).as_numpy_iterator())
            for worker in range(workers)
        ],
    )


@pytest.mark.parametrize(("workers", "each", "count"), [(1, 2, 21), (2, 1, 24), (2, 2, 22), (2, 2, 17), (4, 1, 21)])
def test_replicas_together_have_each_batch_once_dealt_evenly(workers, each, count):
    data = Data(numbered(count), 8, 8, training=True, augmentation="flip", seed=5)
    dealt = data.replicated(replicas(workers, each), 2, 4)
    whole = list(data.epochs(2, 4).as_numpy_iterator())
    assert [len(of_worker) for of_worker in dealt] == [each * len(whole)] * workers
    for step, (images, labels) in enumerate(whole):
        parts = [of_worker[step * each + replica] for of_worker in dealt for replica in range(each)]
        sizes = [len(part[1]) for part in parts]
        assert max(sizes) - min(sizes) <= 1 and sum(sizes) == len(labels)
        together = np.concatenate([part[0] for part in parts])
        order, expected = (np.lexsort(x.reshape(len(x), -1).T) for x in (together, images))
        np.testing.assert_array_equal(together[order], images[expected])
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts])[order], labels[expected])


def test_replicas_have_the_regions_of_their_images():
    data = Data(scenes.source("test", 16, 6), 4, 16, regions=True)
    first, second = data.replicated(replicas(1, 2), 0, 1)[0][:2]
    whole = next(iter(data.epochs(0, 1).as_numpy_iterator()))
    assert whole["mask"].any() and first.keys() == second.keys() == whole.keys()
    for key, values in whole.items():
        np.testing.assert_array_equal(first[key], values[::2])
        np.testing.assert_array_equal(second[key], values[1::2])


def test_an_epoch_is_entered_in_its_middle():
    data = Data(numbered(20), 8, 8, training=True, augmentation="flip", seed=5)
    whole = list(data.epochs(2, 4).as_numpy_iterator())
    rest = list(data.replicated(tf.distribute.get_strategy(), 2, 4, skip=1).as_numpy_iterator())
    assert len(rest) == len(whole) - 1
    for part in (0, 1):
        np.testing.assert_array_equal(rest[0][part], whole[1][part])
        np.testing.assert_array_equal(rest[-1][part], whole[-1][part])


def test_a_batch_that_cannot_be_dealt_is_refused():
    with pytest.raises(ValueError, match="batch_size=8: expected a multiple of the 3 replicas, such as 6 or 9"):
        Data(numbered(20), 8, 8).replicated(replicas(3, 1), 0, 1)


@pytest.mark.parametrize("agreed", [False, True])
def test_a_worker_that_left_since_it_disagrees_is_not_taken_for_lost(agreed, monkeypatch):
    """Both know that they differ; whichever is told last finds the other one gone."""

    def left(here):
        raise tf.errors.UnavailableError(None, None, "Socket closed")

    def total(strategy):
        return lambda number: number if agreed else number + 1  # of one replica

    monkeypatch.setattr(distribution, "several_workers", lambda: True)
    monkeypatch.setattr(distribution, "_sum_over_replicas", total)
    monkeypatch.setattr(distribution, "any_worker", left)
    if agreed:
        with pytest.raises(tf.errors.UnavailableError):
            distribution.all_agree("same")
    else:
        assert not distribution.all_agree("mine")
