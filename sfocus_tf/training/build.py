"""Builds the data and the compiled model of a config."""

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from sfocus_tf import backbones, data, distribution, saved_models
from sfocus_tf.classifier import attention_layers
from sfocus_tf.data import Data
from sfocus_tf.model import SharpenFocus
from sfocus_tf.training.config import Config


def splits(config: Config) -> dict[str, Data]:
    """The splits of the dataset: "train", "test", and "validation" if the config holds images out for it."""
    names = ("train", "validation", "test") if config.validation_fraction else ("train", "test")
    return {name: split(config, name) for name in names}


def split(config: Config, name: str, regions: bool = False) -> Data:
    """One split of the dataset; `regions` as in `sfocus_tf.data.load`."""
    return data.load(
        config.dataset,
        name,
        data_dir=config.data_dir,
        batch_size=config.batch_size,
        image_size=config.image_size if name == "train" else config.test_image_size or config.image_size,
        augmentation=config.augmentation,
        min_crop_area=config.min_crop_area,
        center_crop=config.center_crop,
        validation_fraction=config.validation_fraction,
        examples=config.examples,
        skip_corrupt=config.skip_corrupt,
        check_images=config.check_images,
        seed=config.seed,
        regions=regions,
    )


def start(config: Config) -> saved_models.SavedModel | None:
    """The saved model in `config.weights`, or `None` if it names no file."""
    if config.weights in (None, "none", "imagenet"):
        return None
    try:
        return saved_models.find(config.weights, "config.weights")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} Other choices: imagenet, none.") from error


def model(config: Config, splits: dict[str, Data], start: saved_models.SavedModel | None) -> SharpenFocus:
    """The compiled model of a config.

    Args:
        config: config of the run.
        splits: "train" and "test"; if their images differ in size, the classifier takes images of any size.
        start: the saved model whose weights it starts from, or `None`.
    """
    train = splits["train"]
    same_size = train.image_size == splits["test"].image_size
    classifier = backbones.create(
        config.backbone,
        len(train.class_names),
        train.image_size if same_size else None,
        config.initial_weights,
        config.dropout,
    )
    for layer in distribution.normalisations(classifier):
        layer.synchronized = config.synchronized
    _refuse_empty_replicas(classifier, train)
    if start is not None:
        start.copy_weights(classifier)
    # The layers are chosen for the size of the training images, whatever the size of the others.
    layers = attention_layers.find(classifier, config.inner_layer, config.last_layer, train.image_size)
    model = SharpenFocus(
        classifier,
        dataclasses.replace(config.objective, steps=config.epochs * train.steps),
        inner_layer=layers.inner,
        last_layer=layers.last,
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


def _refuse_empty_replicas(classifier: keras.Model, train: Data) -> None:
    """Raises a `ValueError` if a replica would get no images, which turns BatchNormalization's averages to NaN."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    rest = train.source.size % train.batch_size
    unsynchronized = [layer for layer in distribution.normalisations(classifier) if not layer.synchronized]
    if 0 < rest < replicas and unsynchronized:
        raise ValueError(
            f"batch_size={train.batch_size}: the last batch of {train.source.size} images would have {rest} for "
            f"{replicas} replicas, and BatchNormalization needs one for each. Try another multiple of {replicas}, or "
            "--config.synchronized."
        )


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
