"""Pictures for people: attention overlays, the comparison of two models as a page, and the TensorBoard callback."""

from sfocus_tf.evaluation.comparison import Comparison, compare
from sfocus_tf.report.callback import AttentionImages
from sfocus_tf.report.figure import attention_figure, overlay
from sfocus_tf.report.page import comparison_page

__all__ = ["AttentionImages", "Comparison", "attention_figure", "compare", "comparison_page", "overlay"]
