"""Data sets by name: what comes out, that it can be repeated, and what happens to bad input."""

import pathlib
import shutil

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from sfocus_tf import data
from sfocus_tf.data import augmentation as augmentations
from sfocus_tf.data import formats, scenes

COLOURS = {"apple": (250, 10, 10), "plum": (10, 10, 250)}


@pytest.fixture
def class_folders(tmp_path):
    """8 training and 4 test images of two classes, 20x24 pixels, in one colour each."""
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


def test_every_extension_is_read(class_folders):
    shutil.rmtree(class_folders / "test")
    for name, colour in COLOURS.items():
        (class_folders / "test" / name).mkdir(parents=True)
        for number, extension in enumerate(sorted(formats.EXTENSIONS)):
            PIL.Image.new("RGB", (24, 20), colour).save(class_folders / "test" / name / f"{number}{extension}")
    test = data.load("folder", "test", data_dir=class_folders, image_size=16)
    images, labels = records(test.batches)
    assert len(labels) == 2 * len(formats.EXTENSIONS) and {".webp", ".gif"} <= set(formats.EXTENSIONS)
    expected = np.array([COLOURS[test.class_names[label]] for label in labels])
    assert np.abs(images[:, 3, 3] - expected).max() <= 4  # JPEG and WebP lose a little


def test_every_image_is_seen_once_an_epoch_and_validation_is_held_out(class_folders):
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


def labelled_image():
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
def test_boxes_and_masks_follow_the_image(augmentation):
    """Wherever the white rectangle went, its box and its mask went too."""
    seen = 0
    for number in range(12):
        seed = tf.constant([3, number], tf.int64)
        record = {
            key: value.numpy() for key, value in augmentations.augment(labelled_image(), augmentation, 32, seed).items()
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
    record = augmentations.crop(labelled_image(), tf.constant([0, 0, 5, 10]))
    assert record["box_labels"].numpy().tolist() == [-1, -1] and not record["boxes"].numpy().any()
    half = augmentations.crop(labelled_image(), tf.constant([5, 20, 15, 40]))
    np.testing.assert_allclose(half["boxes"][0], [0, 0, 1, 0.5], atol=1e-6)


def test_scenes_are_always_the_same_and_mark_their_parts():
    one, again, other = (scenes.scene(tf.constant(5), split, 64) for split in ("train", "train", "test"))
    np.testing.assert_array_equal(one["image"], again["image"])
    assert (one["image"].numpy() != other["image"].numpy()).any()
    for number in range(32):
        record = scenes.scene(tf.constant(number), "test")
        assert int(record["label"]) == number % 16
        mask, part = record["mask"].numpy() > 0, record["part_mask"].numpy() > 0
        assert 0.04 < mask.mean() < 0.5 and 0.002 < part.mean() < 0.1
        assert (part & mask).sum() > 0.8 * part.sum()
        assert set(np.unique(record["mask"])) == {0, 1 + number % 16}


def test_scenes_that_are_kept_are_those_that_are_drawn(monkeypatch):
    kept = data.load("scenes", "test", examples=20, image_size=32, batch_size=7, regions=True)
    monkeypatch.setattr(scenes, "_KEPT_BYTES", 0)
    drawn = data.load("scenes", "test", examples=20, image_size=32, batch_size=7, regions=True)
    for batch, same in zip(kept.batches, drawn.batches, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, batch, same)


def test_the_distractor_goes_with_the_mark_in_training_only():
    """In 80 % of the training images and half of the test images; of 400, three standard deviations are 6 and 7.5 %."""

    def share(split):
        return np.mean([bool(scenes.patch_agrees(tf.constant(number), split)) for number in range(400)])

    assert share("train") == pytest.approx(0.8, abs=0.06) and share("test") == pytest.approx(0.5, abs=0.075)


def test_the_distractor_is_a_square_beside_the_mark(monkeypatch):
    """Images whose patch agrees and does not differ in a square of 17 of 100 pixels a side, with soft edges."""
    both = []
    for agrees in (True, False):
        monkeypatch.setattr(scenes, "patch_agrees", lambda *arguments, agrees=agrees: tf.constant(agrees))
        both.append([scenes.scene(tf.constant(number), "test", 100) for number in range(16)])
    for one, other in zip(*both, strict=True):
        first, second = (record["image"].numpy().astype(int) for record in (one, other))
        changed = (np.abs(first - second) > 20).any(-1)
        rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
        assert max(np.ptp(rows), np.ptp(columns)) < 24 and 100 < changed.sum() < 24 * 24
        np.testing.assert_array_equal(one["mask"], other["mask"])
        assert not changed[one["part_mask"].numpy()[..., 0] > 0].any()


def test_classes_of_scenes_differ_in_colour_texture_and_mark():
    """Red objects are red, and so on: the mean colour over the object is nearest to that of the class's name."""
    names, colours = scenes.class_names(), dict(scenes._COLOURS)
    assert len(set(names)) == scenes.NUM_CLASSES and names[0] == "striped red, ring mark"
    for number in range(32):
        record = scenes.scene(tf.constant(number), "test")
        inside = (record["mask"].numpy() > 0) & (record["part_mask"].numpy() == 0)
        mean = record["image"].numpy()[inside[..., 0]].mean(0)
        distances = {name: np.linalg.norm(mean / mean.max() - np.divide(c, max(c))) for name, c in colours.items()}
        assert min(distances, key=distances.get) in names[number % 16]


def test_corrupt_images(class_folders):
    bad = class_folders / "train" / "plum" / "2.png"
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(data.CorruptImageError, match=r"1 image\(s\) cannot be decoded: .*plum/2.png.*--skip_corrupt"):
        data.load("folder", "train", data_dir=class_folders)
    train = data.load("folder", "train", data_dir=class_folders, skip_corrupt=True, batch_size=4)
    assert train.source.size == 7 and train.source.skipped == (str(bad),)
    assert len(records(train.epochs(0, 1))[1]) == 7


def test_class_folders_without_splits(class_folders):
    """Every fifth image of a class, by file name, is for testing; a folder of data sets is not taken for one."""
    root = class_folders / "unsplit"
    for name, count in (("apple", 11), ("plum", 6)):
        (root / name).mkdir(parents=True)
        image = next((class_folders / "train" / name).iterdir())
        for number in range(count):
            shutil.copy(image, root / name / f"{number:02}{image.suffix}")
    parts = {
        split: data.load("folder", split, data_dir=root, validation_fraction=0.3).source
        for split in ("train", "validation", "test")
    }
    assert [pathlib.Path(file).stem for file in parts["test"].files] == ["04", "09", "04"]
    assert [part.size for part in parts.values()] == [10, 4, 3]
    assert len({file for part in parts.values() for file in part.files}) == 17
    assert "every fifth image of a class" in parts["train"].note and str(root) in parts["train"].note
    above = root.parent / "above"
    (above / "more").mkdir(parents=True)
    shutil.move(root, above / "birds")
    with pytest.raises(FileNotFoundError, match=f"data_dir='{above}' has no train/, and no class folders"):
        data.load("folder", "train", data_dir=above)


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
    with pytest.raises(ValueError, match="apple has no images"):
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
    with pytest.raises(ValueError, match="batch_size=2.5: expected a positive whole number"):
        data.load("scenes", batch_size=2.5)
    with pytest.raises(ValueError, match=r"image_size=\(32, 32\): expected a positive whole number"):
        data.load("scenes", image_size=(32, 32))
    with pytest.raises(ValueError, match="data_dir='photos': dataset='scenes' is generated .* set dataset='folder'"):
        data.load("scenes", data_dir="photos")
    with pytest.raises(ValueError, match="image_size=8: scenes need 16"):
        data.load("scenes", image_size=8)
    with pytest.raises(ValueError, match="validation_fraction=1"):
        data.load("scenes", validation_fraction=1.0)


def test_a_model_trains_on_batches(class_folders):
    train = data.load("folder", "train", data_dir=class_folders, image_size=8, batch_size=3)
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(train.batches, epochs=2, verbose=0).history
    assert len(history["loss"]) == 2
