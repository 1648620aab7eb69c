"""Chooses the two classes to compute attention for: the target and its most confusing rival."""

from typing import NamedTuple

import tensorflow as tf


class Classes(NamedTuple):
    """The classes to compute attention for.

    Attributes:
        target: `[batch]` int32, the true class T.
        rival: `[batch]` int32, the most confusing class C.
        valid: `[batch]` bool, false if an image has no target or no rival (multi-label), or no label (`ignore_class`).
    """

    target: tf.Tensor
    rival: tf.Tensor
    valid: tf.Tensor


def labelled_classes(
    scores: tf.Tensor, labels: tf.Tensor, multi_label: bool = False, ignore_class: int | None = None
) -> Classes:
    """The target and the most confusing class of each image, from its label.

    Single-label: T is the label (the largest entry of a one-hot, smoothed or mixed label), C the other class with the
    highest score. Multi-label: T is the present class with the highest score, C the absent one with the highest score.

    Args:
        scores: `[batch, classes]`, before softmax or sigmoid.
        labels: class numbers, `[batch]` or `[batch, 1]`, or one row per image, `[batch, classes]`.
        multi_label: whether images may have several classes; classes with labels above 0.5 are present, NaN ignores a
            class.
        ignore_class: a class number that means "no label", as in Keras' sparse cross-entropy; the target of such an
            image is the predicted class, and the image is not valid.

    Returns:
        The classes; images without both are not valid.

    Raises:
        ValueError: the labels have another shape.
        tf.errors.InvalidArgumentError: a class number is outside [0, classes), or without `multi_label` a row has
            several classes above 0.5 (not checked under XLA).
    """
    if multi_label:
        labels = tf.convert_to_tensor(labels)
        if labels.shape.rank != 2 or labels.shape[-1] != scores.shape[-1]:
            raise ValueError(
                f"labels: expected rows of 0 and 1, [batch, {scores.shape[-1]}], for multi_label, got {labels.shape}."
            )
        present = tf.cast(labels, tf.float32) > 0.5
        absent = tf.cast(labels, tf.float32) <= 0.5
        both = tf.reduce_any(present, axis=-1) & tf.reduce_any(absent, axis=-1)
        return Classes(_best(scores, present), _best(scores, absent), both)
    labels, labelled = _without_ignored(scores, tf.convert_to_tensor(labels), ignore_class)
    target = class_numbers(labels, scores.shape[-1])
    return Classes(target, rival_of(scores, target), labelled)


def _without_ignored(scores: tf.Tensor, labels: tf.Tensor, ignore_class: int | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels with `ignore_class` replaced by the predicted class, and which images have a label, `[batch]` bool."""
    if ignore_class is None or (labels.shape.rank == 2 and labels.shape[-1] == scores.shape[-1]):
        return labels, tf.ones(tf.shape(labels)[:1], tf.bool)
    numbers = tf.reshape(labels, [-1])
    labelled = tf.not_equal(tf.cast(numbers, tf.int32), ignore_class)
    predicted = tf.cast(tf.argmax(scores, axis=-1), numbers.dtype)
    return tf.where(labelled, numbers, predicted), labelled


def trained_classes(
    scores: tf.Tensor, labels: tf.Tensor, multi_label: bool = False, ignore_class: int | None = None
) -> Classes:
    """As `labelled_classes`, with the predicted classes for multi-label images without both classes.

    These images are not valid and do not count in the losses, but have an explanation.
    """
    labelled = labelled_classes(scores, labels, multi_label, ignore_class)
    if not multi_label:
        return labelled
    predicted = predicted_classes(scores, multi_label)
    target = tf.where(labelled.valid, labelled.target, predicted.target)
    return Classes(target, tf.where(labelled.valid, labelled.rival, predicted.rival), labelled.valid)


def named_classes(scores: tf.Tensor, target_ids: tf.Tensor, rival_ids: tf.Tensor, multi_label: bool = False) -> Classes:
    """Classes by number, `[batch]` int32; negative numbers choose by score.

    Without a target, both are the predicted classes. Without a rival, or if it equals the target, the rival is the
    best of the other classes.

    Raises:
        tf.errors.InvalidArgumentError: a number is not below the number of classes (not checked under XLA).
    """
    highest = tf.maximum(target_ids, rival_ids)
    message = f"class_ids, rival_ids: expected class numbers from -1 to {scores.shape[-1] - 1}"
    valid = tf.debugging.assert_less(highest, tf.cast(scores.shape[-1], highest.dtype), message)
    with tf.control_dependencies([valid] if valid is not None else []):
        target_ids, rival_ids = tf.identity(target_ids), tf.identity(rival_ids)
    predicted = predicted_classes(scores, multi_label)
    target = tf.where(target_ids < 0, predicted.target, target_ids)
    rival = tf.where(target_ids < 0, predicted.rival, rival_of(scores, target))
    is_open = (rival_ids < 0) | tf.equal(rival_ids, target)
    return Classes(target, tf.where(is_open, rival, rival_ids), predicted.valid)


def predicted_classes(scores: tf.Tensor, multi_label: bool = False) -> Classes:
    """The target and rival without labels: the predicted class, and the best class that is not predicted.

    Single-label: the two highest scores. Multi-label: the highest score, and the highest among the classes predicted
    absent (score of 0 or less); if all are predicted present, the second highest.

    Args:
        scores: `[batch, classes]`, before softmax or sigmoid.
        multi_label: whether images may have several classes.

    Returns:
        The classes; every image is valid.
    """
    target = tf.argmax(scores, axis=-1, output_type=tf.int32)
    rival = rival_of(scores, target)
    if multi_label:
        absent = (scores <= 0) & ~tf.one_hot(target, scores.shape[-1], on_value=True, off_value=False)
        rival = tf.where(tf.reduce_any(absent, axis=-1), _best(scores, absent), rival)
    return Classes(target, rival, tf.ones_like(target, tf.bool))


def rival_of(scores: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """The class with the highest score other than `target`; `[batch]` int32."""
    return _best(scores, ~tf.one_hot(target, scores.shape[-1], on_value=True, off_value=False))


def class_numbers(labels: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Labels in any single-label form as `[batch]` int32; see `labelled_classes` for the forms and errors."""
    labels = tf.convert_to_tensor(labels)
    if labels.shape.rank == 2 and labels.shape[-1] == num_classes:
        several = tf.debugging.assert_less(
            tf.reduce_sum(tf.cast(tf.cast(labels, tf.float32) > 0.5, tf.int32), axis=-1),
            2,
            "labels: an image has several classes; SharpenFocus(..., multi_label=True) is for such labels",
        )
        with tf.control_dependencies([several] if several is not None else []):
            return tf.argmax(labels, axis=-1, output_type=tf.int32)
    if labels.shape.rank not in (1, 2) or (labels.shape.rank == 2 and labels.shape[-1] != 1):
        raise ValueError(
            f"labels: expected class numbers [batch] or [batch, 1], or rows [batch, {num_classes}], got {labels.shape}."
        )
    numbers = tf.cast(tf.reshape(labels, [-1]), tf.int32)
    message = f"labels must be class numbers from 0 to {num_classes - 1}, one for each image"
    checks = [
        tf.debugging.assert_non_negative(numbers, message),
        tf.debugging.assert_less(numbers, num_classes, message),
    ]
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tf.identity(numbers)


def _best(scores: tf.Tensor, among: tf.Tensor) -> tf.Tensor:
    lowest = tf.fill(tf.shape(scores), scores.dtype.min)
    return tf.argmax(tf.where(among, scores, lowest), axis=-1, output_type=tf.int32)
