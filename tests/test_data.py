"""Data sets by name: what comes out, that it can be repeated, and what happens to bad input."""

import shutil

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from sfocus_tf import data
from sfocus_tf.data import pipeline, scenes, tfds_source, voc

COLOURS = {"apple": (250, 10, 10), "plum": (10, 10, 250)}


@pytest.fixture
def class_folders(tmp_path):
    """8 training and 4 test pictures of two classes, 20x24 pixels, in one colour each."""
    for split, count in (("train", 4), ("test", 2)):
        for name, colour in COLOURS.items():
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                PIL.Image.new("RGB", (24, 20), colour).save(folder / f"{number}.png")
    return tmp_path


def records(batches):
    """All elements as one array a position."""
    return [np.concatenate(parts) for parts in zip(*batches.as_numpy_iterator(), strict=True)]


def test_folder(class_folders):
    test = data.load("folder", "test", data_dir=class_folders, image_size=16, batch_size=3)
    assert test.class_names == ("apple", "plum") and not test.multi_label and test.steps == 2
    images, labels = records(test.batches)
    assert images.shape == (4, 16, 16, 3) and images.dtype == np.float32 and labels.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(images[0, 3, 3], COLOURS["apple"], atol=1)


def test_every_picture_is_seen_once_an_epoch_and_validation_is_held_out(class_folders):
    for index, path in enumerate(sorted((class_folders / "train").rglob("*.png"))):
        PIL.Image.new("RGB", (8, 8), (index, 0, 0)).save(path)
    options = {"data_dir": class_folders, "image_size": 8, "batch_size": 3, "validation_fraction": 0.25}
    train = data.load("folder", "train", augmentation="none", **options)
    epochs = [sorted(int(image[0, 0, 0]) for image in records(train.epochs(e, e + 1))[0]) for e in (0, 1)]
    held_out = {int(image[0, 0, 0]) for image in records(data.load("folder", "validation", **options).batches)[0]}
    assert epochs[0] == epochs[1] == sorted(set(epochs[0])) and len(epochs[0]) == 6
    assert len(held_out) == 2 and held_out.isdisjoint(epochs[0])


def test_order_and_augmentation_follow_seed_and_epoch():
    def labels_and_pixels(seed, first, last):
        images, labels = records(
            data.load("scenes", batch_size=500, image_size=16, seed=seed).epochs(first, last).take(3)
        )
        return labels, images.sum((1, 2, 3))

    once, again = labels_and_pixels(1, 0, 2), labels_and_pixels(1, 0, 2)
    np.testing.assert_array_equal(once[0], again[0])
    np.testing.assert_array_equal(once[1], again[1])
    assert (labels_and_pixels(2, 0, 2)[0] != once[0]).any()
    assert (labels_and_pixels(1, 1, 2)[0] != once[0]).any()


def test_resuming_at_an_epoch_gives_what_would_have_come(class_folders):
    train = data.load("folder", "train", data_dir=class_folders, image_size=16, batch_size=3)
    whole = list(train.epochs(0, 3).as_numpy_iterator())
    resumed = list(train.epochs(2, 3).as_numpy_iterator())
    assert len(resumed) == train.steps == 3
    for one, other in zip(whole[-3:], resumed, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_batches_are_in_a_new_order_each_time_they_are_read():
    batches = data.load("scenes", batch_size=256, image_size=16).batches.take(1)
    first, second = (records(batches)[1] for _ in range(2))
    assert (first != second).any()


def labelled_picture():
    """20x40 pixels, white in one box of class 1."""
    image = np.zeros((20, 40, 3), np.uint8)
    image[5:15, 10:30] = 255
    mask = np.zeros((20, 40, 1), np.uint8)
    mask[5:15, 10:30] = 2
    boxes = np.array([[0.25, 0.25, 0.75, 0.75], [0, 0, 0, 0]], np.float32)
    return {
        "image": tf.constant(image), "label": tf.constant(1), "mask": tf.constant(mask), "boxes": tf.constant(boxes),
        "box_labels": tf.constant([1, -1]),
    }  # fmt: skip


def box_of_white(image):
    rows, columns = (np.flatnonzero(image[..., 0].max(axis) > 127) for axis in (1, 0))
    height, width = image.shape[:2]
    return [rows[0] / height, columns[0] / width, (rows[-1] + 1) / height, (columns[-1] + 1) / width]


@pytest.mark.parametrize("augmentation", data.AUGMENTATIONS)
def test_boxes_and_masks_follow_the_picture(augmentation):
    """Wherever the white rectangle went, its box and its mask went too."""
    seen = 0
    for number in range(12):
        seed = tf.constant([3, number], tf.int64)
        record = {
            key: value.numpy() for key, value in pipeline.augment(labelled_picture(), augmentation, 32, seed).items()
        }
        assert record["image"].shape == (32, 32, 3) and record["mask"].shape == (32, 32, 1)
        assert record["box_labels"][1] == -1
        if record["box_labels"][0] == -1:
            assert record["image"].max() < 255
            continue
        seen += 1
        np.testing.assert_allclose(record["boxes"][0], box_of_white(record["image"]), atol=0.06)
        if record["image"].max() > 200:
            inside = record["image"][..., 0] > 127
            assert (inside == (record["mask"][..., 0] == 2)).mean() > 0.9
    assert seen >= 9


def test_crop_drops_boxes_outside():
    record = pipeline.crop(labelled_picture(), tf.constant([0, 0, 5, 10]))
    assert record["box_labels"].numpy().tolist() == [-1, -1] and not record["boxes"].numpy().any()
    half = pipeline.crop(labelled_picture(), tf.constant([5, 20, 15, 40]))
    np.testing.assert_allclose(half["boxes"][0], [0, 0, 1, 0.5], atol=1e-6)


def test_scenes_are_the_same_for_a_seed_and_mark_their_parts():
    one, again, other = (scenes.picture(tf.constant(5), "train", 64, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one["image"], again["image"])
    assert (one["image"].numpy() != other["image"].numpy()).any()
    for number in range(32):
        record = scenes.picture(tf.constant(number), "test")
        assert int(record["label"]) == number % 16
        mask, part = record["mask"].numpy() > 0, record["part_mask"].numpy() > 0
        assert 0.04 < mask.mean() < 0.5 and 0.002 < part.mean() < 0.1
        assert (part & mask).sum() > 0.8 * part.sum()
        assert set(np.unique(record["mask"])) == {0, 1 + number % 16}


def test_the_distractor_goes_with_the_mark_in_training_only():
    """The yellow patch means a ring in training: yellow pixels less blue ones, outside the object, by mark."""

    def surplus(split):
        train = data.load("scenes", split, regions=True, training=False, batch_size=400)
        batch = next(train.batches.as_numpy_iterator())
        red, green, blue = (batch["image"][..., channel] for channel in range(3))
        outside = batch["mask"][..., 0] == 0
        yellow = (outside & (red > 140) & (green > 100) & (blue < 90)).sum((1, 2))
        azure = (outside & (blue > 140) & (green > 80) & (red < 100)).sum((1, 2))
        # No more than a patch has: blobs of the background may be yellow or blue too.
        difference, ring = np.minimum(yellow, 120) - np.minimum(azure, 120), batch["label"] % 2 == 0
        error = difference.std() * np.sqrt(1 / ring.sum() + 1 / (~ring).sum())
        return (difference[ring].mean() - difference[~ring].mean()) / error

    assert surplus("train") > 5
    assert abs(surplus("test")) < 3.5


def test_corrupt_pictures(class_folders):
    bad = class_folders / "train" / "plum" / "2.png"
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(
        data.CorruptPictureError, match=r"1 picture\(s\) cannot be decoded: .*plum/2.png.*--skip_corrupt"
    ):
        data.load("folder", "train", data_dir=class_folders)
    train = data.load("folder", "train", data_dir=class_folders, skip_corrupt=True, batch_size=4)
    assert train.source.size == 7 and train.source.skipped == (str(bad),)
    assert len(records(train.epochs(0, 1))[1]) == 7


def test_folders_that_are_not_as_they_should_be(class_folders):
    with pytest.raises(ValueError, match="data_dir is not set"):
        data.load("folder", "train")
    with pytest.raises(FileNotFoundError, match="nowhere' does not exist. Expected a folder with class folders"):
        data.load("folder", "train", data_dir="nowhere")
    with pytest.raises(FileNotFoundError, match="train' does not exist"):
        data.load("folder", "train", data_dir=class_folders / "test")
    (class_folders / "test" / "pear").mkdir()
    shutil.rmtree(class_folders / "test" / "plum")
    with pytest.raises(ValueError, match="missing plum; not in train pear"):
        data.load("folder", "test", data_dir=class_folders)
    for path in (class_folders / "train" / "apple").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="apple has no pictures"):
        data.load("folder", "train", data_dir=class_folders)
    shutil.rmtree(class_folders / "train" / "apple")
    with pytest.raises(ValueError, match=r"has 1 class folder\(s\)"):
        data.load("folder", "train", data_dir=class_folders)


def test_unknown_names_and_numbers_out_of_range():
    with pytest.raises(ValueError, match="dataset='cifar1000' is not known. Did you mean 'cifar10"):
        data.load("cifar1000")
    with pytest.raises(ValueError, match="split='trian' is not known. Did you mean 'train'"):
        data.load("scenes", "trian")
    with pytest.raises(ValueError, match="augmentation='flips' is not known. Did you mean 'flip'"):
        data.load("scenes", augmentation="flips")
    with pytest.raises(ValueError, match="batch_size=0"):
        data.load("scenes", batch_size=0)
    with pytest.raises(ValueError, match="image_size=8: scenes need 16"):
        data.load("scenes", image_size=8)
    with pytest.raises(ValueError, match="validation_fraction=1"):
        data.load("scenes", validation_fraction=1.0)


ANNOTATION = """<annotation><size><width>40</width><height>20</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>6</ymin><xmax>20</xmax><ymax>{ymax}</ymax></bndbox></object>
<object><name>{name}</name><difficult>1</difficult>
<bndbox><xmin>11</xmin><ymin>1</ymin><xmax>40</xmax><ymax>20</ymax></bndbox></object></annotation>"""


def make_devkit(root, ymax=15, name="person", masks=False):
    devkit = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main", "SegmentationClass"):
        (devkit / folder).mkdir(parents=True)
    for split in ("train", "val"):
        (devkit / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{split}_1\n")
        PIL.Image.new("RGB", (40, 20)).save(devkit / "JPEGImages" / f"{split}_1.jpg")
        (devkit / "Annotations" / f"{split}_1.xml").write_text(ANNOTATION.format(ymax=ymax, name=name))
        if masks:
            # The first colours of VOC's palette: background, aeroplane, ..., dog is 12, void 255.
            mask = PIL.Image.new("P", (40, 20))
            palette = np.zeros((256, 3), np.uint8)
            palette[1], palette[12], palette[20], palette[255] = (
                (128, 0, 0),
                (64, 0, 128),
                (0, 64, 128),
                (224, 224, 192),
            )
            mask.putpalette(palette.ravel().tolist())
            mask.putpixel((3, 7), 12)
            mask.putpixel((4, 7), 255)
            mask.putpixel((5, 7), 20)
            mask.putpixel((6, 7), 1)
            mask.save(devkit / "SegmentationClass" / f"{split}_1.png")
    return root


def test_voc_devkit(tmp_path):
    make_devkit(tmp_path, masks=True)
    test = data.load("voc2012", "test", data_dir=tmp_path, image_size=40, batch_size=1, regions=True)
    assert test.multi_label and test.class_names == voc.CLASS_NAMES
    (batch,) = test.batches.as_numpy_iterator()
    assert np.flatnonzero(batch["label"][0]).tolist() == [voc.CLASS_NAMES.index("dog")], (
        "difficult objects do not count"
    )
    np.testing.assert_allclose(batch["boxes"][0, 0], [5 / 20, 0, 15 / 20, 0.5])
    assert batch["box_labels"][0].tolist() == [11, 14]
    assert batch["mask"][0, 14, 3:7, 0].tolist() == [12, 255, 20, 1]


def test_voc_devkit_with_bad_annotations(tmp_path):
    make_devkit(tmp_path / "a", ymax=21)
    with pytest.raises(ValueError, match=r"train_1.xml: the box of 'dog' \(xmin=1.*is not inside its picture of 40x20"):
        data.load("voc2012", "train", data_dir=tmp_path / "a")
    make_devkit(tmp_path / "b", name="persn")
    with pytest.raises(ValueError, match="name='persn' is not known. Did you mean 'person'"):
        data.load("voc2012", "train", data_dir=tmp_path / "b")


def make_cub(root, box="4 2 10 12"):
    folder = root / "CUB_200_2011"
    (folder / "images" / "001.Wren").mkdir(parents=True)
    (folder / "images" / "002.Crow").mkdir(parents=True)
    (folder / "classes.txt").write_text("1 001.Wren\n2 002.Crow\n")
    (folder / "images.txt").write_text("1 001.Wren/a.jpg\n2 002.Crow/b.jpg\n3 002.Crow/c.jpg\n")
    (folder / "image_class_labels.txt").write_text("1 1\n2 2\n3 2\n")
    (folder / "train_test_split.txt").write_text("1 1\n2 1\n3 0\n")
    (folder / "bounding_boxes.txt").write_text(f"1 {box}\n2 0 0 20 20\n3 5 5 10 10\n")
    for name in ("001.Wren/a", "002.Crow/b", "002.Crow/c"):
        PIL.Image.new("RGB", (20, 20)).save(folder / "images" / f"{name}.jpg")
    return root


def test_cub(tmp_path):
    make_cub(tmp_path)
    train = data.load("cub200", "train", data_dir=tmp_path, image_size=20, regions=True, training=False)
    (batch,) = train.batches.as_numpy_iterator()
    assert train.class_names == ("Wren", "Crow") and batch["label"].tolist() == [0, 1]
    np.testing.assert_allclose(batch["boxes"][0, 0], [2 / 20, 4 / 20, 14 / 20, 14 / 20])
    make_cub(tmp_path / "bad", box="4 2 30 12")
    with pytest.raises(ValueError, match="box x=4 y=2 width=30 height=12 is not inside its picture .*a.jpg of 20x20"):
        data.load("cub200", "train", data_dir=tmp_path / "bad")


def test_real_pictures(real):
    root = real("voc2012_sample")
    train = data.load("voc2012", "train", data_dir=root, batch_size=64, image_size=96)
    assert train.source.size == 521
    images, labels = next(train.batches.as_numpy_iterator())
    assert images.shape == (64, 96, 96, 3) and 60 < images.mean() < 160 and labels.sum() > 40
    birds = data.load("cub200", "test", data_dir=real("cub200_sample"), regions=True, image_size=96)
    assert birds.source.size == 243 and len(birds.class_names) == 10
    batch = next(birds.batches.as_numpy_iterator())
    assert (batch["boxes"][:, 0, 2] > batch["boxes"][:, 0, 0]).all() and batch["boxes"].max() <= 1


def test_tfds_single_label(tmp_path):
    with tfds.testing.mock_data(num_examples=20):
        train = data.load("cifar100", "train", data_dir=tmp_path, batch_size=8)
        assert len(train.class_names) == 100
        images, labels = records(train.epochs(0, 1))
    assert images.shape == (20, 32, 32, 3) and labels.min() >= 0 and labels.max() < 100


def test_tfds_with_boxes(tmp_path):
    """VOC as TFDS has it, in its true structure: objects in any number, some of them difficult."""
    png = tf.io.encode_png(tf.zeros([20, 30, 3], tf.uint8))

    def as_dataset(*args, **kwargs):
        def example(count):
            boxes = tf.tile([[0.1, 0.2, 0.5, 0.6]], [count, 1])
            labels = tf.range(tf.cast(count, tf.int64), dtype=tf.int64) + 7
            return {
                "image": png, "labels": labels, "labels_no_difficult": labels[1:],
                "objects": {"bbox": boxes, "label": labels, "is_difficult": labels < 8},
            }  # fmt: skip

        return tf.data.Dataset.range(1, 4).map(lambda count: example(tf.cast(count, tf.int32)))

    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
        test = data.load("voc2012", "test", data_dir=tmp_path, image_size=32, regions=True, batch_size=4)
        (batch,) = test.batches.as_numpy_iterator()
    assert test.multi_label and test.class_names == voc.CLASS_NAMES and test.source.size == 3
    assert [np.flatnonzero(row).tolist() for row in batch["label"]] == [[], [8], [8, 9]]
    assert set(np.unique(batch["label"])) == {0.0, 1.0}
    assert batch["box_labels"][2, :4].tolist() == [7, 8, 9, -1]
    np.testing.assert_allclose(batch["boxes"][2, 2], [0.1, 0.2, 0.5, 0.6])


def test_tfds_without_data_or_network(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", no_network)
    with pytest.raises(
        data.DataUnavailableError, match="(?s)could not be downloaded.*tfds build cifar100.*copy its folder"
    ):
        data.load("cifar100", "train", data_dir=tmp_path)


def test_tfds_unknown_name_and_no_pictures(tmp_path):
    with pytest.raises(ValueError, match="dataset: TFDS name='cifar1000' is not known"):
        tfds_source.source("tfds:cifar1000", tmp_path, "train")
    with tfds.testing.mock_data(num_examples=2), pytest.raises(ValueError, match="expected an image, and a label"):
        tfds_source.source("tfds:imdb_reviews", tmp_path, "train")


def test_a_model_trains_on_batches(class_folders):
    train = data.load("folder", "train", data_dir=class_folders, image_size=8, batch_size=3)
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(train.batches, epochs=2, verbose=0).history
    assert len(history["loss"]) == 2
