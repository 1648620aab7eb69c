"""The experiments and arms of benchmarks/accuracy.py.

Recipes, with crops and test size, were chosen for cross-entropy on validation images held out of the training images;
see docs/research-log.md.
"""

import dataclasses
import shutil
import threading

from sfocus_tf.losses import objective

_CIFAR10 = ("--dataset=folder", "--backbone=resnet20", "--config.image_size=32", "--config.optimizer.schedule=cosine")
EXPERIMENTS = {
    "birds100": (
        "--dataset=folder:photos", "--config.image_size=112", "--config.test_image_size=128", "--epochs=8",
        "--config.min_crop_area=0.3",
    ),
    # The usual weight decay, 5e-4 as an L2 term.
    "cifar10_few": (
        *_CIFAR10, "--epochs=60", "--batch_size=32", "--config.optimizer.learning_rate=0.05",
        "--config.optimizer.weight_decay=5e-3",
    ),
    "voc2012": (
        "--dataset=voc2012", "--config.image_size=128", "--config.test_image_size=224", "--epochs=20",
        "--config.min_crop_area=0.08",
    ),
    "cub200": (
        "--dataset=cub200", "--config.image_size=128", "--config.test_image_size=160", "--batch_size=16",
        "--epochs=20", "--config.min_crop_area=0.3",
    ),
    "scenes": ("--dataset=scenes",),
}  # fmt: skip
SEEDS = {"birds100": 5, "cifar10_few": 8, "voc2012": 5, "cub200": 8, "scenes": 5}
# Arguments of `sfocus_tf.objective`; None for plain cross-entropy. `rounding` differs from it by rounding alone.
ARMS = {
    "cross_entropy": None,
    "default": {"name": "default"},
    "light": {"name": "light"},
    "paper": {"name": "paper"},
    "rounding": {"name": "light", "last": {"weight": 1e-6}},
}
TINY_FLAGS = ("--epochs=1", "--config.examples=64", "--backbone=resnet8", "--config.weights=none")
# Folder of the images inside --data_dir, where it is not --data_dir itself.
_FOLDERS = {"birds100": "birds100", "cifar10_few": "cifar10"}
_MAKING_FOLDER = threading.Lock()  # several runs begin at once


def settings(experiment, tiny=False):
    """The flags of train.py that define an experiment."""
    return (*EXPERIMENTS[experiment], *(TINY_FLAGS if tiny else ()))


def data_flags(experiment, data_dir):
    """The flag of train.py for the folder of the images."""
    if data_dir is None or experiment == "scenes":
        return []
    folder = data_dir.resolve() / _FOLDERS.get(experiment, "")
    if experiment == "cifar10_few":
        with _MAKING_FOLDER:
            folder = few_a_class(folder, 250)
    return [f"--data_dir={folder}"]


def arm_flags(arm):
    """The flags of train.py for an arm."""
    changes = ARMS[arm]
    return ["--method=cross_entropy"] if changes is None else ["--method=icasc", *_objective_flags(changes)]


def _objective_flags(changes, prefix="--config.objective"):
    result = []
    for key, value in changes.items():
        name = f"{prefix}.{key}"
        result += _objective_flags(value, name) if isinstance(value, dict) else [f"{name}={value}"]
    return result


def objective_of(arm):
    """The objective of an arm in the form of results.json; `None` for cross-entropy."""
    return None if ARMS[arm] is None else dataclasses.asdict(objective(**ARMS[arm]))


def few_a_class(cifar10, count):
    """Makes a folder beside CIFAR-10's that links the first `count` training images per class, and all test images."""
    folder = cifar10.with_name(f"cifar10_{count}_a_class")
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(partial, ignore_errors=True)
        for source in sorted((cifar10 / "train").iterdir()):
            target = partial / "train" / source.name
            target.mkdir(parents=True)
            for image in sorted(source.iterdir())[:count]:
                (target / image.name).symlink_to(image.resolve())
        (partial / "test").symlink_to((cifar10 / "test").resolve())
        partial.rename(folder)
    return folder
