"""The training objective: the attention losses added to cross-entropy, their settings and schedule."""

import dataclasses
import numbers
from typing import Any

from sfocus_tf.attention import explained_by_default
from sfocus_tf.errors import unknown
from sfocus_tf.losses.schedule import Term

SEPARATIONS = ("overlap", "rival")
TRAINED_ON = ("auto", "score", "relative")
# Late, as the attention of a random head is noise; every fourth step, to cost little.
_INNER, _LAST, _CONSISTENCY = (Term(weight, warmup=0.1, ramp=0.1, every_steps=4) for weight in (0.03, 2.0, 0.3))


@dataclasses.dataclass(frozen=True)
class Objective:
    """The attention losses that `SharpenFocus` adds to the classification loss.

        L = L_classification + w1 * L_AS(inner) + w2 * L_AS(last) + w3 * L_AC

    `Objective()` is "default"; `sfocus_tf.objective` has the other named ones. The warmup and ramp of a term are shares
    of one `fit`, from epoch 0 to `epochs`. Source: "Sharpen Focus: Learning with Attention Separability and
    Consistency", ICCV 2019, arXiv 1811.07484.

    Attributes:
        separation: form of the separation loss: "overlap", the paper's `sfocus_tf.losses.separation_loss`, which
            changes the attention of both classes; or "rival", `sfocus_tf.losses.rival_loss`, which changes only the
            rival's, and that by its channel weights alone: the features that these multiply, which other classes need
            too, are constants.
        inner: the separation loss at the inner layer.
        last: the separation loss at the last layer.
        consistency: the consistency loss, `sfocus_tf.losses.consistency_loss`.
        of: what the maps explain: "score"; "relative" for the scores minus their mean over the classes, since softmax
            ignores shifts of all scores (single-label, three classes or more); or "auto", "relative" where that is
            possible, else "score"; see `sfocus_tf.attention.explained_by_default`.
        mask_gradient: differentiate the losses through the soft mask, as in the paper; `False` treats the region as a
            constant ("rival" always does).
        second_order: differentiate the attention through its channel weights, as in the paper; `False` treats them as
            constants, which is cheaper but another method ("rival" then changes the features).
        sigma: threshold of the soft mask, in [0, 1]; see `sfocus_tf.attention.soft_mask`.
        omega: steepness of the soft mask, in [0, 10000].
        theta: share of the inner attention that should lie inside the mask, in [0, 1].
        minimum_mass: the losses of images whose target map holds less than this share of the absolute evidence (its
            `capacity`, see `sfocus_tf.attention.Attention`) are zero; in [0, 1], 0 leaves no image out.
        per_class: for a multi-label classifier, divide the weights by the number of classes, as binary cross-entropy is
            a mean over the classes.
        steps: optimizer steps of the whole run, if `fit` cannot know them: with `train_on_batch`, or for a run in
            several calls of `fit`.

    Raises:
        TypeError: a term that is no `Term`.
        ValueError: an unknown name, or a number out of range.
    """

    separation: str = "rival"
    inner: Term = _INNER
    last: Term = _LAST
    consistency: Term = _CONSISTENCY
    of: str = "auto"
    mask_gradient: bool = False
    second_order: bool = True
    sigma: float = 0.55
    omega: float = 100.0
    theta: float = 0.8
    minimum_mass: float = 0.05
    per_class: bool = True
    steps: int | None = None

    def __post_init__(self) -> None:
        for name, valid in (("separation", SEPARATIONS), ("of", TRAINED_ON)):
            if getattr(self, name) not in valid:
                raise unknown(name, getattr(self, name), valid)
        for name, high in (("sigma", 1), ("theta", 1), ("minimum_mass", 1), ("omega", 1e4)):
            if not 0 <= getattr(self, name) <= high:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a number from 0 to {high:g}.")
        for name in ("inner", "last", "consistency"):
            if not isinstance(getattr(self, name), Term):
                raise TypeError(f"{name}={getattr(self, name)!r}: expected a Term, such as Term({_INNER.weight}).")
        if self.steps is not None and not (isinstance(self.steps, numbers.Integral) and self.steps >= 1):
            raise ValueError(f"steps={self.steps!r}: expected a positive whole number, or None if fit knows it.")

    def explained(self, num_classes: int, multi_label: bool) -> str:
        """What the maps explain, "score" or "relative"; a `ValueError` for relative maps of two classes."""
        if self.of == "auto":
            return explained_by_default(num_classes, multi_label)
        if self.of == "relative" and num_classes == 2:
            raise ValueError(
                "objective: of='relative': of two classes each map is the negative of the other, and they never "
                "overlap. Expected of='auto' or of='score'."
            )
        return self.of

    @property
    def rival_features(self) -> bool:
        """Whether the rival's attention is differentiated through the features."""
        return self.separation != "rival" or not self.second_order

    @property
    def terms(self) -> dict[str, Term]:
        """The terms by log name."""
        return {"separation_inner": self.inner, "separation_last": self.last, "consistency": self.consistency}


OBJECTIVES = {
    # The paper's equations: all weights 1 from the first step, no image left out. For several labels they are meant
    # beside a sum over the classes; with Keras' mean over them, each is divided by the number of classes.
    "paper": Objective("overlap", Term(1.0), Term(1.0), Term(1.0), of="score", mask_gradient=True, minimum_mass=0.0),
    "default": Objective(),
    "light": Objective(inner=Term(0.0), last=Term(2.0, warmup=0.1, ramp=0.1), consistency=Term(0.0)),
}


def objective(name: str = "default", **changes: Any) -> Objective:
    """Creates an objective by name, with some settings changed.

    Example:
        ```python
        sf.objective("paper", consistency=0.3, inner=sf.Term(1.0, warmup=0.1))
        ```

    Args:
        name: "paper", the exact equations; "default", a gentler form of all three terms; or "light", `rival_loss`
            at the last layer only, almost free.
        **changes: attributes of `Objective`. A term can be a `Term`, a dictionary of its changed attributes, or a
            number, its weight.

    Returns:
        The objective.

    Raises:
        ValueError: an unknown name or setting, or a value out of range.
    """
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    chosen = OBJECTIVES[name]
    fields = [field.name for field in dataclasses.fields(Objective)]
    values: dict[str, Any] = {}
    for key, value in changes.items():
        if key not in fields:
            raise unknown("objective: setting", key, fields)
        former = getattr(chosen, key)
        values[key] = _changed(key, former, value) if isinstance(former, Term) else value
    return dataclasses.replace(chosen, **values)


def named(choice: str | Objective) -> Objective:
    """The objective of a name; an `Objective` stays as it is, anything else raises a `TypeError`."""
    if isinstance(choice, str):
        return objective(choice)
    if not isinstance(choice, Objective):
        raise TypeError(f"objective: expected a name or an Objective, got {type(choice).__name__}.")
    return choice


def _changed(name: str, term: Term, change: Any) -> Term:
    """A term with the changes passed to `objective`."""
    if isinstance(change, Term):
        return change
    changes = change if isinstance(change, dict) else {"weight": change}
    fields = [field.name for field in dataclasses.fields(Term)]
    for key in changes:
        if key not in fields:
            raise unknown(f"objective: setting of {name}", key, fields)
    try:
        return dataclasses.replace(term, **changes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"objective: {name}: {error}") from error
