"""Builds the data and the compiled model of a config."""

import dataclasses
import pathlib
from typing import Any

import keras

from sfocus_tf import backbones, data, distribution, saved_models
from sfocus_tf.data import Data
from sfocus_tf.model import SharpenFocus
from sfocus_tf.training.config import Config


def splits(config: Config) -> dict[str, Data]:
    """The splits of the dataset: "train", "test", and "validation" if the config holds images out for it."""
    names = ("train", "validation", "test") if config.validation_fraction else ("train", "test")
    options: dict[str, Any] = {
        "data_dir": config.data_dir,
        "batch_size": config.batch_size,
        "image_size": config.image_size,
        "augmentation": config.augmentation,
        "center_crop": config.center_crop,
        "validation_fraction": config.validation_fraction,
        "examples": config.examples,
        "skip_corrupt": config.skip_corrupt,
        "check_images": config.check_images,
        "seed": config.seed,
    }
    return {name: data.load(config.dataset, name, **options) for name in names}


def start_file(weights: str | None) -> pathlib.Path | None:
    """The file in `config.weights`, or `None` if it is not a file."""
    if weights in (None, "none", "imagenet"):
        return None
    try:
        return saved_models.find(weights).file
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"config.weights={weights!r}: no such file. Expected imagenet, none, a .keras file or a workdir."
        ) from error


def model(config: Config, train: Data, start: pathlib.Path | None) -> SharpenFocus:
    """The compiled model, with the weights of the file `start` if there is one."""
    classifier = backbones.create(
        config.backbone, len(train.class_names), train.image_size, config.initial_weights, config.dropout
    )
    for layer in distribution.normalisations(classifier):
        layer.synchronized = config.synchronized
    if start is not None:
        saved_models.start_from(classifier, start)
    model = SharpenFocus(
        classifier,
        dataclasses.replace(config.objective, steps=config.epochs * train.steps),
        inner_layer=config.inner_layer,
        last_layer=config.last_layer,
        multi_label=train.multi_label,
    )
    loss: keras.losses.Loss
    if train.multi_label:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        # An approximation during training; the exact mean average precision is computed at the end.
        metric = keras.metrics.AUC(
            curve="PR", multi_label=True, num_labels=len(train.class_names), from_logits=True, name="pr_auc"
        )
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    model.compile(optimizer(config, train.steps), loss, metrics=[metric], jit_compile=config.jit_compile)
    return model


def optimizer(config: Config, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The optimizer, with the learning-rate schedule of the whole run."""
    settings = config.optimizer
    total, warmup = config.epochs * steps_per_epoch, round(settings.warmup_epochs * steps_per_epoch)
    rate: Any = settings.rate
    if settings.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else rate, max(total - warmup, 1), warmup_target=rate if warmup else None, warmup_steps=warmup
        )
    elif settings.schedule == "step":
        values = [rate / 10**drop for drop in range(len(settings.drops) + 1)]
        boundaries = [int(share * total) for share in settings.drops]
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
    clip_norm = settings.clip_norm or None
    optimizer: keras.optimizers.Optimizer
    if settings.name == "sgd":
        optimizer = keras.optimizers.SGD(
            rate,
            settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay or None,
            global_clipnorm=clip_norm,
        )
    else:
        optimizer = keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay, global_clipnorm=clip_norm)
    if settings.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer
