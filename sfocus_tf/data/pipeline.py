"""Turns records into batches, for one device or many.

Every random choice is a function of (seed, epoch, position in the epoch), so a run can be repeated, and resumed at any
step, whatever the number of threads.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from sfocus_tf.data.augmentation import AUGMENTATIONS, augment, central_crop, resize
from sfocus_tf.data.source import Record, Source
from sfocus_tf.errors import check_count, unknown


@dataclasses.dataclass(frozen=True)
class Data:
    """A split of a data set, ready for a model.

    Attributes:
        source: where the images come from.
        batch_size: images per batch; the last batch of an epoch may have fewer.
        image_size: height and width, in pixels.
        training: shuffle and augment; otherwise images keep the source's order and are not augmented.
        augmentation: one of `AUGMENTATIONS`; only in training.
        seed: determines order and augmentation.
        regions: batches are dictionaries with boxes and masks, instead of `(images, labels)`.
        center_crop: outside training, the side of a central square crop as a share of the shorter side, in (0, 1];
            `None` for the whole image, stretched to a square.
        min_crop_area: smallest crop of "random_resized_crop", as a share of the image's area, in (0, 1].
    """

    source: Source
    batch_size: int
    image_size: int
    training: bool = False
    augmentation: str = "none"
    seed: int = 0
    regions: bool = False
    center_crop: float | None = None
    min_crop_area: float = 0.08

    def __post_init__(self) -> None:
        if self.augmentation not in AUGMENTATIONS:
            raise unknown("augmentation", self.augmentation, AUGMENTATIONS)
        for argument in ("batch_size", "image_size"):
            check_count(argument, getattr(self, argument))
        if self.center_crop is not None and not 0 < self.center_crop <= 1:
            raise ValueError(f"center_crop={self.center_crop}: expected a share of the shorter side, from 0 to 1.")
        if not 0 < self.min_crop_area <= 1:
            raise ValueError(f"min_crop_area={self.min_crop_area}: expected a share of the area above 0, up to 1.")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, indexed by label."""
        return self.source.class_names

    @property
    def multi_label(self) -> bool:
        """Whether labels are vectors of 0 and 1 instead of class numbers."""
        return self.source.multi_label

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return -(-self.source.size // self.batch_size)

    @functools.cached_property
    def batches(self) -> tf.data.Dataset:
        """One epoch of batches for `fit`, `evaluate` or `predict`; in training, each iteration has a new order.

        Elements are `(images, labels)`: `[batch, image_size, image_size, 3]` float32 in [0, 255], and `[batch]` int32
        or `[batch, classes]` float32. With `regions` they are dictionaries of `image`, `label`, and those
        of `boxes`, `box_labels`, `difficult`, `mask`, `part_mask` that the source has (see `Source`).
        """
        if not self.training:
            return self.epochs(0, 1)
        epochs = tf.data.Dataset.random(seed=self.seed, rerandomize_each_iteration=True).take(1)
        batches = self._batches_of(epochs)
        return batches.apply(tf.data.experimental.assert_cardinality(self.steps)).prefetch(tf.data.AUTOTUNE)

    def images(self, numbers: Iterable[int]) -> dict[int, np.ndarray]:
        """Some of the images by their number in the split: the whole split may not fit in memory.

        Args:
            numbers: numbers of images, in the order of `batches` outside training.

        Returns:
            Each image as uint8, `[image_size, image_size, 3]`, by number.
        """
        wanted, first = set(numbers), 0
        found: dict[int, np.ndarray] = {}
        for batch in dataclasses.replace(self, training=False, regions=True).batches.as_numpy_iterator():
            count = len(batch["image"])
            chosen = wanted & set(range(first, first + count))
            found |= {number: batch["image"][number - first].astype(np.uint8) for number in chosen}
            first += count
            if len(found) == len(wanted):
                break
        return found

    def epochs(self, first: int, last: int) -> tf.data.Dataset:
        """The batches of epochs `first` to `last - 1` in sequence; the same in every process."""
        count = self.steps * (last - first)
        batches = self._batches_of(tf.data.Dataset.range(first, last))
        return batches.apply(tf.data.experimental.assert_cardinality(count)).prefetch(tf.data.AUTOTUNE)

    def replicated(self, strategy: tf.distribute.Strategy, first: int, last: int | None, skip: int = 0) -> Any:
        """`epochs` for `fit` under a strategy: each worker decodes only its own share of every batch.

        Together the replicas hold the images of one batch of `epochs`; an incomplete batch is split evenly, so that
        replicas differ by at most one image.

        Args:
            strategy: the strategy whose replicas share a batch.
            first: as for `epochs`.
            last: as for `epochs`; `None` for an endless sequence.
            skip: batches of the first epoch to skip, when a resumed run has seen them.

        Returns:
            A `tf.distribute.DistributedDataset` (for a single replica a `tf.data.Dataset`).

        Raises:
            ValueError: the batch size is not a multiple of the number of replicas.
        """
        replicas = strategy.num_replicas_in_sync
        numbers = tf.data.Dataset.range(first, tf.int64.max if last is None else last)
        if replicas == 1:
            return self._batches_of(numbers, skip=skip).prefetch(tf.data.AUTOTUNE)
        if self.batch_size % replicas:
            below, above = (self.batch_size // replicas + step for step in (0, 1))
            nearest = " or ".join(str(replicas * per_replica) for per_replica in (below, above) if per_replica)
            raise ValueError(
                f"batch_size={self.batch_size}: expected a multiple of the {replicas} replicas, such as {nearest}."
            )

        def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
            local_replicas = replicas // context.num_input_pipelines
            batches = self._batches_of(numbers, context.num_input_pipelines, context.input_pipeline_id, skip)
            if local_replicas > 1:
                # With regions a batch is one dictionary; without, images and labels.
                batches = batches.flat_map(lambda *batch: _dealt(batch if len(batch) > 1 else batch[0], local_replicas))
            return batches.prefetch(tf.data.AUTOTUNE)

        return strategy.distribute_datasets_from_function(of_worker)

    def place_names(self, epoch: int, step: int) -> list[str]:
        """The images in the batch of a step: their file paths, or their numbers in the source.

        Args:
            epoch: number of the epoch.
            step: number of the batch in the epoch.
        """
        seed = tf.constant(self._order_seed(epoch), tf.int64) if self.training else None
        keys = self.source.keys(seed).skip(step * self.batch_size).take(self.batch_size)
        if isinstance(keys.element_spec, dict):  # TFDS records are not numbered
            first = step * self.batch_size
            return [f"image {first + position} of epoch {epoch}'s order" for position in range(len(list(keys)))]
        numbers = [int(key) for key in keys]
        if not self.source.files:
            return [f"image {number}" for number in numbers]
        in_order = np.fromiter((int(key) for key in self.source.keys(None)), np.int64)
        return [self.source.files[position] for position in np.searchsorted(in_order, numbers)]

    def _order_seed(self, epoch: Any) -> Any:
        return self.seed * 1_000_003 + epoch

    def _batches_of(self, epochs: tf.data.Dataset, workers: int = 1, worker: int = 0, skip: int = 0) -> tf.data.Dataset:
        """A worker's share of the batches: every `workers`-th image of each batch, starting at `worker`."""
        per_worker = self.batch_size // workers

        @tf.autograph.experimental.do_not_convert
        def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            numbered = self.source.keys(self._order_seed(epoch) if self.training else None).enumerate()
            if skip:
                done = tf.where(tf.equal(epoch, first), tf.constant(skip * self.batch_size, tf.int64), 0)
                numbered = numbered.skip(done)
            if workers > 1:
                numbered = numbered.shard(workers, worker)
            records = numbered.map(
                lambda position, key: self._example(key, tf.stack([epoch, position])),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
            batches = records.batch(per_worker, num_parallel_calls=tf.data.AUTOTUNE)
            rest = self.source.size % self.batch_size
            if 0 < rest <= worker:  # no image is left for this worker, but it must still take part in the step
                batches = batches.concatenate(tf.data.Dataset.from_tensors(_none_of(batches.element_spec)))
            return batches

        first = next(iter(epochs)) if skip else 0
        return epochs.flat_map(one_epoch)

    def _example(self, key: tf.Tensor, place: tf.Tensor) -> Record | tuple[tf.Tensor, tf.Tensor]:
        record = self.source.read(key)
        if self.training:
            seed = tf.random.fold_in(tf.constant([self.seed, 7], tf.int64), place[0])
            seed = tf.random.fold_in(seed, place[1])
            record = augment(record, self.augmentation, self.image_size, seed, self.min_crop_area)
        else:
            if self.center_crop is not None:
                record = central_crop(record, self.center_crop)
            record = resize(record, self.image_size)
        return record if self.regions else (record["image"], record["label"])


def _dealt(batch: Any, replicas: int) -> tf.data.Dataset:
    """Splits a worker's batch into one batch for each of its replicas, in turn."""
    parts = [tf.nest.map_structure(lambda x, start=start: x[start::replicas], batch) for start in range(replicas)]
    dataset = tf.data.Dataset.from_tensors(parts[0])
    for part in parts[1:]:
        dataset = dataset.concatenate(tf.data.Dataset.from_tensors(part))
    return dataset


def _none_of(spec: Any) -> Any:
    """An empty batch."""
    return tf.nest.map_structure(lambda x: tf.zeros([0, *x.shape[1:]], x.dtype), spec)
