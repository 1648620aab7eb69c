"""How attention supervision is applied over a training run: named settings of `SharpenFocus`."""

import dataclasses
from typing import Any

from sfocus_tf.errors import unknown
from sfocus_tf.losses.schedule import Term


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of the attention terms; times are shares of the whole run, so that they suit runs of any length.

    Attributes:
        mechanism: how maps are made, one of `sfocus_tf.attention.MECHANISMS`.
        second_order: differentiate the attention through its own weights.
        separation: the form of the separation losses, one of `sfocus_tf.losses.SEPARATIONS`.
        separation_inner, separation_last, consistency: weight of each term.
        warmup: share of the steps before the terms are applied, in [0, 1].
        ramp: share of the steps in which their weights then grow from 0, in [0, 1].
        every_steps: apply them each k-th step, with k times the weight.
        per_class: where pictures have several labels, divide the weights by the number of classes, as binary
            cross-entropy is a mean over the classes and would else count that much less against the terms.
        sigma, omega, theta, minimum_mass: see `SharpenFocus`.
    """

    mechanism: str = "grad_cam"
    second_order: bool = True
    separation: str = "rival"
    separation_inner: float = 0.0
    separation_last: float = 0.3
    consistency: float = 0.0
    warmup: float = 0.0
    ramp: float = 0.0
    every_steps: int = 1
    per_class: bool = True
    sigma: float = 0.55
    omega: float = 100.0
    theta: float = 0.8
    minimum_mass: float = 0.05

    def arguments(self, steps: int, classes: int = 1) -> dict[str, Any]:
        """The keyword arguments of `SharpenFocus`.

        Args:
            steps: of the whole run.
            classes: how many there are where pictures have several labels, else 1.

        Raises:
            ValueError: a setting out of its range.
        """
        for key in ("warmup", "ramp"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{key}={getattr(self, key)!r}: expected a share of the steps, from 0 to 1.")
        scale = 1 / classes if self.per_class else 1.0
        timing = (round(self.warmup * steps), round(self.ramp * steps), self.every_steps)
        return {
            "attention": self.mechanism,
            "second_order": self.second_order,
            "separation": self.separation,
            "separation_inner": Term(scale * self.separation_inner, *timing),
            "separation_last": Term(scale * self.separation_last, *timing),
            "consistency": Term(scale * self.consistency, *timing),
            "sigma": self.sigma,
            "omega": self.omega,
            "theta": self.theta,
            "minimum_mass": self.minimum_mass,
        }


RECIPES = {
    # The equations as the paper has them: all weights 1 from the first step, no picture left out.
    "paper": Recipe(
        separation="overlap",
        separation_inner=1.0,
        separation_last=1.0,
        consistency=1.0,
        minimum_mass=0.0,
        per_class=False,
    ),
    # A late start, as the attention of a random head is noise; docs/gain.md has what else was tried.
    "default": Recipe(warmup=0.1, ramp=0.1),
}


def recipe(name: str, changes: dict[str, Any] | None = None) -> Recipe:
    """A recipe by name, with some settings changed.

    Args:
        name: one of `RECIPES`.
        changes: settings that differ from it, by the attributes of `Recipe`; `None` leaves one as it is.

    Raises:
        ValueError: no such recipe or setting.
    """
    if name not in RECIPES:
        raise unknown("name", name, RECIPES)
    fields = [field.name for field in dataclasses.fields(Recipe)]
    given = {key: value for key, value in (changes or {}).items() if value is not None}
    for key in given:
        if key not in fields:
            raise unknown("changes", key, fields)
    return dataclasses.replace(RECIPES[name], **given)
