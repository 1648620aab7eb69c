"""Data sets of TFDS: the same as from the archives, our builder of Caltech-256, and what happens without data."""

import pathlib
import shutil
import tempfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from sfocus_tf import data
from sfocus_tf.data import source, tfds_source
from sfocus_tf.data.caltech256 import caltech256_dataset_builder
from tests import archives


def all_of(loaded):
    return list(loaded.batches.unbatch().as_numpy_iterator())


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Makes TFDS find the unpacked archive where it would download it."""

    def use(make, **options):
        root = make(tmp_path / "archive", **options)

        def unpacked(manager, url):
            return dict.fromkeys(url, root) if isinstance(url, dict) else root

        monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", unpacked)
        (tmp_path / "tfds").mkdir()
        return root, tmp_path / "tfds"

    (tmp_path / "archive").mkdir()
    return use


class TestCaltech256(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own checks, on a small archive of the original layout."""

    DATASET_CLASS = caltech256_dataset_builder.Builder
    SPLITS = {"train": 120, "test": 6}
    DL_EXTRACT_RESULT = ""

    @classmethod
    def setUpClass(cls):
        cls.made = tempfile.TemporaryDirectory()
        cls.EXAMPLE_DIR = str(archives.caltech256(pathlib.Path(cls.made.name)))
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.made.cleanup()


def test_caltech256_is_the_same_prepared_by_tfds_and_unpacked(archive):
    root, prepared = archive(archives.caltech256)
    for split in ("train", "test"):
        ours, theirs = (
            data.load("caltech256", split, data_dir=folder, regions=True, training=False, image_size=8)
            for folder in (root, prepared)
        )
        assert ours.class_names == theirs.class_names and ours.source.size == theirs.source.size
        images = [sorted((int(r["label"]), r["image"].tobytes()) for r in all_of(each)) for each in (ours, theirs)]
        assert images[0] == images[1]


def test_voc_is_the_same_prepared_by_tfds_and_unpacked(archive):
    """By the real builder of TFDS: labels, difficult ones, and boxes (which TFDS has a pixel off)."""
    root, prepared = archive(archives.voc, images=3)
    ours, theirs = (
        data.load("voc2012", "test", data_dir=folder, regions=True, image_size=20) for folder in (root, prepared)
    )
    assert ours.class_names == theirs.class_names and ours.source.size == theirs.source.size == 3
    there = {record["image"].tobytes(): record for record in all_of(theirs)}
    for record in all_of(ours):
        other = there[record["image"].tobytes()]
        for key in ("label", "difficult"):
            np.testing.assert_array_equal(record[key], other[key])
        count = len(record["box_labels"])
        assert other["box_labels"][:count].tolist() == record["box_labels"].tolist()
        assert (other["box_labels"][count:] == -1).all()
        np.testing.assert_allclose(other["boxes"][:count], record["boxes"], atol=1e-6)


def test_cifar100_by_the_builder_of_tfds(archive):
    root, prepared = archive(archives.cifar100)
    test = data.load("cifar100", "test", data_dir=prepared, batch_size=20)
    assert test.class_names[:2] == ("fine 0", "fine 1") and test.source.size == 20
    images, labels = next(test.batches.as_numpy_iterator())
    rows = np.fromfile(root / "cifar-100-binary" / "test.bin", np.uint8).reshape(20, -1)
    by_label = images[np.argsort(labels)]
    np.testing.assert_array_equal(by_label, rows[:, 2:].reshape(20, 3, 32, 32).transpose(0, 2, 3, 1))


def test_validation_images_are_counted_not_rounded_to_whole_per_cents(archive):
    _, prepared = archive(archives.cifar100, images=150)
    whole = data.load("cifar100", "train", data_dir=prepared).source.size
    fraction = 0.56 / whole  # of an image: one of them
    sizes = [
        data.load("cifar100", split, data_dir=prepared, validation_fraction=fraction).source.size
        for split in ("train", "validation")
    ]
    assert sizes == [whole - 1, 1]


def test_cub_has_the_names_of_its_classes(tmp_path):
    """TFDS has numbers for them; the paths of the images say what they are."""
    png = tf.io.encode_png(tf.zeros([20, 30, 3], tf.uint8))

    def as_dataset(*args, **kwargs):
        path = tf.constant(["CUB_200_2011/images/003.Sooty_Albatross/1.jpg", "CUB_200_2011/images/001.Wren/2.jpg"])
        return tf.data.Dataset.range(2).map(
            lambda n: {
                "image": png, "label": 2 - 2 * n, "bbox": tf.constant([0.1, 0.2, 0.5, 0.6]), "image/filename": path[n],
                "segmentation_mask": tf.fill([20, 30, 1], tf.constant(200, tf.uint8)),
            }
        )  # fmt: skip

    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
        test = data.load("cub200", "test", data_dir=tmp_path, regions=True, image_size=16, examples=1)
        (record,) = all_of(test)
    assert test.class_names[:3] == ("Wren", "1", "Sooty_Albatross") and len(test.class_names) == 200
    assert test.source.size == 1 and record["label"] == 2 and (record["mask"] == 3).all()
    np.testing.assert_allclose(record["boxes"][0], [0.1, 0.2, 0.5, 0.6])


def test_single_label(tmp_path):
    with tfds.testing.mock_data(num_examples=20):
        train = data.load("cifar100", "train", data_dir=tmp_path, batch_size=8)
        assert len(train.class_names) == 100
        images, labels = (np.concatenate(part) for part in zip(*train.epochs(0, 1).as_numpy_iterator(), strict=True))
    assert images.shape == (20, 32, 32, 3) and labels.min() >= 0 and labels.max() < 100


def test_without_data_or_network(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", no_network)
    with pytest.raises(
        data.DataUnavailableError, match="(?s)could not be downloaded.*same command on a machine with network and copy"
    ):
        data.load("cifar100", "train", data_dir=tmp_path)
    with pytest.raises(data.DataUnavailableError, match="Nor is there an unpacked VOCdevkit/VOC2012/JPEGImages in"):
        data.load("voc2012", "train", data_dir=tmp_path)


@pytest.fixture
def downloads(monkeypatch):
    """Where TFDS was told to download to."""
    folders = []

    def download(builder, *args, **kwargs):
        folders.append(pathlib.Path(builder.data_dir_root))
        raise ConnectionError("this is a test")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download)
    return folders


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("voc2012", "VOCdevkit/VOC2012/JPEGImages of the unpacked archive, or voc/2012/ as prepared by TFDS"),
        ("cub200", "CUB_200_2011/images.txt of the unpacked archive, or caltech_birds2011/ as prepared by TFDS"),
        ("caltech256", "256_ObjectCategories/001.ak47 of the unpacked archive, or caltech256/ as prepared by TFDS"),
        ("ilsvrc2012", "train/n01440764 of the unpacked archive, or imagenet2012/ as prepared by TFDS"),
        ("cifar10", "cifar10/ as prepared by TFDS"),
        ("cifar100", "cifar100/ as prepared by TFDS"),
        ("tfds:mnist", "mnist/ as prepared by TFDS"),
    ],
)
def test_nothing_is_downloaded_among_other_files(name, expected, tmp_path, downloads):
    for entry in ("train/cat", "train/dog", "test", ".git", "__MACOSX"):
        (tmp_path / entry).mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(data.DataUnavailableError) as caught:
        data.load(name, "train", data_dir=tmp_path)
    message = str(caught.value)
    assert f"has no data of dataset={name!r}: expected {expected}; it contains notes.txt, test, train. To" in message
    assert not downloads and len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize(
    "entry",
    [None, ".DS_Store", "downloads/manual", "mnist/3.0.1/dataset_info.json", "voc/2007/4.0.0/dataset_info.json"],
)
def test_folders_that_data_are_downloaded_to(entry, tmp_path, downloads):
    if entry:
        (tmp_path / entry).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / entry).mkdir() if entry.startswith("downloads") else (tmp_path / entry).write_text("{}")
    with pytest.raises(data.DataUnavailableError, match=r"could not be downloaded \(ConnectionError: this is a test"):
        data.load("cifar10", "train", data_dir=tmp_path)
    assert downloads == [tmp_path]


def test_data_that_tfds_has_prepared_are_read_beside_other_files(archive):
    _, prepared = archive(archives.cifar100)
    data.load("cifar100", "test", data_dir=prepared)
    shutil.rmtree(prepared / "downloads", ignore_errors=True)
    (prepared / "notes.txt").write_text("not of TFDS")
    assert data.load("cifar100", "test", data_dir=prepared).source.size == 20


def test_unknown_name_and_no_images(tmp_path):
    part = source.Part("train")
    with pytest.raises(ValueError, match="dataset: TFDS name='cifar1000' is not known"):
        tfds_source.source("tfds:cifar1000", tmp_path, part)
    with tfds.testing.mock_data(num_examples=2), pytest.raises(ValueError, match="expected an image, and a label"):
        tfds_source.source("tfds:imdb_reviews", tmp_path, part)
