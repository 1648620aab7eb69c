"""Pictures of what a classifier looked at."""

from sfocus_tf.report.figure import attention_figure, overlay

__all__ = ["attention_figure", "overlay"]
