"""What the measures of an evaluation are called, and which direction is better."""

from typing import NamedTuple

LAYERS = ("last", "inner")
# What is said of the maps that measures are of, by `Evaluation.of`.
MAPS = {
    "score": "of the scores themselves",
    "relative": "relative (of each score minus the mean over the classes)",
    "contrast": "contrast maps (of the target's score minus the rival's)",
}
# What a reader looks at first, in this order; an evaluation has those that its data allow.
KEY_MEASURES = (
    "mAP", "accuracy", "overlap_last", "rival_share_last", "pointing_last", "part_pointing_last", "inside_region"
)  # fmt: skip


class Measure(NamedTuple):
    """A measure for people.

    Attributes:
        text: its name, without the layer.
        layer: "last" or "inner"; "" for a measure of no layer.
        more_is_better: `None` for neither.
    """

    text: str
    layer: str
    more_is_better: bool | None

    @property
    def full_text(self) -> str:
        """The name with the layer."""
        return f"{self.text}, {self.layer} layer" if self.layer else self.text


_MEASURES = {
    "mAP": ("mean average precision", True),
    "accuracy": ("accuracy", True),
    "top-5 accuracy": ("top-5 accuracy", True),
    "overlap": ("overlap of target and rival", False),
    "rank_correlation": ("rank correlation of both maps", False),
    "same_peak": ("both maps peak in one place", False),
    "no_target": ("target without attention", False),
    "no_rival": ("rival without attention", None),
    "pointing": ("pointing game", True),
    "part_pointing": ("points at distinguishing part", True),
    "energy_pointing": ("energy on the object", True),
    "box_iou_30": ("box IoU at 30 % of the maximum", True),
    "box_iou_50": ("box IoU at 50 % of the maximum", True),
    "box_iou_70": ("box IoU at 70 % of the maximum", True),
    "inside_region": ("inner attention inside region", True),
    "rival_share": ("evidence for the rival", None),
    "contrast_pointing": ("pointing game, contrast map", True),
    "contrast_part_pointing": ("contrast map points at distinguishing part", True),
    "contrast_insertion": ("insertion, target against rival", True),
    "contrast_deletion": ("deletion, target against rival", False),
    "insertion": ("insertion", True),
    "deletion": ("deletion", False),
}


def describe(name: str) -> Measure:
    """The measure of a name in `Evaluation.summary`, such as "overlap_last"."""
    base, _, layer = name.rpartition("_")
    base, layer = (base, layer) if layer in LAYERS else (name, "")
    text, more_is_better = _MEASURES.get(base, (base.replace("_", " "), None))
    return Measure(text, layer, more_is_better)
