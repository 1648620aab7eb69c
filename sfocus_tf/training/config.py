"""The config of a run, checked once at the start and then frozen."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections

from sfocus_tf import backbones, data, distribution
from sfocus_tf.errors import unknown
from sfocus_tf.losses import Objective, Term, objective

METHODS = ("icasc", "cross_entropy")
BOTH = "both"  # one after the other, by `run_both`
OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "step", "constant")
_PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
# Keys that do not change the result of a run.
_OF_NO_EFFECT = ("attention_images_every", "check_images", "strategy", "devices")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The keys of `config.optimizer`, documented in `configs/common.py`, and the effective learning rate.

    Attributes:
        rate: the learning rate, scaled linearly to the batch size (Goyal et al. 2017) if `rate_for_batch` is set.
    """

    name: str
    learning_rate: float
    rate_for_batch: int | None
    schedule: str
    drops: tuple[float, ...]
    warmup_epochs: float
    momentum: float
    nesterov: bool
    weight_decay: float
    clip_norm: float
    rate: float


@dataclasses.dataclass(frozen=True)
class Config:
    """The keys of a config, documented in `configs/common.py`.

    Attributes:
        objective: the objective of `config.objective`; all weights are 0 for cross-entropy.
        given: all keys as they were set, for JSON.
    """

    dataset: str
    data_dir: str | None
    method: str
    seed: int
    deterministic: bool
    precision: str
    jit_compile: bool
    strategy: str
    devices: tuple[str, ...]
    synchronized: bool
    epochs: int
    batch_size: int
    image_size: int | None
    test_image_size: int | None
    augmentation: str | None
    min_crop_area: float
    center_crop: float | None
    validation_fraction: float
    attention_images_every: int
    examples: int | None
    check_images: bool
    skip_corrupt: bool
    backbone: str
    weights: str | None
    dropout: float
    inner_layer: str | None
    last_layer: str | None
    optimizer: OptimizerConfig
    objective: Objective
    given: dict[str, Any]

    @property
    def initial_weights(self) -> str | None:
        """Initial weights of the backbone: "imagenet", or `None` for random weights or those of a file."""
        return "imagenet" if self.weights == "imagenet" else None

    @property
    def objective_used(self) -> dict[str, Any] | None:
        """All settings of the objective, as its name may change meaning between versions; `None` for cross-entropy."""
        return dataclasses.asdict(self.objective) if self.method == "icasc" else None

    def identity(self) -> dict[str, Any]:
        """The settings that determine the result of a run; a run is only resumed if they are equal."""
        kept = {key: value for key, value in self.given.items() if key not in _OF_NO_EFFECT}
        kept["objective"] = self.objective_used
        if self.data_dir:
            kept["data_dir"] = str(pathlib.Path(self.data_dir).expanduser().resolve())
        return kept


def resolve(config: ml_collections.ConfigDict) -> Config:
    """Checks and resolves a config.

    Args:
        config: a config with every key of `configs/common.py`.

    Raises:
        ValueError: an invalid setting.
    """
    keys = {key: value for key, value in config.items() if key not in ("optimizer", "objective")}
    keys["devices"] = tuple(config.devices)
    optimizer = dict(config.optimizer) | {"drops": tuple(config.optimizer.drops)}
    _check_names(config)
    _check_numbers(config)
    optimizer["rate"] = (
        optimizer["learning_rate"] * config.batch_size / (optimizer["rate_for_batch"] or config.batch_size)
    )
    return Config(
        **keys,
        optimizer=OptimizerConfig(**optimizer),
        objective=_objective(config),
        given=json.loads(config.to_json()),
    )


def _objective(config: ml_collections.ConfigDict) -> Objective:
    """The objective of a config; all weights are 0 for cross-entropy."""
    settings = config.objective.to_dict()
    name = settings.pop("name")
    changes = {}
    for key, value in settings.items():
        change = {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value
        if change not in (None, {}):
            changes[key] = change
    try:
        chosen = objective(name, **changes)
    except ValueError as error:
        raise ValueError(f"config.objective: {error}") from error
    if config.method == "cross_entropy":  # then each step equals one of plain Keras
        return dataclasses.replace(chosen, inner=Term(0.0), last=Term(0.0), consistency=Term(0.0))
    return chosen


def _check_names(config: ml_collections.ConfigDict) -> None:
    """Raises a `ValueError` for an unknown name."""
    backbones.check(config.backbone, "imagenet" if config.weights == "imagenet" else None)
    if config.method == BOTH:
        raise ValueError(
            f"method='both': expected {' or '.join(METHODS)} for one run; train.py --method=both does both."
        )
    for key, value, valid in (
        ("method", config.method, (*METHODS, BOTH)),
        ("config.optimizer.name", config.optimizer.name, OPTIMIZERS),
        ("config.optimizer.schedule", config.optimizer.schedule, SCHEDULES),
        ("strategy", config.strategy, distribution.STRATEGIES),
        ("config.precision", config.precision, _PRECISIONS),
    ):
        if value not in valid:
            raise unknown(key, value, valid)
    if config.augmentation not in (None, *data.AUGMENTATIONS):
        raise unknown("config.augmentation", config.augmentation, data.AUGMENTATIONS)


def _check_numbers(config: ml_collections.ConfigDict) -> None:
    """Raises a `ValueError` for a number out of range."""
    for key in ("epochs", "batch_size"):
        if config[key] < 1:
            raise ValueError(f"{key}={config[key]}: expected a positive number.")
    positive: tuple[Callable[[Any], bool], str] = (lambda x: x is None or x >= 1, "a positive number")
    not_negative: tuple[Callable[[Any], bool], str] = (lambda x: x >= 0, "0 or more")
    rate: tuple[Callable[[Any], bool], str] = (lambda x: 0 <= x < 1, "a number from 0 to below 1")
    optimizer = config.optimizer
    for key, value, (valid, expected) in (
        ("seed", config.seed, (lambda x: 0 <= x < 2**32, "a number from 0 to 2**32 - 1")),
        ("image_size", config.image_size, positive),
        ("test_image_size", config.test_image_size, positive),
        ("examples", config.examples, positive),
        ("min_crop_area", config.min_crop_area, (lambda x: 0 < x <= 1, "a share above 0, up to 1")),
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
    if optimizer.warmup_epochs and optimizer.schedule != "cosine":
        raise ValueError(
            f"config.optimizer.warmup_epochs={optimizer.warmup_epochs}: expected 0 with "
            f"config.optimizer.schedule={optimizer.schedule!r}, as only cosine warms up."
        )
    drops = list(optimizer.drops)
    if drops != sorted(drops) or not all(0 < share < 1 for share in drops):
        raise ValueError(f"config.optimizer.drops={tuple(drops)}: expected shares of the run, from 0 to 1, ascending.")
