"""Checks a config, before any work is done."""

from collections.abc import Callable
from typing import Any

import ml_collections

from sfocus_tf import backbones, data, distribution
from sfocus_tf.attention import check_mechanism
from sfocus_tf.errors import unknown
from sfocus_tf.losses import RECIPES, Settings, recipe

METHODS = ("icasc", "cross_entropy")


OPTIMIZERS = ("sgd", "adamw")


SCHEDULES = ("cosine", "step", "constant")


def check(config: ml_collections.ConfigDict) -> None:
    """Raises a `ValueError` for a setting that is not valid, before any work is done."""
    backbones.check(config.backbone, "imagenet" if config.weights == "imagenet" else None)
    for key, value, valid in (
        ("method", config.method, METHODS),
        ("config.attention", config.attention, RECIPES),
        ("config.optimizer.name", config.optimizer.name, OPTIMIZERS),
        ("config.optimizer.schedule", config.optimizer.schedule, SCHEDULES),
        ("strategy", config.strategy, distribution.STRATEGIES),
        ("config.precision", config.precision, ("float32", "mixed_float16", "mixed_bfloat16")),
    ):
        if value not in valid:
            raise unknown(key, value, valid)
    if config.augmentation not in (None, *data.AUGMENTATIONS):
        raise unknown("config.augmentation", config.augmentation, data.AUGMENTATIONS)
    for key in ("epochs", "batch_size"):
        if config[key] < 1:
            raise ValueError(f"{key}={config[key]}: expected a positive number.")
    _check_numbers(config)
    drops = list(config.optimizer.drops)
    if drops != sorted(drops) or not all(0 < share < 1 for share in drops):
        raise ValueError(f"config.optimizer.drops={tuple(drops)}: expected shares of the run, from 0 to 1, ascending.")
    terms = recipe(config.attention, config.terms.to_dict())
    terms.arguments(1)
    check_mechanism(terms.mechanism)
    Settings(terms.separation, terms.sigma, terms.omega, terms.theta, terms.minimum_mass)


def _check_numbers(config: ml_collections.ConfigDict) -> None:
    """Raises a `ValueError` for a number out of its range."""
    positive: tuple[Callable[[Any], bool], str] = (lambda x: x is None or x >= 1, "a positive number")
    not_negative: tuple[Callable[[Any], bool], str] = (lambda x: x >= 0, "0 or more")
    rate: tuple[Callable[[Any], bool], str] = (lambda x: 0 <= x < 1, "a number from 0 to below 1")
    optimizer = config.optimizer
    for key, value, (valid, expected) in (
        ("image_size", config.image_size, positive),
        ("examples", config.examples, positive),
        ("center_crop", config.center_crop, (lambda x: x is None or 0 < x <= 1, "a share above 0, up to 1")),
        ("validation_fraction", config.validation_fraction, rate),
        ("attention_images_every", config.attention_images_every, not_negative),
        ("dropout", config.dropout, rate),
        ("optimizer.learning_rate", optimizer.learning_rate, (lambda x: x > 0, "more than 0")),
        ("optimizer.rate_for_batch", optimizer.rate_for_batch, positive),
        ("optimizer.warmup_epochs", optimizer.warmup_epochs, (lambda x: 0 <= x <= config.epochs, "0 up to the epochs")),
        ("optimizer.momentum", optimizer.momentum, rate),
        ("optimizer.weight_decay", optimizer.weight_decay, not_negative),
        ("optimizer.clip_norm", optimizer.clip_norm, not_negative),
    ):
        if not valid(value):
            raise ValueError(f"config.{key}={value}: expected {expected}.")
