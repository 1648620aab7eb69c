"""Converts settings of models saved by version 0.1 to an objective."""

import warnings
from typing import Any

from sfocus_tf.losses.objective import SEPARATIONS, Objective
from sfocus_tf.losses.schedule import Term

_TERMS = {"separation_inner": "inner", "separation_last": "last", "consistency": "consistency"}
_SAME = ("sigma", "omega", "theta", "minimum_mass", "second_order")


def is_former(config: dict[str, Any]) -> bool:
    """Whether a saved config is from version 0.1."""
    return "separation_last" in config


def objective_of(config: dict[str, Any]) -> tuple[Objective, str | None]:
    """Converts the settings of version 0.1; warns if training would go on with another form of a loss.

    Args:
        config: config of a saved model for which `is_former` is true.

    Returns:
        The objective, and the reason why the model can no longer be trained, or `None`.
    """
    terms = {key: config[key] for key in _TERMS}
    # Version 0.1 had steps instead of shares of the run.
    steps = max(1, *(term["warmup_steps"] + term["ramp_steps"] for term in terms.values()))
    settings: dict[str, Any] = {
        _TERMS[key]: Term(term["weight"], term["warmup_steps"] / steps, term["ramp_steps"] / steps, term["every_steps"])
        for key, term in terms.items()
    }
    settings |= {key: config[key] for key in _SAME if key in config}
    separation = config.get("separation", "overlap")  # the only form when files did not name one
    reason = None
    if separation not in SEPARATIONS:
        reason = f"its separation={separation!r} was removed, as it gained nothing"
        separation = "rival"
    elif config.get("attention", "grad_cam") != "grad_cam":
        reason = f"it was trained on maps by {config['attention']!r}; training uses Grad-CAM alone now"
    elif separation == "rival" and (settings["inner"].weight or settings["last"].weight):
        warnings.warn(
            f"model {config.get('name')!r}: separation='rival' has changed since version 0.1: it no longer changes the "
            "features, only the rival's channel weights. Training goes on with the present form.",
            stacklevel=2,
        )
    settings |= {"of": "score", "mask_gradient": True, "per_class": False}
    return Objective(separation, **settings, steps=steps), reason
