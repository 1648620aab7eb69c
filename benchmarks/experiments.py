"""The experiments of benchmarks/accuracy.py and their training recipes.

Recipes were tuned for cross-entropy, on validation images held out of the training images; see docs/gain.md.
"""

import shutil

ARMS = ("cross_entropy", "icasc", "control")
PLAIN = ("cross_entropy", "control")
# Changes to the default objective, as keyword arguments of `sfocus_tf.objective`.
ABLATIONS = {
    "chance": {"last": {"weight": 1e-6}},  # differs only by rounding: shows the effect of chance
    "weak": {"last": {"weight": 0.1}},
    "strong": {"last": {"weight": 1.0}},
    "every_4": {name: {"every_steps": 4} for name in ("inner", "last", "consistency")},
    "paper": {"name": "paper"},
    "overlap": {"separation": "overlap", "last": {"weight": 1.0}},
    "both_layers": {"inner": {"weight": 1.0}},
    "with_consistency": {"consistency": {"weight": 0.3}},
    "consistency_alone": {"last": {"weight": 0.0}, "consistency": {"weight": 0.3}},
}
# Forms of separation removed from the package; their runs are in benchmarks/results/archive.
REMOVED = ("outside", "difference", "margin")
IMAGES_A_CLASS = {"cifar10": 500, "cifar10_few": 250}  # for training; all for other experiments
_CIFAR10 = (
    "--dataset=folder", "--backbone=resnet20", "--config.image_size=32", "--config.optimizer.schedule=cosine",
)  # fmt: skip
_CIFAR10_FEW = (*_CIFAR10, "--epochs=60", "--batch_size=32", "--config.optimizer.learning_rate=0.05")
_BIRDS = ("--dataset=cub200", "--config.image_size=128", "--batch_size=16")
_VOC = ("--dataset=voc2012", "--config.image_size=128")
EXPERIMENTS = {
    "cifar10": (*_CIFAR10_FEW, "--config.optimizer.weight_decay=2e-2"),
    # The usual weight decay, 5e-4 as an L2 term, which is too little for so few images.
    "cifar10_few": (*_CIFAR10_FEW, "--config.optimizer.weight_decay=5e-3"),
    "cifar10_full": (*_CIFAR10, "--epochs=20", "--batch_size=128", "--config.optimizer.weight_decay=5e-3"),
    "cub200": (*_BIRDS, "--epochs=12"),
    "cub200_long": (*_BIRDS, "--epochs=30", "--config.optimizer.weight_decay=0.3"),
    "voc2012": (*_VOC, "--epochs=10"),
    "voc2012_long": (*_VOC, "--epochs=20"),
    "scenes": ("--dataset=scenes", "--epochs=30", "--config.augmentation=pad_crop_flip"),
}  # fmt: skip
TINY_FLAGS = ("--epochs=1", "--config.examples=64", "--backbone=resnet8", "--config.weights=none")


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
