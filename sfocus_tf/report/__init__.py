"""Visual reports: attention overlays, an HTML page that compares two models, and a TensorBoard callback."""

from sfocus_tf.evaluation.comparison import Comparison, compare
from sfocus_tf.report.callback import AttentionImages
from sfocus_tf.report.figure import attention_figure, comparison_figure, contrast_figure, contrast_overlay, overlay
from sfocus_tf.report.page import comparison_page

__all__ = [
    "AttentionImages",
    "Comparison",
    "attention_figure",
    "compare",
    "comparison_figure",
    "comparison_page",
    "contrast_figure",
    "contrast_overlay",
    "overlay",
]
