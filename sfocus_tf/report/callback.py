"""Logs attention to TensorBoard during training."""

import io
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import PIL.Image
import tensorflow as tf
from matplotlib.figure import Figure

from sfocus_tf.evaluation import rank_correlation, region_iou, same_peak
from sfocus_tf.model import SharpenFocus
from sfocus_tf.report.figure import attention_figure, contrast_figure


class AttentionImages(keras.callbacks.Callback):
    """Logs figures of a fixed set of images: the attention, and the contrast maps of predicted class and rival.

    Scalars beside them tell how much the attention of the two classes coincides.

    Example:
        ```python
        model.fit(train, callbacks=[sfocus_tf.report.AttentionImages("logs", images[:8], class_names)])
        ```
    """

    def __init__(
        self,
        log_dir: str | pathlib.Path,
        images: Any,
        class_names: tuple[str, ...],
        labels: Sequence[Any] | None = None,
        every_epochs: int = 1,
    ):
        """Stores the images and options.

        Args:
            log_dir: folder of the TensorBoard logs.
            images: `[images, height, width, 3]`, in [0, 255] or floats in [0, 1], as the model expects.
            class_names: class names, indexed by label.
            labels: the label to show for each image.
            every_epochs: number of epochs between figures; the last epoch of a `fit` always logs one.
        """
        super().__init__()
        if every_epochs < 1:
            raise ValueError(f"every_epochs={every_epochs}: expected 1 or more.")
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"labels: expected one for each of the {len(images)} images, got {len(labels)}.")
        self.images, self.class_names, self.labels = np.asarray(images), tuple(class_names), labels
        self.every_epochs = every_epochs
        self.log_dir = str(log_dir)

    def set_model(self, model: Any) -> None:
        """Checks that the model is a `SharpenFocus` with these classes, before training begins."""
        super().set_model(model)
        if not isinstance(model, SharpenFocus):
            raise TypeError(f"AttentionImages: expected a SharpenFocus model, got {type(model).__name__}.")
        if len(self.class_names) != model.num_classes:
            raise ValueError(f"class_names: expected {model.num_classes} for this model, got {len(self.class_names)}.")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Logs every `every_epochs` epochs and after the last."""
        if (epoch + 1) % self.every_epochs and epoch + 1 != self.params.get("epochs"):
            return
        explanation = self.model.explain(self.images)
        contrast = self.model.explain(self.images, of="contrast", cam="grad_cam")
        figures = {
            "attention": attention_figure(self.images, explanation, self.class_names, self.labels),
            "contrast": contrast_figure(self.images, contrast, self.class_names, self.labels, self.model.multi_label),
        }
        measures = {"overlap": region_iou, "rank_correlation": rank_correlation, "same_peak": same_peak}
        with tf.summary.create_file_writer(self.log_dir).as_default(step=epoch):
            for name, figure in figures.items():
                tf.summary.image(name, _pixels(figure)[np.newaxis])
            for name, measure in measures.items():
                for layer, maps in (("inner", explanation.inner), ("last", explanation.last)):
                    values = measure(*maps)
                    if not np.isnan(values).all():
                        tf.summary.scalar(f"attention/{name}_{layer}", np.nanmean(values))


def _pixels(figure: Figure) -> np.ndarray:
    """A figure as an image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return np.asarray(PIL.Image.open(buffer).convert("RGB"))
