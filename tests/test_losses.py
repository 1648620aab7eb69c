"""The losses, against numbers worked out by hand and properties that must hold for any map."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from sfocus_tf import attention, losses
from sfocus_tf.attention import Attention, AttentionPair
from sfocus_tf.losses import Objective, Term, objective


def maps(*rows):
    return tf.constant(np.array(rows, np.float32)[:, np.newaxis, :])


def test_separation_worked_out_by_hand():
    """min = (1, 2, 0), masked (1, 1, 0) -> 3; sums 6 + 4 -> 2 * 3 / 10. The second image does not overlap."""
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


@pytest.mark.parametrize(("separation", "inner", "last"), [("overlap", 0.2, 0.2), ("rival", 0.4, 0.4)])
def test_terms_of_an_image_look_into_the_region_of_the_last_layer(separation, inner, last):
    """The region is the first of three positions. L_AS: 2 * min(4, 1) / 10; rival: 2 * 2 / 10 at a probability of one
    half or more. The last layer of the second image found nothing, so that it has no region at the inner layer either.
    """

    def attended(*rows):
        return Attention(maps(*rows), maps(*rows), tf.constant([6.0, 6.0]))

    target, rival = attended([4, 1, 1], [4, 1, 1]), attended([1 if separation == "overlap" else 2, 1, 1], [1, 2, 1])
    of_rival = tf.reduce_sum(rival.map[0])
    pair_inner, pair_last = AttentionPair(target, rival), AttentionPair(attended([4, 1, 1], [0, 0, 0]), rival)
    found, _ = losses.image_terms(Objective(separation), pair_inner, pair_last, tf.constant([0.5, 0.5]))
    scale = 10 / (6 + float(of_rival))
    np.testing.assert_allclose(found[0], [inner * scale, 0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[1], [last * scale, 0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("separation", losses.SEPARATIONS)
@pytest.mark.parametrize("mask_gradient", [True, False])
def test_the_region_may_be_constant(separation, mask_gradient):
    """Then the last layer's map has no gradient from consistency, which only reads its region, nor the target's map
    from the rival's loss; the losses are the same.
    """
    target = maps([4, 2, 1])
    rival = attended = Attention(maps([1, 2, 1]), maps([1, 2, 1]), tf.constant([6.0]))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(target)
        pair = AttentionPair(Attention(target, target, tf.constant([7.0])), rival)
        setting = Objective(separation, omega=5.0, mask_gradient=mask_gradient)
        terms, _ = losses.image_terms(setting, AttentionPair(attended, rival), pair, tf.constant([0.5]))
        exact, _ = losses.image_terms(
            Objective(separation, omega=5.0, mask_gradient=True), AttentionPair(attended, rival), pair, tf.ones(1)
        )
    for term, same in zip(terms, exact, strict=True):
        np.testing.assert_allclose(term, same, rtol=1e-6)
    of_inner, of_last, of_consistency = (
        0.0 if slope is None else np.abs(slope).max() for slope in (tape.gradient(term, target) for term in terms)
    )
    assert (of_consistency > 1e-3) == mask_gradient
    assert (of_inner > 1e-3) == (mask_gradient and separation == "overlap")
    assert (of_last > 1e-3) == (separation == "overlap")


def test_rival_of_an_image_without_attention_is_zero_in_float64():
    nothing = tf.zeros([1, 2, 2], tf.float64)
    loss = losses.rival_loss(nothing, nothing + 1, nothing, tf.constant([0.5], tf.float64))
    assert loss.dtype == tf.float64 and loss[0] == 0


def test_consistency_worked_out_by_hand():
    """(4 * 1 + 2 * 0.5) / 8 = 0.625 inside -> 0.8 - 0.625; all inside -> 0.8 - 1."""
    loss = losses.consistency_loss(maps([4, 2, 2], [3, 0, 0]), maps([1, 0.5, 0], [1, 0, 0]), theta=0.8)
    np.testing.assert_allclose(loss, [0.175, -0.2], rtol=1e-5)


def test_an_image_below_the_floor_counts_as_zero_and_no_other_changes():
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


def test_images_do_not_see_each_other():
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
    bound = (3 + 100 * size * size / 2) / attention.SMALLEST_FLOOR
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
    term = Term(0.5, warmup=0.1, ramp=0.04, every_steps=3)

    def at(method, step, steps=100):
        return float(method(tf.constant(step, tf.int64), tf.constant(steps, tf.int64)))

    assert [at(term.ramp_at, step) for step in (0, 9, 10, 11, 12, 13, 14, 16, 100)] == [
        0,
        0,
        0,
        0.25,
        0.5,
        0.75,
        1,
        1,
        1,
    ]
    assert [at(term.boost_at, step) for step in (10, 11, 12, 13)] == [3, 0, 0, 3]
    at_once = Term(1.0, warmup=0.02)
    assert [at(at_once.ramp_at, step) for step in (1, 2)] == [0, 1]
    assert [at(term.ramp_at, step, 0) for step in (0, 7)] == [1, 1]  # of a run of unknown length


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("weight", -1),
        ("weight", float("nan")),
        ("every_steps", 0),
        ("every_steps", 1.5),
        ("every_steps", 2.0),
        ("warmup", -0.1),
        ("ramp", 1.1),
    ],
)
def test_term_out_of_range(argument, value):
    with pytest.raises(ValueError, match=argument):
        Term(**{argument: value})


def test_named_objectives_and_what_changes_in_them():
    assert objective("paper").terms == dict.fromkeys(losses.TERMS, Term(1.0))
    late = objective("default", last=0.1)
    assert late.last == Term(0.1, 0.1, 0.1, 4) and late.inner == Term(0.03, 0.1, 0.1, 4)
    assert objective("light", last={"every_steps": 3}).last == Term(2.0, 0.1, 0.1, 3)
    assert objective("light").inner.weight == objective("light").consistency.weight == 0
    assert objective("paper", consistency=Term(0.5, ramp=0.2)).consistency == Term(0.5, ramp=0.2)
    with pytest.raises(TypeError, match=r"inner=0.3: expected a Term, such as Term\(0.03\)"):
        Objective(inner=0.3)
    with pytest.raises(ValueError, match="steps=10.5: expected a positive whole number"):
        objective(steps=10.5)
    with pytest.raises(ValueError, match="objective='papr' is not known. Did you mean 'paper'"):
        objective("papr")
    with pytest.raises(ValueError, match="objective: setting='consistancy' is not known. Did you mean 'consistency'"):
        objective("paper", consistancy=1.0)
    with pytest.raises(ValueError, match="setting of last='warmup_steps' is not known. Did you mean 'warmup'"):
        objective("paper", last={"warmup_steps": 3})
    with pytest.raises(ValueError, match="separation='margin' is not known. .*Valid: overlap, rival"):
        objective("paper", separation="margin")
    with pytest.raises(ValueError, match="of='contrast' is not known. .*Valid: auto, score, relative"):
        objective("paper", of="contrast")
    with pytest.raises(ValueError, match="steps=0: expected a positive whole number"):
        objective("paper", steps=0)
