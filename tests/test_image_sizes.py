"""Training at one image size, and validation, test, explanation and export at another."""

import json

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from sfocus_tf.configs import common

import sfocus_tf as sf
from sfocus_tf import backbones, data, saved_models, training
from sfocus_tf.__main__ import main
from sfocus_tf.classifier import attention_layers
from sfocus_tf.data import augmentation
from sfocus_tf.training import build
from tests.conftest import tiny_classifier


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """16 training and 8 test images of two classes: bright on the left, bright on the right."""
    root, rng = tmp_path_factory.mktemp("folder"), np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for number, name in enumerate(("left", "right")):
            (root / split / name).mkdir(parents=True)
            for image in range(count):
                pixels = rng.integers(0, 120, (30, 30, 3), dtype=np.uint8)
                pixels[:, 15 * number : 15 * number + 15] += 120
                PIL.Image.fromarray(pixels).save(root / split / name / f"{image}.png")
    return root


def config_of(folder, **changes):
    config = common.get_config()
    config.dataset, config.data_dir, config.backbone = "folder", str(folder), "resnet8"
    config.epochs, config.batch_size, config.validation_fraction = 1, 8, 0.25
    config.image_size, config.test_image_size = 16, 24
    config.update(changes)
    return config


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """A run trained at 16 and tested at 24 pixels: its workdir, and its results."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    return workdir, training.run(config_of(folder), workdir)


def test_splits_have_the_size_of_their_use(folder):
    splits = build.splits(training.resolve(config_of(folder)))
    shapes = {name: split.batches.element_spec[0].shape[1:3].as_list() for name, split in splits.items()}
    assert shapes == {"train": [16, 16], "validation": [24, 24], "test": [24, 24]}


def test_the_classifier_takes_any_size_only_where_sizes_differ(folder):
    for test_size, side in ((24, None), (16, 16), (None, 16)):
        config = training.resolve(config_of(folder, test_image_size=test_size))
        model = build.model(config, build.splits(config), None)
        assert model.classifier.input_shape == (None, side, side, 3)
        assert (model.inner_layer, model.last_layer) == ("stage2_block1_out", "stage3_block1_out")


def test_layers_of_a_classifier_for_any_size_are_those_at_the_size_of_training():
    """At 32 pixels EfficientNet-Lite0's last map has one position, so another one is its last layer."""
    at_32, any_size = (backbones.create("efficientnet_lite0", 3, size) for size in (32, None))
    assert attention_layers.find(any_size, size=32) == attention_layers.find(at_32)
    assert attention_layers.find(any_size).last == "head_relu6" != attention_layers.find(at_32).last


def test_results_and_evaluation_are_of_the_test_size(finished, tmp_path):
    """`evaluate` repeats the run's results; at the size of training, the same classifier has others."""
    workdir, results = finished
    summaries = []
    for flags in ([], ["--image_size=24"], ["--image_size=16"]):
        main(["evaluate", str(workdir), f"--output={tmp_path / 'numbers.json'}", *flags])
        summaries.append(json.loads((tmp_path / "numbers.json").read_text())["summary"])
    assert summaries[0] == summaries[1] == pytest.approx(results["test"], rel=1e-4, abs=1e-4)
    assert summaries[2] != pytest.approx(summaries[0], rel=1e-4, abs=1e-4)
    assert results["config"]["test_image_size"] == 24


def test_explanation_and_comparison_are_of_the_test_size(finished, folder, tmp_path, monkeypatch):
    seen = set()
    read = data.read_images
    monkeypatch.setattr(data, "read_images", lambda files, size, crop: seen.add(size) or read(files, size, crop))
    main(["explain", str(finished[0]), str(folder / "test" / "left" / "0.png"), f"--output={tmp_path / 'figures'}"])
    assert seen == {(24, 24)}
    other = tmp_path / "other"
    other.mkdir()
    sf.SharpenFocus(tiny_classifier(2, 16)).save(other / "last.keras")  # as if trained and tested at 16 pixels
    settings = {"dataset": "folder", "data_dir": str(folder), "method": "cross_entropy", "image_size": 16}
    (other / "config.json").write_text(json.dumps(settings))
    main(["compare", str(other), str(finished[0]), f"--output={tmp_path / 'page.html'}"])
    assert "8 images" in (tmp_path / "page.html").read_text()


def test_an_exported_model_resizes_encoded_images_to_the_test_size(finished, folder, tmp_path):
    main(["export", str(finished[0]), f"--output={tmp_path / 'served' / '1'}"])
    served = tf.saved_model.load(str(tmp_path / "served" / "1")).signatures
    files = sorted((folder / "test").rglob("*.png"))
    answers = served["serving_bytes"](image_bytes=tf.constant([file.read_bytes() for file in files]))
    test = data.load("folder", "test", data_dir=folder, image_size=24, batch_size=8)
    images, _ = next(iter(test.batches))
    expected = saved_models.find(finished[0]).load().classifier.predict(images, verbose=0)
    np.testing.assert_allclose(answers["logits"], expected, rtol=1e-4, atol=1e-4)
    attention = served["explain"](images=images, class_ids=tf.constant([-1]))["attention_target_last"]
    assert attention.shape == (8, 24, 24)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("test_image_size", 0, "a positive number"),
        ("min_crop_area", 0.0, "a share above 0, up to 1"),
        ("min_crop_area", 1.5, "a share above 0, up to 1"),
    ],
)
def test_values_out_of_range_are_refused(folder, key, value, expected):
    with pytest.raises(ValueError, match=f"config.{key}={value}: expected {expected}"):
        training.resolve(config_of(folder, **{key: value}))
    if key == "min_crop_area":
        with pytest.raises(ValueError, match=f"min_crop_area={value}: expected a share of the area"):
            data.load("folder", data_dir=folder, min_crop_area=value)


def test_crops_are_not_smaller_than_they_may_be():
    """Of 200 x 200 pixels. The aspect ratio cuts a crop of all the area down to no less than its square root of 3/4."""

    def areas(least):
        windows = [
            augmentation._random_window(tf.constant([200, 200]), tf.constant([3, number], tf.int64), least).numpy()
            for number in range(60)
        ]
        return [(y1 - y0) * (x1 - x0) / 200**2 for y0, x0, y1, x1 in windows]

    assert min(areas(0.08)) < 0.2 and max(areas(0.08)) > 0.8
    assert 0.49 < min(areas(0.5)) < 0.6
    assert min(areas(1.0)) > 0.86
