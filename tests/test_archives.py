"""The original archives, unpacked: labels, boxes, masks and splits, and what happens where they are damaged."""

import csv
import hashlib
import json
import pathlib
import re
import shutil

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from sfocus_tf import data
from sfocus_tf.data import voc
from tests import archives


def only_batch(name, split, root, **options):
    loaded = data.load(name, split, data_dir=root, batch_size=256, regions=True, training=False, **options)
    (batch,) = loaded.batches.as_numpy_iterator()
    return loaded, batch


def test_voc(tmp_path):
    archives.voc(tmp_path, images=2, masks=True)
    test, batch = only_batch("voc2012", "test", tmp_path, image_size=40)
    dog, cat, person = (voc.CLASS_NAMES.index(name) for name in ("dog", "cat", "person"))
    assert test.multi_label and test.class_names == voc.CLASS_NAMES
    assert [np.flatnonzero(row).tolist() for row in batch["label"]] == [[cat, dog, person]] * 2
    # Where all objects of a class are difficult, the image does not count for it.
    assert [np.flatnonzero(row).tolist() for row in batch["difficult"]] == [[person], [cat, person]]
    np.testing.assert_allclose(batch["boxes"][0, 0], [5 / 20, 0, 15 / 20, 0.5])
    assert batch["box_labels"][0].tolist() == [dog, person, cat]
    assert batch["mask"][0, 14, 3:7, 0].tolist() == [12, 255, 20, 1]


def test_voc_with_bad_annotations(tmp_path):
    archives.voc(tmp_path / "a", ymax=21)
    with pytest.raises(ValueError, match=r"train_0.xml: the box of 'dog' \(xmin=1.*is not inside its image of 40x20"):
        data.load("voc2012", "train", data_dir=tmp_path / "a")
    archives.voc(tmp_path / "b", name="persn")
    with pytest.raises(ValueError, match="name='persn' is not known. Did you mean 'person'"):
        data.load("voc2012", "train", data_dir=tmp_path / "b")


def test_cub(tmp_path):
    archives.cub(tmp_path)
    train, batch = only_batch("cub200", "train", tmp_path, image_size=20)
    assert train.class_names == ("Wren", "Crow") and batch["label"].tolist() == [0, 1]
    np.testing.assert_allclose(batch["boxes"][0, 0], [2 / 20, 4 / 20, 14 / 20, 14 / 20])
    archives.cub(tmp_path / "bad", box="4 2 30 12")
    with pytest.raises(ValueError, match="box x=4 y=2 width=30 height=12 is not inside its image .*1.jpg of 20x20"):
        data.load("cub200", "train", data_dir=tmp_path / "bad")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<xmin>1</xmin>", "<xmin>abc</xmin>", "bndbox/xmin of the object 'dog' is 'abc', not a number"),
        ("<ymin>6</ymin>", "<ymin>nan</ymin>", "bndbox/ymin of the object 'dog' is 'nan', not a number"),
        ("<xmax>20</xmax>", "<xmax>inf</xmax>", "bndbox/xmax of the object 'dog' is 'inf', not a number"),
        ("<ymax>15</ymax>", "<ymax/>", "bndbox/ymax of the object 'dog' is '', not a number"),
        ("<ymax>15</ymax>", "", "bndbox/ymax of the object 'dog' is missing, not a number"),
        ("bndbox", "box", "bndbox/xmin of the object 'dog' is missing, not a number"),
        ("<width>40</width>", "<width>forty</width>", "size/width is 'forty', not a number"),
        ("<height>20</height>", "<height>nan</height>", "size/height is 'nan', not a number"),
        ("size", "extent", "size/width is missing, not a number"),
        ("<width>40</width>", "<width>0</width>", "is not inside its image of 0x20 pixels"),
        ("<annotation>", "<?xml version='1.0' encoding='none'?><annotation>", "is not valid XML: unknown encoding"),
    ],
)
def test_voc_with_numbers_that_are_none(old, new, message, tmp_path):
    archives.voc(tmp_path)
    path = tmp_path / "VOCdevkit" / "VOC2012" / "Annotations" / "train_0.xml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=f"train_0.xml.*{message}"):
        data.load("voc2012", "train", data_dir=tmp_path)


@pytest.mark.parametrize("box", ["4 2 abc 12", "nan 2 10 12", "4 nan 10 12", "4 2 nan 12", "4 2 10 nan", "4 2 inf 12"])
def test_cub_with_numbers_that_are_none(box, tmp_path):
    archives.cub(tmp_path, box=box)
    with pytest.raises(ValueError, match=r"bounding_boxes.txt: the box .*001.Wren/1.jpg"):
        data.load("cub200", "train", data_dir=tmp_path)


def test_cub_with_a_split_that_is_none(tmp_path):
    """Neither 1 nor 0: it would have counted as a test image."""
    archives.cub(tmp_path)
    file = tmp_path / "CUB_200_2011" / "train_test_split.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0].rsplit(" ", 1)[0] + " 2", *lines[1:]]) + "\n")
    with pytest.raises(ValueError, match="train_test_split.txt gives image .* the split '2': expected 1 to train"):
        data.load("cub200", "test", data_dir=tmp_path)


def test_archives_of_which_a_part_is_missing(tmp_path):
    """What is missing is named, and nothing is downloaded in its place."""
    for name, make, missing in (
        ("voc2012", archives.voc, "VOCdevkit/VOC2012/Annotations"),
        ("voc2012", archives.voc, "VOCdevkit/VOC2012/JPEGImages"),
        ("ilsvrc2012", archives.imagenet, "train"),
    ):
        root = tmp_path / missing.replace("/", "_")
        root.mkdir()
        make(root)
        shutil.rmtree(root / missing)
        with pytest.raises(FileNotFoundError, match=f"{missing}' does not exist. Expected"):
            data.load(name, "train", data_dir=root)
    for missing in ("images.txt", "train_test_split.txt", "bounding_boxes.txt", "classes.txt"):
        archives.cub(tmp_path / missing)
        (tmp_path / missing / "CUB_200_2011" / missing).unlink()
        with pytest.raises(FileNotFoundError, match=f"CUB_200_2011/{missing} is missing"):
            data.load("cub200", "train", data_dir=tmp_path / missing)


def test_caltech256(tmp_path):
    """60 images a class to train, by the hash of their names; no clutter, no stray files."""
    archives.caltech256(tmp_path)
    train = data.load("caltech256", "train", data_dir=tmp_path)
    test, batch = only_batch("caltech256", "test", tmp_path, image_size=8)
    assert (len(train.class_names), train.class_names[0], train.class_names[197]) == (256, "ak47", "spider")
    assert train.source.size == 120 and batch["label"].tolist() == [0] * 3 + [197] * 3
    names = [f"001_{number:04d}.jpg" for number in range(1, 64)]
    last = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[60:]
    assert sorted(path.rsplit("/", 1)[-1] for path in test.source.files[:3]) == sorted(last)
    assert not set(train.source.files) & set(test.source.files)


def test_caltech256_that_is_not_all_there(tmp_path):
    archives.caltech256(tmp_path / "few", images=60)
    with pytest.raises(ValueError, match=r"001.ak47 has 60 images: expected more than 60. Is it all there\?"):
        data.load("caltech256", "train", data_dir=tmp_path / "few")
    archives.caltech256(tmp_path / "other")
    (tmp_path / "other" / "256_ObjectCategories" / "002.flags").mkdir()
    with pytest.raises(ValueError, match="002.flags is no class of Caltech-256"):
        data.load("caltech256", "train", data_dir=tmp_path / "other")


def test_imagenet_in_class_folders(tmp_path):
    archives.imagenet(tmp_path / "ILSVRC" / "Data" / "CLS-LOC")
    train, batch = only_batch("ilsvrc2012", "train", tmp_path, validation_fraction=0.25)
    assert train.class_names == ("n01440764", "n01443537") and batch["image"].shape == (3, 224, 224, 3)
    _, held_out = only_batch("ilsvrc2012", "validation", tmp_path, validation_fraction=0.25)
    test, _ = only_batch("ilsvrc2012", "test", tmp_path)
    assert len(held_out["label"]) == 1 and test.source.size == 4
    assert all("/val/" in path for path in test.source.files)


def test_imagenet_whose_validation_images_are_in_no_folders(tmp_path):
    archives.imagenet(tmp_path)
    for path in list((tmp_path / "val").rglob("*.JPEG")):
        path.rename(tmp_path / "val" / path.name)
    for name in ("n01440764", "n01443537"):
        (tmp_path / "val" / name).rmdir()
    with pytest.raises(ValueError, match=r"val has 0 class folder\(s\) and images outside of them, expected two"):
        data.load("ilsvrc2012", "test", data_dir=tmp_path)


def test_images_are_checked_beforehand_unless_told_otherwise(tmp_path):
    archives.imagenet(tmp_path)
    (tmp_path / "train" / "n01440764" / "n01440764_0.JPEG").write_bytes(b"no image")
    with pytest.raises(data.CorruptImageError, match="n01440764_0.JPEG"):
        data.load("ilsvrc2012", "train", data_dir=tmp_path)
    assert data.load("ilsvrc2012", "train", data_dir=tmp_path, check_images=False).source.size == 4
    with pytest.raises(ValueError, match="skip_corrupt=True needs check_images=True"):
        data.load("ilsvrc2012", "train", data_dir=tmp_path, check_images=False, skip_corrupt=True)


def test_some_examples_only(tmp_path):
    """The same few each time, and not the first ones, which are all of one class."""
    archives.caltech256(tmp_path)
    few, again = (data.load("caltech256", "train", data_dir=tmp_path, examples=10) for _ in range(2))
    assert few.source.size == 10 and few.source.files == again.source.files
    assert len({path.split("/")[-2] for path in few.source.files}) == 2
    assert data.load("scenes", "test", examples=5).source.size == 5
    with pytest.raises(ValueError, match="examples=0"):
        data.load("scenes", "test", examples=0)


def test_center_crop(tmp_path):
    """Of 40x20 pixels, the central 16x16: columns 12 to 27, rows 2 to 17."""
    archives.voc(tmp_path)
    # By the same decoder: others differ by a few grey levels.
    whole = tf.io.decode_jpeg((tmp_path / "VOCdevkit/VOC2012/JPEGImages/val_0.jpg").read_bytes()).numpy()
    _, batch = only_batch("voc2012", "test", tmp_path, image_size=16, center_crop=0.8)
    np.testing.assert_allclose(batch["image"][0], whole[2:18, 12:28], atol=1e-3)
    np.testing.assert_allclose(batch["boxes"][0, 0], [3 / 16, 0, 13 / 16, 0.5])
    with pytest.raises(ValueError, match="center_crop=2"):
        data.load("voc2012", "test", data_dir=tmp_path, center_crop=2.0)


def test_ten_real_images_of_voc_against_their_annotations(real):
    """Read without this package: objects by regular expressions, sizes from the images' own headers."""
    root = real("voc2012_sample")
    loaded, batch = only_batch("voc2012", "test", root, image_size=32, examples=256)
    for row in range(0, 250, 25):
        path = loaded.source.files[row]
        text = pathlib.Path(path.replace("JPEGImages", "Annotations").replace(".jpg", ".xml")).read_text()
        width, height = PIL.Image.open(path).size
        expected = []
        for entry in re.findall(r"<object>(.*?)</object>", text, re.S):
            value = {
                tag: re.search(f"<{tag}>(.*?)</{tag}>", entry).group(1)
                for tag in ("name", "xmin", "ymin", "xmax", "ymax", "difficult")
            }
            x0, y0, x1, y1 = (float(value[tag]) for tag in ("xmin", "ymin", "xmax", "ymax"))
            box = ((y0 - 1) / height, (x0 - 1) / width, y1 / height, x1 / width)
            expected.append((value["name"], *box, value["difficult"]))
        assert {loaded.class_names[n] for n in np.flatnonzero(batch["label"][row])} == {name for name, *_ in expected}
        hard = {name for name, *_ in expected} - {name for name, _, _, _, _, difficult in expected if difficult == "0"}
        assert {loaded.class_names[n] for n in np.flatnonzero(batch["difficult"][row])} == hard
        shown = batch["box_labels"][row] >= 0
        assert [loaded.class_names[n] for n in batch["box_labels"][row][shown]] == [name for name, *_ in expected]
        boxes = np.reshape([box for _, *box, _ in expected], (-1, 4))
        np.testing.assert_allclose(batch["boxes"][row][shown], boxes, atol=1e-6)


def test_ten_real_images_of_cub_against_their_lists(real):
    root = real("cub200_sample")
    loaded, batch = only_batch("cub200", "test", root, image_size=32)
    folder = root / "CUB_200_2011"

    def table(name):
        with open(folder / f"{name}.txt") as file:
            return {number: values for number, *values in csv.reader(file, delimiter=" ")}

    numbers = {path: number for number, (path,) in table("images").items()}
    labels, classes, splits, boxes = (
        table(name) for name in ("image_class_labels", "classes", "train_test_split", "bounding_boxes")
    )
    for row in range(0, 240, 24):
        path = loaded.source.files[row]
        number = numbers[path.split("/images/")[1]]
        (name,) = classes[labels[number][0]]
        assert splits[number] == ["0"] and name.endswith("." + loaded.class_names[batch["label"][row]])
        width, height = PIL.Image.open(path).size
        x, y, box_width, box_height = map(float, boxes[number])
        expected = [y / height, x / width, (y + box_height) / height, (x + box_width) / width]
        np.testing.assert_allclose(batch["boxes"][row, 0], np.minimum(expected, 1), atol=1e-6)


def test_difficult_objects_do_not_count_in_average_precision(tmp_path):
    """A run over a devkit: the person is difficult everywhere and has no precision; nor has it pairs to localise."""
    from sfocus_tf import evaluation
    from sfocus_tf.model import SharpenFocus
    from tests.conftest import tiny_classifier

    archives.voc(tmp_path, images=4)
    loaded, _ = only_batch("voc2012", "test", tmp_path, image_size=8)
    found = evaluation.evaluate(SharpenFocus(tiny_classifier(20), multi_label=True), loaded)
    table = {row["class"]: row for row in found.as_json()["classes"]}
    assert table["person"] == {"class": "person", "images": 0, "average_precision": None}
    assert table["dog"]["images"] == 4 and table["dog"]["average_precision"] == 1
    assert table["cat"]["images"] == 2
    # Nor are they explained, as target or as rival.
    shown = np.stack([found.explanation.target, found.explanation.rival], axis=1)
    assert {loaded.class_names[number] for number in found.explanation.target} <= {"dog", "cat"}
    assert not np.isnan(found.labels[np.arange(4)[:, np.newaxis], shown]).any()
    assert {loaded.class_names[number] for number in found.pairs[:, 1]} <= {"dog", "cat"}
    json.dumps(found.as_json(), allow_nan=False)
