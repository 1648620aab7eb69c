"""Image classifiers by name, ending in class scores (logits), with their preprocessing inside."""

from sfocus_tf.backbones.registry import check, create, names

__all__ = ["check", "create", "names"]
