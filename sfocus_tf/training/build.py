"""The data, model and optimizer that a config describes."""

import pathlib
from typing import Any

import keras
import ml_collections

from sfocus_tf import backbones, distribution, saved_models
from sfocus_tf.data import Data
from sfocus_tf.losses import TERMS, recipe
from sfocus_tf.model import SharpenFocus


def model(config: ml_collections.ConfigDict, train: Data, start: pathlib.Path | None) -> SharpenFocus:
    """The compiled model, with weights from the file `start` where there is one."""
    imagenet = "imagenet" if config.weights == "imagenet" else None
    classifier = backbones.create(config.backbone, len(train.class_names), train.image_size, imagenet, config.dropout)
    for layer in distribution.normalisations(classifier):
        layer.synchronized = config.synchronized
    if start is not None:
        saved_models.start_from(classifier, start)
    steps = config.epochs * train.steps
    classes = len(train.class_names) if train.multi_label else 1
    arguments = recipe(config.attention, config.terms.to_dict()).arguments(steps, classes)
    if config.method == "cross_entropy":
        # With all weights zero each step is exactly one of plain Keras.
        arguments |= dict.fromkeys(TERMS, 0.0)
    model = SharpenFocus(classifier, config.inner_layer, config.last_layer, multi_label=train.multi_label, **arguments)
    loss: keras.losses.Loss
    if train.multi_label:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        # An approximation while training; the exact mean average precision is computed at the end.
        metric = keras.metrics.AUC(
            curve="PR", multi_label=True, num_labels=len(train.class_names), from_logits=True, name="pr_auc"
        )
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    model.compile(optimizer(config, train.steps), loss, metrics=[metric], jit_compile=config.jit_compile)
    return model


def learning_rate(config: ml_collections.ConfigDict) -> float:
    """The learning rate for the batch size, scaled linearly (Goyal et al. 2017) where the config asks for it."""
    settings = config.optimizer
    return settings.learning_rate * config.batch_size / (settings.rate_for_batch or config.batch_size)


def optimizer(config: ml_collections.ConfigDict, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The optimizer, with its schedule over the whole run."""
    settings = config.optimizer
    total, warmup = config.epochs * steps_per_epoch, round(settings.warmup_epochs * steps_per_epoch)
    rate: Any = learning_rate(config)
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
