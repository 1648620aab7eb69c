"""Any saved Keras classifier becomes a model that can be explained, with the same scores."""

import io
import json
import re
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import sfocus_tf as sf
from sfocus_tf import backbones, saved_models
from sfocus_tf.__main__ import main
from sfocus_tf.classifier import checks, graph
from tests.command_line import sfocus
from tests.conftest import PIXELS, compiled, encoded, random_images, tiny_classifier
from tests.test_files import as_of_version_0_1

OTHER = sf.objective("paper", last=sf.Term(0.7, warmup=0.2, every_steps=2), sigma=0.5)  # than any that has a name


def load(path, *arguments, **options):
    return saved_models.find(path).load(*arguments, **options)


def with_activation(kind: str, activation: str) -> keras.Model:
    base = tiny_classifier(3, 8)
    if kind == "layer":
        return keras.Sequential([keras.Input((8, 8, 3)), base, keras.layers.Activation(activation)])
    head = keras.layers.Dense(3, activation=activation, name="probabilities")
    model = keras.Model(base.inputs, head(base.get_layer("scores").input), name="plain")
    if kind == "dense":
        return model
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, model(inputs))  # nested


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("kind", ["dense", "layer", "nested"])
def test_probabilities_are_taken_off_and_come_back(kind, activation):
    classifier = with_activation(kind, activation)
    stripped, name = checks.without_probabilities(classifier)
    assert name == activation
    images = random_images(4)
    scores = stripped.predict(images, verbose=0)
    again = getattr(keras.ops, activation)(scores)
    np.testing.assert_allclose(again, classifier.predict(images, verbose=0), rtol=1e-4, atol=1e-6)
    assert scores.min() < 0 or scores.max() > 1
    sf.SharpenFocus(stripped)


def test_an_operation_that_is_no_layer_is_taken_off_too():
    classifier = tiny_classifier()
    ended = keras.Model(classifier.inputs[0], keras.ops.softmax(classifier.outputs[0]))
    stripped, name = checks.without_probabilities(ended)
    assert name == "softmax"
    np.testing.assert_allclose(stripped(random_images(2)), classifier(random_images(2)), rtol=1e-6)


def test_scores_stay_as_they_are():
    classifier = tiny_classifier()
    assert checks.without_probabilities(classifier) == (classifier, None)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_flat_is_the_same_network_in_float32(policy):
    keras.config.set_dtype_policy(policy)
    base = tiny_classifier(3, 8)
    inputs = keras.Input((8, 8, 3))
    nested = keras.Model(inputs, base(keras.ops.flip(inputs, axis=-1)))
    flat = graph.flat(nested)
    assert not any(isinstance(layer, keras.Model) for layer in flat.layers)
    assert all(layer.compute_dtype == "float32" for layer in flat.layers[1:])
    assert {"tiny.fine", "tiny.coarse"} <= {layer.name for layer in flat.layers}
    tolerance = 1e-5 if policy == "float32" else 0.05
    images = random_images(4)
    np.testing.assert_allclose(flat(images), keras.ops.cast(nested(images), "float32"), atol=tolerance, rtol=tolerance)


def test_loads_ours_and_plain_ones(tmp_path):
    ours = sf.SharpenFocus(tiny_classifier(), OTHER)
    ours.save(tmp_path / "ours.keras")
    assert load(tmp_path / "ours.keras").objective == OTHER
    with_activation("dense", "sigmoid").save(tmp_path / "plain.keras")
    loaded = load(tmp_path / "plain.keras")
    assert loaded.multi_label and loaded.num_classes == 3
    assert not load(tmp_path / "plain.keras", multi_label=False).multi_label
    assert saved_models.find(tmp_path / "plain.keras").class_names == ()
    for name, text in (("config.json", '{"model_type": "vit", "image_size": 999}'), ("data.json", "[1, 2]")):
        (tmp_path / name).write_text(text)  # of another program
    assert saved_models.find(tmp_path / "plain.keras").config == {}
    assert saved_models.find(tmp_path / "plain.keras").class_names == ()


def test_preprocessing_is_not_done_twice_and_grey_networks_are_told(tmp_path):
    sf.SharpenFocus(tiny_classifier()).save(tmp_path / "last.keras")
    assert load(tmp_path / "last.keras", "unit").num_classes == 3
    (tmp_path / "config.json").write_text('{"dataset": "scenes", "method": "icasc"}')
    with pytest.raises(ValueError, match="--preprocessing=unit: .* have theirs inside"):
        load(tmp_path, "unit")
    (tmp_path / "config.json").unlink()
    with zipfile.ZipFile(tmp_path / "last.keras", "a") as archive:
        archive.writestr("position.json", "{}")  # as train.py does
    with pytest.raises(ValueError, match="--preprocessing=unit: .* have theirs inside"):
        load(tmp_path, "unit")
    sf.SharpenFocus(tiny_classifier(channels=1)).save(tmp_path / "grey.keras")
    with pytest.raises(ValueError, match=r"grey.keras' takes 1 channel\(s\): expected 3"):
        load(tmp_path / "grey.keras")


def test_training_starts_from_another_run_of_the_same_network(tmp_path):
    """All weights but those of the last layer, whatever the number of classes was."""
    trained, fresh = (backbones.create("resnet8", classes, 16) for classes in (3, 5))
    sf.SharpenFocus(trained).save(tmp_path / "last.keras")
    head = fresh.layers[-1].get_weights()
    saved_models.find(tmp_path).copy_weights(fresh)
    for one, other in zip(trained.layers[:-1], fresh.layers[:-1], strict=True):
        for weight, copied in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, copied)
    for weight, kept in zip(head, fresh.layers[-1].get_weights(), strict=True):
        np.testing.assert_array_equal(weight, kept)
    with pytest.raises(ValueError, match=r"config.weights=.* is another network than resnet14.*14 layers there, 26"):
        saved_models.find(tmp_path, "config.weights").copy_weights(backbones.create("resnet14", 3, 16))
    sf.SharpenFocus(backbones.create("resnet14", 3, 16)).save(tmp_path / "larger.keras")
    with pytest.raises(ValueError, match="another network than resnet8"):
        saved_models.find(tmp_path / "larger.keras").copy_weights(fresh)
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(ValueError, match="config.weights=.*text.keras.* cannot be loaded"):
        saved_models.find(tmp_path / "text.keras", "config.weights").copy_weights(fresh)


def test_preprocessing_is_what_keras_applications_does(tmp_path):
    classifier = tiny_classifier(3, 8)
    classifier.save(tmp_path / "plain.keras")
    images = 255 * random_images(2)
    for mode in ("tf", "torch", "caffe"):
        expected = classifier(keras.applications.imagenet_utils.preprocess_input(images.copy(), mode=mode))
        loaded = load(tmp_path / "plain.keras", mode)
        np.testing.assert_allclose(loaded.predict(images, verbose=0), expected, rtol=1e-3, atol=1e-4)
    sf.SharpenFocus(classifier, OTHER).save(tmp_path / "ours.keras")
    ours = load(tmp_path / "ours.keras", "tf")
    assert ours.objective == OTHER
    np.testing.assert_allclose(ours.predict(images, verbose=0), classifier(images / 127.5 - 1), rtol=1e-3, atol=1e-4)
    unit = load(tmp_path / "plain.keras", "unit")
    np.testing.assert_allclose(unit.predict(images, verbose=0), classifier(images / 255), rtol=1e-4, atol=1e-5)
    assert backbones.PREPROCESSING == ("none", "unit", "tf", "torch", "caffe")


def test_what_cannot_be_loaded_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.keras does not exist"):
        load(tmp_path / "nowhere.keras")
    with pytest.raises(FileNotFoundError, match=r"last\.keras does not exist"):
        load(tmp_path)
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(ValueError, match="cannot be loaded as a Keras model"):
        load(tmp_path / "text.keras")
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "flat.keras")
    with pytest.raises(ValueError, match="expected images"):
        load(tmp_path / "flat.keras")
    tiny_classifier().save(tmp_path / "tiny.keras")
    with pytest.raises(ValueError, match=r"preprocessing='tg'.*'tf'"):
        load(tmp_path / "tiny.keras", "tg")
    sf.SharpenFocus(tiny_classifier()).save(tmp_path / "ours.keras")
    tiny_classifier(3, 8, channels=1).save(tmp_path / "grey.keras")
    with pytest.raises(ValueError, match=r"takes 1 channel\(s\)"):
        load(tmp_path / "grey.keras")
    inputs = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    two = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(sum(inputs))))
    two.save(tmp_path / "two.keras")
    with pytest.raises(ValueError, match=r"two\.keras.*has 2 inputs .*: expected one, of images"):
        load(tmp_path / "two.keras", "tf")
    with pytest.raises(ValueError, match="multi_label=False, not True"):
        load(tmp_path / "ours.keras", multi_label=True)


def test_files_that_are_damaged_or_something_else(tmp_path):
    """Each message names the file and what is wrong; on the command line they are shown as they are."""
    tiny_classifier().save(tmp_path / "good.keras")
    whole = (tmp_path / "good.keras").read_bytes()
    with zipfile.ZipFile(tmp_path / "good.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    at = whole.index(b"config.json") + 60
    broken = whole[:at] + bytes(255 ^ byte for byte in whole[at : at + 4]) + whole[at + 4 :]

    def with_members(**changed):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, changed.get(name.split(".")[-1], content))
        return buffer.getvalue()

    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("photo.jpg", "no model")
    for number, (content, message) in enumerate([
        (b"", "no zip archive"),
        (b"no model", "no zip archive"),
        (whole[: len(whole) // 2], "cut off"),
        (broken, "'config.json' in the zip archive is damaged"),
        (other.getvalue(), "no config.json, but photo.jpg"),
        (with_members(json=b"{"), "JSONDecodeError"),
        (with_members(json=b"[]"), "TypeError"),
        (with_members(h5=b"no weights"), "OSError"),
    ]):  # fmt: skip
        file = tmp_path / f"{number}.keras"
        file.write_bytes(content)
        with pytest.raises(
            ValueError, match=f"MODEL='.*{number}.keras' cannot be loaded as a Keras model: .*{message}"
        ):
            load(file)
        with pytest.raises(SystemExit, match=f"sfocus_tf export: MODEL=.*{message}"):
            main(["export", str(file), f"--output={tmp_path}/served/1"])
    good = load(tmp_path / "good.keras")
    assert good.num_classes == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", "config.json cannot be read .*Restore it, or remove it"),
        ("config.json", b"\xff\xfe", "config.json cannot be read"),
        ("data.json", b'{"class_names": "cat"}', "data.json: class_names='cat': expected a list of names"),
        ("data.json", b'{"class_names": 5}', "data.json: class_names=5: expected a list of names"),
        ("data.json", b'{"class_names": ["a", "b"]}', "data.json has 2 class names for 3 classes"),
    ],
)
def test_damaged_files_beside_a_model_are_named(name, content, message, tmp_path):
    tiny_classifier().save(tmp_path / "last.keras")
    (tmp_path / name).write_bytes(content)
    (tmp_path / "image.png").write_bytes(encoded(PIXELS))
    done = sfocus("explain", tmp_path, tmp_path / "image.png", f"--output={tmp_path / 'why.png'}")
    assert done.returncode == 1 and re.search(message, done.stderr) and "Traceback" not in done.stderr


def test_validation_images_of_one_that_the_other_was_trained_on(tmp_path):
    """Different shares held out; a comparison on them would favour one model."""
    for method, share in (("icasc", 0.1), ("cross_entropy", 0.2)):
        (tmp_path / method).mkdir()
        (tmp_path / method / "last.keras").touch()
        config = {"method": method, "dataset": "scenes", "validation_fraction": share}
        (tmp_path / method / "config.json").write_text(json.dumps(config))
    runs, page = (tmp_path / "icasc", tmp_path / "cross_entropy"), f"--output={tmp_path / 'page.html'}"
    done = sfocus("compare", *runs, "--split=validation", page)
    assert done.returncode == 1 and "the models held out different shares" in done.stderr


def test_a_wrapped_model_inside_another_is_found(tmp_path):
    """The usual model for predictions: preprocessing, the trained model, softmax."""
    trained = sf.SharpenFocus(tiny_classifier(), OTHER)
    whole = keras.Sequential([
        keras.Input((8, 8, 3)), keras.layers.Rescaling(2.0), trained, keras.layers.Softmax(),
    ])  # fmt: skip
    whole.save(tmp_path / "whole.keras")
    loaded = load(tmp_path / "whole.keras")
    images = random_images(3)
    again = keras.ops.softmax(loaded.predict(images, verbose=0))
    np.testing.assert_allclose(again, whole.predict(images, verbose=0), atol=1e-5)
    assert loaded.objective == OTHER
    expected, found = trained.explain(2 * images), loaded.explain(images)
    np.testing.assert_allclose(found.last.target, expected.last.target, atol=1e-5)
    loaded.save(tmp_path / "again.keras")
    assert load(tmp_path / "again.keras").objective == OTHER
    assert not load(tmp_path / "whole.keras", multi_label=False).multi_label
    with pytest.raises(ValueError, match="was trained with multi_label=False, not True"):
        load(tmp_path / "whole.keras", multi_label=True)


def test_a_model_of_version_0_1_explains_as_before_wherever_it_is_put(tmp_path):
    """Trained on maps by Layer-CAM: alone, with preprocessing before it, inside another model, and served."""
    model = compiled(sf.SharpenFocus(tiny_classifier(), sf.Objective()))
    images, file = random_images(3), tmp_path / "former.keras"
    model.save(file)
    as_of_version_0_1(file, attention="layer_cam")
    expected = model.explain(images, cam="layer_cam")
    former = load(file)
    keras.Sequential([keras.Input((8, 8, 3)), former, keras.layers.Softmax()]).save(tmp_path / "whole.keras")
    for loaded, scale in (
        (former, 1),
        (load(file, "unit"), 255),
        (load(tmp_path / "whole.keras"), 1),
    ):
        found = loaded.explain(scale * images)
        np.testing.assert_allclose(found.last.target, expected.last.target, atol=1e-5)
        np.testing.assert_allclose(found.inner.rival, expected.inner.rival, atol=1e-5)
        with pytest.raises(ValueError, match="can be used, but not trained"):
            compiled(loaded).train_on_batch(images, np.array([0, 1, 2]))
    former.export(tmp_path / "1")
    explain = tf.saved_model.load(str(tmp_path / "1")).signatures["explain"]
    served = explain(images=tf.constant(images), class_ids=tf.constant([-1]))
    np.testing.assert_allclose(served["raw_attention_rival_inner"], expected.inner.rival, atol=1e-5)
