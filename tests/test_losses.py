"""The losses, against numbers worked out by hand and properties that must hold for any map."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from sfocus_tf import attention, losses
from sfocus_tf.attention import Attention, Maps
from sfocus_tf.losses import Settings, Term


def maps(*rows):
    return tf.constant(np.array(rows, np.float32)[:, np.newaxis, :])


def test_separation_worked_out_by_hand():
    """min = (1, 2, 0), masked (1, 1, 0) -> 3; sums 6 + 4 -> 2 * 3 / 10. The second picture does not overlap."""
    target, rival = maps([4, 2, 0], [1, 0, 0]), maps([1, 2, 1], [0, 0, 5])
    loss = losses.separation_loss(target, rival, maps([1, 1, 0], [1, 1, 1]))
    np.testing.assert_allclose(loss, [0.6, 0.0], rtol=1e-6)


def test_separation_of_equal_maps_inside_the_mask_is_one():
    map_ = maps([0.2, 0.3, 5])
    np.testing.assert_allclose(losses.separation_loss(map_, map_, tf.ones_like(map_)), [1.0], rtol=1e-6)


def test_rival_worked_out_by_hand():
    """Inside 1 + 2, sums 6 + 4: 2 * 3 / 10 at p = 0.5, and 0.4 of it at p = 0.1. Only the rival's map has a gradient,
    the same where it is the lower and where it is the higher one, and none outside.
    """
    target, rival, mask = maps([4, 1, 1], [4, 1, 1]), maps([1, 2, 1], [1, 2, 1]), maps([1, 1, 0], [1, 1, 0])
    with tf.GradientTape() as tape:
        tape.watch([target, rival, mask])
        loss = losses.rival_loss(target, rival, mask, tf.constant([0.1, 0.5]))
    np.testing.assert_allclose(loss, [0.24, 0.6], rtol=1e-6)
    of_target, of_rival, of_mask = tape.gradient(loss, [target, rival, mask])
    assert of_target is None and of_mask is None
    np.testing.assert_allclose(of_rival[1, 0], [0.2, 0.2, 0.0], rtol=1e-6)


@pytest.mark.parametrize(("separation", "expected"), [("outside", 0.6), ("rival", 0.2)])
def test_part_of_the_picture_in_which_the_rival_gives_way(separation, expected):
    """The region is the first of three positions: 2 * (2 + 1) / 10 outside of it, 2 * 1 / 10 in it. The last layer of
    the second picture found nothing, so that it has no region and no outside at the inner layer either.
    """

    def attended(*rows):
        return Attention(maps(*rows), maps(*rows), tf.constant([6.0, 6.0]))

    target, rival = attended([4, 1, 1], [4, 1, 1]), attended([1, 2, 1], [1, 2, 1])
    found = Maps(target, rival, attended([4, 1, 1], [0, 0, 0]), rival)
    (inner, last, _), _ = Settings(separation).terms(found, tf.constant([0.5, 0.5]))
    np.testing.assert_allclose(inner, [expected, 0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(last, [expected, 0], rtol=1e-4, atol=1e-6)


def test_rival_of_a_picture_without_attention_is_zero_in_float64():
    nothing = tf.zeros([1, 2, 2], tf.float64)
    loss = losses.rival_loss(nothing, nothing + 1, nothing, tf.constant([0.5], tf.float64))
    assert loss.dtype == tf.float64 and loss[0] == 0


def test_margin_worked_out_by_hand():
    """n (E(C) - E(T)) = 3 * (0, -1, 1); softplus of it weighted 2/3, 1/3, 0. An empty region has nothing to ask."""
    target, rival = maps([1, 0, -1], [1, 0, -1]), maps([1, -1, 0], [1, -1, 0])
    loss = losses.margin_loss(target, rival, maps([1, 0.5, 0], [0, 0, 0]))
    np.testing.assert_allclose(loss, [(np.log(2) + 0.5 * np.log1p(np.exp(-3))) / 1.5, 0.0], rtol=1e-6)


def test_margin_of_any_evidence_has_a_bounded_gradient():
    rng = np.random.default_rng(0)
    target, rival = (tf.constant(rng.normal(size=(3, 4, 4)) * 10.0 ** np.array([-9, 0, 9])[:, None, None])
                     for _ in range(2))  # fmt: skip
    with tf.GradientTape() as tape:
        tape.watch([target, rival])
        loss = losses.margin_loss(target, rival, tf.constant(rng.random((3, 4, 4))))
    gradients = tape.gradient(loss, [target, rival])
    assert np.isfinite(loss).all()
    np.testing.assert_allclose(gradients[0], -gradients[1])
    assert np.all(np.sum(np.abs(gradients[0]), axis=(1, 2)) <= 16)


def test_difference_worked_out_by_hand():
    """D = (3, -1, 0): 1 of 4 is the rival's. Of D = (1, -1, 0) it is half; a picture below its floor counts as zero."""
    target, rival = maps([4, 1, 1], [1, 0, 2], [3, 1, 0]), maps([1, 2, 1], [0, 1, 2], [0, 0, 0])
    floor = tf.constant([0, 0, 4.5])
    np.testing.assert_allclose(losses.difference_loss(target, rival, floor), [0.25, 0.5, 0], rtol=1e-6)


def test_difference_counts_pictures_by_the_evidence_of_both_classes():
    """|D| sums to 0.08: under 5 % of 1 + 1, and over 5 % of 1 + 0.2."""
    evidence = maps([0.06, 0.02, 0.5], [0.06, 0.02, 0.5])
    target = Attention(evidence, evidence, tf.constant([1.0, 1.0]))
    rival = Attention(evidence, maps([0, 0.04, 0.5], [0, 0.04, 0.5]), tf.constant([1.0, 0.2]))
    (_, last, _), _ = Settings("difference").terms(Maps(target, rival, target, rival), tf.constant([0.5, 0.5]))
    np.testing.assert_allclose(last, [0, 0.25], rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_difference_heeds_neither_scale_nor_what_both_classes_share(scale):
    rng = np.random.default_rng(0)
    target, rival, shared = (tf.constant(rng.normal(size=(5, 4, 3))) for _ in range(3))
    expected = losses.difference_loss(target, rival)
    np.testing.assert_allclose(losses.difference_loss(scale * target, scale * rival), expected)
    np.testing.assert_allclose(losses.difference_loss(target + shared, rival + shared), expected)
    np.testing.assert_allclose(losses.difference_loss(rival, target), 1 - expected)


def test_difference_of_any_evidence_has_a_gradient_within_its_bound():
    rng = np.random.default_rng(0)
    scales = 10.0 ** np.array([-9, 0, 9])
    target, rival = (tf.constant(rng.normal(size=(3, 4, 4)) * scales[:, None, None]) for _ in range(2))
    floor = np.sum(np.abs(target - rival), axis=(1, 2)) * 0.999
    with tf.GradientTape() as tape:
        tape.watch([target, rival])
        loss = losses.difference_loss(target, rival, floor)
    of_target, of_rival = tape.gradient(loss, [target, rival])
    np.testing.assert_allclose(of_target, -of_rival)
    largest = np.max(np.abs(of_target), axis=(1, 2)) * floor
    assert np.all(largest <= 1) and np.all(largest > 0.1)


def test_consistency_worked_out_by_hand():
    """(4 * 1 + 2 * 0.5) / 8 = 0.625 inside -> 0.8 - 0.625; all inside -> 0.8 - 1."""
    loss = losses.consistency_loss(maps([4, 2, 2], [3, 0, 0]), maps([1, 0.5, 0], [1, 0, 0]), theta=0.8)
    np.testing.assert_allclose(loss, [0.175, -0.2], rtol=1e-5)


def test_a_picture_below_the_floor_counts_as_zero_and_no_other_changes():
    target, rival = maps([4, 2, 0], [4, 2, 0]), maps([1, 2, 1], [1, 2, 1])
    mask = tf.ones_like(target)
    floor = tf.constant([0.0, 6.5])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(target)
        separation = losses.separation_loss(target, rival, mask, floor)
        consistency = losses.consistency_loss(target, mask, floor=floor)
    assert separation[1] == 0 and consistency[1] == 0
    assert separation[0] > 0 and consistency[0] < 0
    assert np.all(tape.gradient(separation, target)[1] == 0)
    assert np.all(tape.gradient(consistency, target)[1] == 0)


def test_pictures_do_not_see_each_other():
    rng = np.random.default_rng(0)
    target, rival, mask = (tf.constant(rng.random((6, 5, 5), dtype=np.float32)) for _ in range(3))
    whole = losses.separation_loss(target, rival, mask), losses.consistency_loss(target, mask)
    for row in range(6):
        one = slice(row, row + 1)
        assert losses.separation_loss(target[one], rival[one], mask[one])[0] == whole[0][row]
        assert losses.consistency_loss(target[one], mask[one])[0] == whole[1][row]


def test_scale_of_both_maps_does_not_matter():
    rng = np.random.default_rng(0)
    target, rival = (tf.constant(rng.random((4, 5, 5), dtype=np.float32)) for _ in range(2))
    mask = attention.soft_mask(target)
    plain = losses.separation_loss(target, rival, mask)
    np.testing.assert_allclose(losses.separation_loss(target * 64, rival * 64, mask), plain, rtol=1e-5)


def total_loss(target, rival, inner):
    mask, has_region = attention.soft_mask(target), attention.has_mass(target)
    return losses.separation_loss(target, rival, mask) + losses.consistency_loss(inner, mask, has_region=has_region)


@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(
    kinds=st.tuples(*[st.sampled_from(["zero", "pixel", "flat", "random", "sparse"])] * 3),
    exponents=st.tuples(*[st.integers(-30, 30)] * 3),
    size=st.sampled_from([1, 2, 7]),
    batch=st.sampled_from([1, 3]),
    seed=st.integers(0, 10_000),
)
@hypothesis.example(kinds=("random", "zero", "flat"), exponents=(-7, 0, 30), size=7, batch=1, seed=0)
def test_any_maps_give_finite_bounded_losses_and_gradients_of_both_orders(kinds, exponents, size, batch, seed):
    """Maps of zero, one pixel, 1e-30 and 1e30, alone or mixed in one batch."""
    rng = np.random.default_rng(seed)

    def make(kind, exponent):
        map_ = rng.random((batch, size, size))
        if kind == "zero":
            map_[:] = 0
        elif kind == "pixel":
            map_[:, 1:] = 0
            map_[:, :, 1:] = 0
        elif kind == "flat":
            map_[:] = 1
        elif kind == "sparse":
            map_ *= rng.random(map_.shape) < 0.3
        return tf.constant(map_ * 10.0**exponent, tf.float32)

    given = [make(kind, exponent) for kind, exponent in zip(kinds, exponents, strict=True)]
    with tf.GradientTape() as outer:
        outer.watch(given)
        with tf.GradientTape() as inner:
            inner.watch(given)
            loss = total_loss(*given)
        gradients = inner.gradient(loss, given)
        norm = tf.add_n([tf.reduce_sum(tf.abs(gradient)) for gradient in gradients])
    second = outer.gradient(norm, given)
    assert np.all(loss >= -0.2 - 1e-5) and np.all(loss <= 1.8 + 1e-5)
    bound = (3 + 100 * size * size / 2) / losses.SMALLEST_FLOOR
    for gradient in gradients:
        assert np.all(np.abs(gradient) <= 2 * bound)
    for tensor in second:
        assert tensor is None or np.all(np.isfinite(tensor))


def test_consistency_without_a_region_counts_as_zero():
    inner = maps([1, 2, 3])
    last = maps([0, 0, 0])
    loss = losses.consistency_loss(inner, attention.soft_mask(last), has_region=attention.has_mass(last))
    assert loss[0] == 0


def test_term_over_the_steps():
    term = Term(0.5, warmup_steps=10, ramp_steps=4, every_steps=3)
    steps = [0, 9, 10, 11, 12, 13, 14, 16, 100]
    ramps = [float(term.ramp(tf.constant(step, tf.int64))) for step in steps]
    assert ramps == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    boosts = [float(term.boost(tf.constant(step, tf.int64))) for step in (10, 11, 12, 13)]
    assert boosts == [3, 0, 0, 3]
    at_once = Term(1.0, warmup_steps=2)
    assert [float(at_once.ramp(tf.constant(step, tf.int64))) for step in (1, 2)] == [0, 1]


@pytest.mark.parametrize(
    ("argument", "value"), [("weight", -1), ("weight", float("nan")), ("every_steps", 0), ("warmup_steps", -3)]
)
def test_term_out_of_range(argument, value):
    with pytest.raises(ValueError, match=argument):
        Term(**{argument: value})
