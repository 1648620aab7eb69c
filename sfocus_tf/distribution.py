"""Training on several devices and machines: strategies by name, agreement between workers, replica means.

What takes no strategy here is about the one in whose scope it is called.
"""

import functools
import json
import os
import pathlib
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver

from sfocus_tf.errors import unknown

STRATEGIES = ("auto", "one", "mirrored", "multi_worker", "tpu")


def strategy(name: str = "auto", devices: Sequence[str] = ()) -> tf.distribute.Strategy:
    """Creates a strategy by name. Call it before using TensorFlow for anything else.

    Args:
        name: "one" device; "mirrored", all GPUs of this machine or `devices`; "multi_worker", the processes in
            TF_CONFIG or a Slurm job, each with all its GPUs; "tpu", the TPU in TPU_NAME or the local one; "auto":
            multi_worker with a TF_CONFIG or Slurm job of several processes, mirrored with several GPUs or `devices`,
            else one.
        devices: such as `("GPU:0", "GPU:1")`. `("CPU:0", "CPU:1")` splits the processor in two, to try replicas
            without GPUs.

    Raises:
        ValueError: an unknown name; devices that do not exist or that the strategy does not take; multi_worker without
            TF_CONFIG or Slurm.
    """
    if name not in STRATEGIES:
        raise unknown("strategy", name, STRATEGIES)
    workers = workers_named()
    if name == "auto" and workers > 1:
        name = "multi_worker"
    elif name == "auto":
        several = len(devices) > 1 or (not devices and len(tf.config.list_physical_devices("GPU")) > 1)
        name = "mirrored" if several else "one"
    if devices and name in ("multi_worker", "tpu"):
        raise ValueError(f"devices={','.join(devices)}: strategy={name} takes all devices of each process.")
    devices = _present(devices)
    if name == "multi_worker":
        if not workers:
            raise ValueError(
                "strategy=multi_worker: expected TF_CONFIG in the environment, or a Slurm job with several tasks; "
                "docs/scaling.md shows both."
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(devices or None)
    if name == "tpu":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(os.environ.get("TPU_NAME", "local"))
        return tf.distribute.TPUStrategy(resolver)
    if len(devices) > 1:
        raise ValueError(f"devices={','.join(devices)}: strategy=one takes one device; mirrored takes several.")
    return tf.distribute.OneDeviceStrategy(devices[0]) if devices else tf.distribute.get_strategy()


def is_chief() -> bool:
    """Whether this process writes files and prints; of several workers, only the first does."""
    if not several_workers():
        return True
    resolver = tf.distribute.get_strategy().cluster_resolver
    if resolver.task_type == "chief":
        return True
    return resolver.task_type == "worker" and resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs


def any_worker(here: bool) -> bool:
    """Whether `here` is true on any worker. All workers must call this at the same step."""
    if not several_workers():
        return here
    return float(_sum_over_replicas(tf.distribute.get_strategy())(tf.constant(float(here)))) > 0


def wait_for_all() -> None:
    """Waits until all workers call this: one that leaves early would count as lost."""
    any_worker(False)


def all_agree(value: str) -> bool:
    """Whether all workers pass the same text. All workers must call this."""
    if not several_workers():
        return True
    strategy = tf.distribute.get_strategy()
    number = zlib.crc32(value.encode())
    expected = number * strategy.num_replicas_in_sync
    total = int(_sum_over_replicas(strategy)(tf.constant(float(number), tf.float64)))
    try:
        return not any_worker(total != expected)
    except tf.errors.OpError:
        if total == expected:
            raise
        return False  # the other worker knows it already, and has left


@functools.cache
def _sum_over_replicas(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    @tf.function(autograph=False)
    def total(value: tf.Tensor) -> tf.Tensor:
        def of_replica() -> tf.Tensor:
            on_replica = tf.identity(value)  # all_reduce needs a tensor on the replica's own device
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, on_replica)

        return strategy.experimental_local_results(strategy.run(of_replica))[0]

    return total


@contextmanager
def folder_to_write(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """`folder` on the chief, a temporary folder on the other workers.

    All workers must save a model, as some of its values are summed over them; only the chief keeps the file.
    """
    if is_chief():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="sfocus_tf-worker-") as temporary:
        yield pathlib.Path(temporary)


def workers_named() -> int:
    """The number of processes in TF_CONFIG, which is set from Slurm's variables if missing; 0 without either."""
    if "TF_CONFIG" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        os.environ["TF_CONFIG"] = json.dumps(_from_slurm())
    try:
        jobs = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {})
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"TF_CONFIG={os.environ['TF_CONFIG']!r}: expected JSON, an object ({error}).") from error
    return sum(len(jobs.get(kind, ())) for kind in ("chief", "worker"))


def _from_slurm() -> dict[str, Any]:
    """The TF_CONFIG of this task of a Slurm job step.

    TensorFlow's own resolver sorts hosts by name although Slurm does not, reassigns GPUs that Slurm has already bound,
    and uses the same port for all jobs.
    """
    hosts = slurm_cluster_resolver.expand_hostlist(os.environ["SLURM_STEP_NODELIST"])
    tasks = slurm_cluster_resolver.expand_tasks_per_node(os.environ["SLURM_STEP_TASKS_PER_NODE"])
    port = 10_000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20_000
    addresses = [f"{host}:{port + task}" for host, count in zip(hosts, tasks, strict=True) for task in range(count)]
    return {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": int(os.environ["SLURM_PROCID"])}}


def _present(devices: Sequence[str]) -> list[str]:
    """Checks that the devices exist, after splitting the processor if several CPUs are named."""
    if not devices:
        return []
    names = [device.strip().upper() for device in devices]
    for name in names:
        if not re.fullmatch(r"[A-Z_]+(:\d+)?", name):
            raise ValueError(f"devices={name!r}: expected a kind and a number, such as GPU:0 or CPU:1.")
    cpus = [int(name.partition(":")[2] or 0) for name in names if name.startswith("CPU")]
    if cpus and max(cpus) > 0:
        parts = [tf.config.LogicalDeviceConfiguration()] * (max(cpus) + 1)
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    existing = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()]
    for name in names:
        if name not in existing:
            raise unknown("devices", name, existing)
    if len(set(names)) < len(names):
        raise ValueError(f"devices={','.join(devices)}: name each device once.")
    return names


def several_workers(strategy: tf.distribute.Strategy | None = None) -> bool:
    """Whether a strategy, by default the current one, is a MultiWorkerMirroredStrategy over several processes."""
    strategy = strategy or tf.distribute.get_strategy()
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and strategy.extended._in_multi_worker_mode()


def replica_share(images: tf.Tensor, dtype: str) -> tf.Tensor | float:
    """The number of images on this replica, divided by the mean number over all replicas; a scalar.

    Each replica takes means over its own images, and gradients are averaged over replicas. If an incomplete batch is
    split unevenly, each replica's loss must be multiplied by this for the average to be the mean over all images.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas == 1:
        return 1.0
    own = tf.cast(images, dtype)
    total = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, own)
    return own * replicas / total


def normalisations(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The model's BatchNormalization layers, including those of nested models."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]


def has_collectives(model: keras.Model) -> bool:
    """Whether a training call of the model communicates between replicas.

    Synchronised BatchNormalization does, under any strategy except the default one.
    """
    return any(layer.synchronized for layer in normalisations(model)) and tf.distribute.has_strategy()
