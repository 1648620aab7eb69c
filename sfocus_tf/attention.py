"""Attention maps of given classes, the soft mask made from one, and which classes to look at.

Pure functions of tensors. Source: "Sharpen Focus: Learning with Attention Separability and Consistency", ICCV 2019,
arXiv 1811.07484, whose maps are those of Grad-CAM (Selvaraju et al., ICCV 2017, arXiv 1610.02391).

All sums and divisions are in float32 (or float64 where that came in), whatever the precision policy.
"""

from typing import NamedTuple

import tensorflow as tf

from sfocus_tf.naming import unknown

MECHANISMS = ("grad_cam", "grad_cam_positive", "grad_cam_plus_plus", "hires_cam", "layer_cam")

# Those whose evidence is linear in the score: the evidence of a difference of scores is the difference of the evidence.
LINEAR = ("grad_cam", "hires_cam")

# The least mass of a map that is ever taken for real, whatever the scale of the network.
SMALLEST_FLOOR = 1e-12


class Attention(NamedTuple):
    """The attention of one class at one layer.

    Attributes:
        map: `A = ReLU(E)`, `[batch, height, width]`, not negative and not normalised.
        evidence: `E = sum_k alpha_k * F_k`, of the same shape, below 0 where the features speak against the class.
        capacity: `[batch]`, what the map would sum to if no channel's evidence cancelled another's, ignoring sign:
            `sum over i,j,k of |alpha_k * F_k[i,j]|`. A scale of the picture's own to measure `map` against;
            no gradient flows through it.
    """

    map: tf.Tensor
    evidence: tf.Tensor
    capacity: tf.Tensor


class Classes(NamedTuple):
    """Which classes the attention is taken of.

    Attributes:
        target: `[batch]` int32, the true class T.
        rival: `[batch]` int32, the most confusing class C.
        valid: `[batch]` bool, false where a picture has no target or no rival (multi-label only).
    """

    target: tf.Tensor
    rival: tf.Tensor
    valid: tf.Tensor


def check_mechanism(mechanism: str) -> str:
    """Returns `mechanism`, or raises a `ValueError` with the nearest of `MECHANISMS`."""
    if mechanism not in MECHANISMS:
        raise unknown("attention", mechanism, MECHANISMS)
    return mechanism


def attention(features: tf.Tensor, gradients: tf.Tensor, mechanism: str = "grad_cam") -> Attention:
    """The attention `A = ReLU(sum_k alpha_k * F_k)` of one class.

    What `alpha` is depends on the mechanism, with `g = dY/dF`:

    - "grad_cam": the mean of `g` over positions (Grad-CAM, equation 1).
    - "grad_cam_positive": the mean of `ReLU(g)`, as the public reproduction of the paper has it.
    - "grad_cam_plus_plus": the sum of `ReLU(g) * g^2 / (2 g^2 + g^3 * sum F)` over positions (Chattopadhay et al.,
      WACV 2018, arXiv 1710.11063, equations 10, 11 and 19), without its factor `exp(Y)`, which scales a whole map.
    - "hires_cam": `g` at each position (HiResCAM, Draelos and Carin 2020, arXiv 2011.08891): what each position adds to
      the score, to first order. The same as "grad_cam" at the last layer of a network that ends in average pooling
      and one dense layer.
    - "layer_cam": `ReLU(g)` at each position (Jiang et al., IEEE TIP 2021, equation 5).

    Args:
        features: `F`, feature maps after their activation, `[batch, height, width, channels]`, any float type.
        gradients: `dY/dF` of one class's score, of the same shape.
        mechanism: one of `MECHANISMS`.

    Returns:
        The map, its evidence and its capacity. Differentiable with respect to both arguments.

    Raises:
        ValueError: unknown mechanism.
    """
    features, gradients = _at_least_float32(features), _at_least_float32(gradients)
    if check_mechanism(mechanism) in ("hires_cam", "layer_cam"):
        evidence = (gradients if mechanism == "hires_cam" else tf.nn.relu(gradients)) * features
        total = tf.reduce_sum(evidence, axis=-1)
        capacity = tf.reduce_sum(tf.abs(evidence), axis=(1, 2, 3))
        return Attention(tf.nn.relu(total), total, tf.stop_gradient(capacity))
    return weighted(features, _channel_weights(features, gradients, mechanism))


def weighted(features: tf.Tensor, alpha: tf.Tensor) -> Attention:
    """The attention map `A = ReLU(sum_k alpha_k * F_k)` of given channel weights.

    Args:
        features: `F`, `[batch, height, width, channels]`, any float type.
        alpha: `[batch, channels]`, float32 or float64.

    Returns:
        The map, its evidence and its capacity. Differentiable with respect to both arguments.
    """
    features = _at_least_float32(features)
    total = tf.einsum("bhwk,bk->bhw", features, alpha)
    capacity = tf.reduce_sum(tf.abs(alpha) * tf.reduce_sum(tf.abs(features), axis=(1, 2)), axis=-1)
    return Attention(tf.nn.relu(total), total, tf.stop_gradient(capacity))


def opposite(attended: Attention) -> Attention:
    """The attention of minus the score, where the mechanism is one of `LINEAR`; of the same shapes."""
    return Attention(tf.nn.relu(-attended.evidence), -attended.evidence, attended.capacity)


def _channel_weights(features: tf.Tensor, gradients: tf.Tensor, mechanism: str) -> tf.Tensor:
    """`alpha`, `[batch, channels]`."""
    if mechanism == "grad_cam":
        return tf.reduce_mean(gradients, axis=(1, 2))
    positive = tf.nn.relu(gradients)
    if mechanism == "grad_cam_positive":
        return tf.reduce_mean(positive, axis=(1, 2))
    # Only positions with g > 0 count, so g^2 cancels: no underflow, and nothing to divide by near zero.
    mass = tf.nn.relu(tf.reduce_sum(features, axis=(1, 2), keepdims=True))
    return tf.reduce_sum(positive / (2.0 + mass * positive), axis=(1, 2))


def has_mass(map_: tf.Tensor, floor: tf.Tensor | float = SMALLEST_FLOOR) -> tf.Tensor:
    """Whether a map sums to more than `floor` (scalar or `[batch]`; never less than `SMALLEST_FLOOR`); `[batch]` bool.

    What is divided by the sum or the maximum of a map means nothing where the map has no mass, and its gradients have
    no bound there.
    """
    floor = tf.maximum(tf.cast(floor, map_.dtype), tf.cast(SMALLEST_FLOOR, map_.dtype))
    return tf.reduce_sum(map_, axis=(1, 2)) > floor


def soft_mask(
    target_map: tf.Tensor, sigma: float = 0.55, omega: float = 100.0, floor: tf.Tensor | float = SMALLEST_FLOOR
) -> tf.Tensor:
    """The target object's region, `Mask = sigmoid(omega * (A / max(A) - sigma))`.

    The paper writes the threshold as `sigma * max(A)`; dividing by the picture's own maximum makes `omega` mean the
    same for every picture and network.

    Args:
        target_map: `A(T)` of the last layer, `[batch, height, width]`, not negative.
        sigma: share of the maximum at which the mask is one half, in (0, 1).
        omega: steepness.
        floor: the least sum of a map that counts, scalar or `[batch]`; see `has_mass`.

    Returns:
        `[batch, height, width]` in [0, 1]; `sigmoid(-omega * sigma)`, nearly zero, all over a map without mass.
    """
    alive = has_mass(target_map, floor)[:, tf.newaxis, tf.newaxis]
    peak = tf.reduce_max(target_map, axis=(1, 2), keepdims=True)
    share = tf.where(alive, target_map, tf.zeros_like(target_map)) / tf.where(alive, peak, tf.ones_like(peak))
    return tf.sigmoid(omega * (share - sigma))


def graded_region(target_map: tf.Tensor) -> tf.Tensor:
    """The target object's region by degrees, `A / max(A)`: the share of its maximum that the map reaches at each place.

    Args:
        target_map: `A(T)` of the last layer, `[batch, height, width]`, not negative.

    Returns:
        `[batch, height, width]` in [0, 1], zero all over a map without mass; a constant, which no gradient flows
        through.
    """
    target_map = tf.stop_gradient(target_map)
    return tf.math.divide_no_nan(target_map, tf.reduce_max(target_map, axis=(1, 2), keepdims=True))


def resize_map(map_: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Bilinear resizing of `[batch, height, width]` to `[batch, *size]`, as `tf.image.resize` does it.

    As two products with matrices, which keep float64, run on every device, and are cheap to differentiate twice.
    """
    rows = _interpolation(tf.shape(map_)[1], size[0], map_.dtype)
    columns = _interpolation(tf.shape(map_)[2], size[1], map_.dtype)
    return tf.einsum("Hh,bhw,Ww->bHW", rows, map_, columns)


def _interpolation(old: tf.Tensor, new: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """`[new, old]`, how much of each old position goes into each new one; positions are pixel centres."""
    last = tf.cast(old - 1, dtype)
    places = (tf.cast(tf.range(new), dtype) + 0.5) * tf.cast(old, dtype) / tf.cast(new, dtype) - 0.5
    places = tf.clip_by_value(places, tf.zeros((), dtype), last)
    return tf.nn.relu(1.0 - tf.abs(places[:, tf.newaxis] - tf.cast(tf.range(old), dtype)))


def labelled_classes(
    scores: tf.Tensor, labels: tf.Tensor, multi_label: bool = False, ignore_class: int | None = None
) -> Classes:
    """The target and the most confusing class of each picture, from its label.

    Single-label: T is the label (of a one-hot, smoothed or mixed label, the class with most of it) and C the other
    class with the highest score. Multi-label: T is the present class with the highest score, C the absent one.

    Args:
        scores: `[batch, classes]`, before softmax or sigmoid.
        labels: class numbers, `[batch]` or `[batch, 1]`, or a row for each picture, `[batch, classes]`.
        multi_label: whether a picture may have several classes; labels above 0.5 are present; NaN leaves a class
            out.
        ignore_class: a class number that says "no label", as Keras' sparse cross-entropy takes it; the target of such
            an image is the predicted class, and it is not valid.

    Returns:
        Class numbers and which pictures have both.

    Raises:
        ValueError: labels of another shape.
        tf.errors.InvalidArgumentError: a class number outside [0, classes), or without `multi_label` a row with several
            classes above 0.5 (not checked under XLA).
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
    """Labels with the predicted class in place of `ignore_class`, and which images have a label, `[batch]` bool."""
    if ignore_class is None or (labels.shape.rank == 2 and labels.shape[-1] == scores.shape[-1]):
        return labels, tf.ones(tf.shape(labels)[:1], tf.bool)
    numbers = tf.reshape(labels, [-1])
    labelled = tf.not_equal(tf.cast(numbers, tf.int32), ignore_class)
    predicted = tf.cast(tf.argmax(scores, axis=-1), numbers.dtype)
    return tf.where(labelled, numbers, predicted), labelled


def predicted_classes(scores: tf.Tensor, multi_label: bool = False) -> Classes:
    """The target and rival when no label is known: the predicted class, and the best of those not predicted.

    Single-label: the two highest scores. Multi-label: the highest score, and the highest among the classes predicted
    absent (score of 0 or less); where all are predicted present, the second highest.

    Args:
        scores: `[batch, classes]`, before softmax or sigmoid.
        multi_label: whether a picture may have several classes.

    Returns:
        Class numbers; every picture is valid.
    """
    target = tf.argmax(scores, axis=-1, output_type=tf.int32)
    rival = rival_of(scores, target)
    if multi_label:
        absent = (scores <= 0) & ~tf.one_hot(target, scores.shape[-1], on_value=True, off_value=False)
        rival = tf.where(tf.reduce_any(absent, axis=-1), _best(scores, absent), rival)
    return Classes(target, rival, tf.ones_like(target, tf.bool))


def rival_of(scores: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """The class with the highest score among those that are not `target`; `[batch]` int32."""
    return _best(scores, ~tf.one_hot(target, scores.shape[-1], on_value=True, off_value=False))


def class_numbers(labels: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Labels in any single-label form as `[batch]` int32; see `labelled_classes` for the forms and errors."""
    labels = tf.convert_to_tensor(labels)
    if labels.shape.rank == 2 and labels.shape[-1] == num_classes:
        several = tf.debugging.assert_less(
            tf.reduce_sum(tf.cast(tf.cast(labels, tf.float32) > 0.5, tf.int32), axis=-1),
            2,
            "labels: a picture has several classes; SharpenFocus(..., multi_label=True) is for such labels",
        )
        with tf.control_dependencies([several] if several is not None else []):
            return tf.argmax(labels, axis=-1, output_type=tf.int32)
    if labels.shape.rank not in (1, 2) or (labels.shape.rank == 2 and labels.shape[-1] != 1):
        raise ValueError(
            f"labels: expected class numbers [batch] or [batch, 1], or rows [batch, {num_classes}], got {labels.shape}."
        )
    numbers = tf.cast(tf.reshape(labels, [-1]), tf.int32)
    message = f"labels must be class numbers from 0 to {num_classes - 1}, one for each picture"
    checks = [
        tf.debugging.assert_non_negative(numbers, message),
        tf.debugging.assert_less(numbers, num_classes, message),
    ]
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tf.identity(numbers)


def _best(scores: tf.Tensor, among: tf.Tensor) -> tf.Tensor:
    lowest = tf.fill(tf.shape(scores), scores.dtype.min)
    return tf.argmax(tf.where(among, scores, lowest), axis=-1, output_type=tf.int32)


def _at_least_float32(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x
