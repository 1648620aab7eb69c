"""Made-up data in the true structure of each TFDS set, in place of the downloaded ones."""

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

IMAGES = 24  # a split
SPLITS = {
    "cifar100": ("train", "test"), "caltech256": ("train", "test"), "caltech_birds2011": ("train", "test"),
    "imagenet2012": ("train", "validation", "test"), "voc": ("train", "validation", "test"),
}  # fmt: skip


def example(name, features, number):
    """An image with labels, boxes and masks as TFDS has them for the set."""
    rng = np.random.default_rng(number)
    shape = [side or 40 for side in features["image"].shape]
    made = {"image": rng.integers(0, 256, shape, dtype=np.uint8)}
    if name == "voc":
        objects = [
            {
                "label": int(label), "bbox": tfds.features.BBox(0.1, 0.2, 0.5, 0.6), "pose": 0,
                "is_truncated": False, "is_difficult": bool(label % 5 == 0),
            }
            for label in rng.choice(20, number % 3)
        ]  # fmt: skip
        labels = sorted({entry["label"] for entry in objects})
        easy = sorted({entry["label"] for entry in objects if not entry["is_difficult"]})
        return made | {
            "image/filename": f"{number}.jpg", "objects": objects, "labels": labels, "labels_no_difficult": easy
        }  # fmt: skip
    made["label"] = int(rng.integers(features["label"].num_classes))
    if name == "caltech_birds2011":
        made |= {"bbox": tfds.features.BBox(0.1, 0.2, 0.5, 0.6), "segmentation_mask": made["image"][..., :1]}
    texts = {key: f"{number}" for key, feature in features.items() if isinstance(feature, tfds.features.Text)}
    return made | texts | ({"coarse_label": 0} if "coarse_label" in features else {})


def as_dataset(builder, split=None, decoders=None, **kwargs):
    """In place of `tfds.core.DatasetBuilder.as_dataset`: encoded and decoded by the set's own features."""
    name = split.partition("[")[0]
    first = 100 * SPLITS[builder.name].index(name)
    features = builder.info.features
    encoded = [
        features.serialize_example(features.encode_example(example(builder.name, features, number)))
        for number in range(first, first + IMAGES)
    ]
    if isinstance(decoders, tfds.decode.PartialDecoding):
        decoders = None
    dataset = tf.data.Dataset.from_tensor_slices(encoded)
    return dataset.map(lambda text: features.deserialize_example(text, decoders=decoders))


def mocked():
    """A context in which TFDS gives these data."""
    return tfds.testing.mock_data(as_dataset_fn=as_dataset)
