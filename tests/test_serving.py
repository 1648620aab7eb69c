"""The SavedModel gives what the Keras model gives, without this package, and bears whatever is sent to it."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import json_format
from keras.src.applications import densenet
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

import sfocus_tf as sf
from sfocus_tf import backbones, evaluation
from tests.conftest import PIXELS, ROOT, encoded, random_images, tiny_classifier

NAMES = ("ant", "bee", "cat")
PAGE = (ROOT / "docs" / "serving.md").read_text()


def nested(size: int) -> keras.Model:
    inputs = keras.Input((size, size, 3))
    shape = (size, size, 3)
    base = densenet.DenseNet([1, 2, 1, 1], include_top=False, weights=None, input_shape=shape, pooling="avg")
    return keras.Model(inputs, keras.layers.Dense(3, dtype="float32")(base(inputs)))


def signature_def(folder, name: str):
    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return model.meta_graphs[0].signature_def[name]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A small model, exported, with its signatures."""
    keras.utils.set_random_seed(3)
    model = sf.SharpenFocus(tiny_classifier(3, 16))
    folder = tmp_path_factory.mktemp("served") / "sfocus" / "1"
    model.export(folder, class_names=NAMES)
    return model, folder, tf.saved_model.load(str(folder))


@pytest.mark.parametrize(
    ("name", "policy", "multi_label"),
    [
        ("resnet8", "float32", False),
        ("resnet8", "mixed_bfloat16", True),
        ("resnet8", "mixed_float16", False),
        ("efficientnet_lite0", "float32", True),
        ("nested", "mixed_bfloat16", True),
    ],
)
def test_every_signature_equals_the_keras_model(name, policy, multi_label, tmp_path):
    keras.config.set_dtype_policy(policy)
    size = 32 if name.startswith("resnet") else 64
    weights = "imagenet" if name == "efficientnet_lite0" else None
    classifier = nested(size) if name == "nested" else backbones.create(name, 3, size, weights)
    model = sf.SharpenFocus(classifier, multi_label=multi_label)
    model.export(tmp_path / "1", class_names=NAMES)
    signatures = tf.saved_model.load(str(tmp_path / "1")).signatures
    images = np.round(255 * random_images(3, size))
    files = tf.constant([encoded(image) for image in images])
    expected, contrast = model.explain(images), model.explain(images, of="contrast")
    squash = keras.ops.sigmoid if multi_label else keras.ops.softmax
    probabilities = keras.ops.convert_to_numpy(squash(expected.scores))
    ids = tf.constant([-1, -1, -1])
    answers = {
        "serving_default": signatures["serving_default"](images=tf.constant(images)),
        "serving_bytes": signatures["serving_bytes"](image_bytes=files),
        "explain": signatures["explain"](images=tf.constant(images), class_ids=ids),
        "explain_bytes": signatures["explain_bytes"](image_bytes=files, class_ids=ids),
    }
    tolerance = {"atol": 1e-5, "rtol": 1e-5}
    assert np.ptp(expected.scores) > 0.01
    for key, answer in answers.items():
        np.testing.assert_allclose(answer["logits"], expected.scores, **tolerance)
        np.testing.assert_allclose(answer["probabilities"], probabilities, **tolerance)
        assert [NAMES[number] for number in expected.scores.argmax(1)] == [
            text.decode() for text in answer["class_name"].numpy()
        ]
        np.testing.assert_array_equal(answer["class_id"], expected.scores.argmax(1))
        if not key.startswith("explain"):
            assert answer.keys() == {"probabilities", "logits", "class_id", "class_name"}
            continue
        for layer in ("inner", "last"):
            maps = getattr(expected, layer)
            for role, map_ in maps._asdict().items():
                name = f"{role}_{layer}"
                np.testing.assert_allclose(answer[f"raw_attention_{name}"] / map_.max(), map_ / map_.max(), **tolerance)
                shown = tf.image.resize(map_[..., np.newaxis], (size, size))[..., 0].numpy()
                shown /= np.maximum(shown.max(axis=(1, 2), keepdims=True), 1e-30)
                np.testing.assert_allclose(answer[f"attention_{name}"], shown, atol=1e-4)
            signed = np.subtract(*getattr(contrast, layer))
            # In half precision the slope of a difference is not quite the difference of the rounded slopes.
            near = {"atol": 1e-5 if policy == "float32" else 0.02, "rtol": 0}
            raw = answer[f"raw_contrast_{layer}"]
            np.testing.assert_allclose(raw / np.abs(signed).max(), signed / np.abs(signed).max(), **near)
            shown = tf.image.resize(raw[..., np.newaxis], (size, size))[..., 0].numpy()
            shown /= np.maximum(np.abs(shown).max(axis=(1, 2), keepdims=True), 1e-30)
            np.testing.assert_allclose(answer[f"contrast_{layer}"], shown, atol=1e-4)
            overlap = np.nan_to_num(evaluation.region_iou(maps.target, maps.rival))
            np.testing.assert_allclose(answer[f"overlap_{layer}"], overlap, atol=1e-5)
        for role, numbers in (("target", expected.target), ("rival", expected.rival)):
            np.testing.assert_array_equal(answer[f"{role}_class_id"], numbers)
            names = [text.decode() for text in answer[f"{role}_class_name"].numpy()]
            assert names == [NAMES[number] for number in numbers]


def test_class_ids_choose_the_target(served):
    model, folder, loaded = served
    images = 255 * random_images(4, 16)
    answer = loaded.signatures["explain"](images=tf.constant(images), class_ids=tf.constant([2, 0, -1, 1]))
    expected = model.explain(images, class_ids=[2, 0, -1, 1])
    np.testing.assert_array_equal(answer["target_class_id"], expected.target)
    np.testing.assert_array_equal(answer["rival_class_id"], expected.rival)
    np.testing.assert_allclose(answer["raw_attention_rival_last"], expected.last.rival, rtol=1e-5, atol=1e-7)
    one_for_all = loaded.signatures["explain"](images=tf.constant(images), class_ids=tf.constant([1]))
    np.testing.assert_array_equal(one_for_all["target_class_id"], [1, 1, 1, 1])
    default = signature_def(folder, "explain").defaults["class_ids"]
    assert tf.make_ndarray(default).tolist() == [-1]
    with pytest.raises(tf.errors.InvalidArgumentError, match="class_ids: expected numbers from -1 to 2"):
        loaded.signatures["explain"](images=tf.constant(images), class_ids=tf.constant([0, 1, 2, 3]))


@pytest.mark.parametrize("signature", ["serving_default", "explain"])
def test_images_of_another_size_than_the_networks_are_refused(served, signature):
    """Pooling would take them, and answer."""
    ids = {"class_ids": tf.constant([-1])} if signature == "explain" else {}
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[1,16,24,3\] is not compatible .*\[\?,16,16,3\]"):
        served[2].signatures[signature](images=tf.zeros([1, 16, 24, 3]), **ids)


def test_names_that_are_one_string_are_refused(tmp_path):
    with pytest.raises(TypeError, match="class_names='abc': expected a sequence of names"):
        sf.SharpenFocus(tiny_classifier()).export(tmp_path / "1", class_names="abc")
    assert not list(tmp_path.iterdir())


def test_a_request_without_images_is_told_so(served):
    _, _, loaded = served
    ids = tf.constant([], tf.int32)
    with pytest.raises(tf.errors.InvalidArgumentError, match="images: expected one or more, got none"):
        loaded.signatures["explain"](images=tf.zeros([0, 16, 16, 3]), class_ids=ids)


def test_a_batch_is_its_images_one_after_the_other(served):
    _, _, loaded = served
    files = [encoded(255 * image) for image in random_images(5, 20)]
    explain = loaded.signatures["explain_bytes"]
    whole = explain(image_bytes=tf.constant(files), class_ids=tf.constant([-1] * 5))
    for row, file in enumerate(files):
        alone = explain(image_bytes=tf.constant([file]), class_ids=tf.constant([-1]))
        for key, value in whole.items():
            if value.dtype == tf.string:
                assert alone[key][0] == value[row]
            else:
                np.testing.assert_allclose(alone[key][0], value[row], rtol=1e-4, atol=1e-6)


def test_runs_without_this_package_and_has_no_foreign_operations(served, tmp_path):
    model, folder, _ = served
    images = 255 * random_images(2, 16)
    np.save(tmp_path / "images.npy", images)
    script = (
        "import sys, numpy as np, tensorflow as tf\n"
        f"answer = tf.saved_model.load({str(folder)!r}).signatures['serving_default'](\n"
        f"    images=tf.constant(np.load({str(tmp_path / 'images.npy')!r})))\n"
        f"np.save({str(tmp_path / 'logits.npy')!r}, answer['logits'])\n"
        "assert 'sfocus_tf' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), model.predict(images, verbose=0), rtol=1e-5, atol=1e-5)
    graph = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    operations = {node.op for function in graph.library.function for node in function.node_def}
    assert not {name for name in operations if "PyFunc" in name} and "Conv2D" in operations


def test_saved_model_cli_runs_it(served, tmp_path):
    _, folder, loaded = served
    np.save(tmp_path / "images.npy", 255 * random_images(1, 16))
    command = shutil.which("saved_model_cli", path=os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
    subprocess.run(
        [command, "run", "--dir", folder, "--tag_set", "serve", "--signature_def", "serving_default",
         "--inputs", f"images={tmp_path / 'images.npy'}", "--outdir", tmp_path],
        check=True, capture_output=True,
    )  # fmt: skip
    expected = loaded.signatures["serving_default"](images=tf.constant(np.load(tmp_path / "images.npy")))
    np.testing.assert_allclose(np.load(tmp_path / "probabilities.npy"), expected["probabilities"], rtol=1e-5)


def test_warm_up_requests_fit_every_signature(served):
    _, folder, loaded = served
    seen = set()
    for record in tf.data.TFRecordDataset(str(folder / "assets.extra" / "tf_serving_warmup_requests")):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        assert request.model_spec.name == "sfocus"
        inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
        answer = loaded.signatures[request.model_spec.signature_name](**inputs)
        seen.add((request.model_spec.signature_name, answer["logits"].shape[0]))
    assert seen == {(name, size) for name in loaded.signatures for size in (1, 8)}


def test_the_file_is_hardly_larger_than_a_plain_export(tmp_path):
    classifier = backbones.create("efficientnet_lite0", 10, 64)
    sf.SharpenFocus(classifier).export(tmp_path / "ours")
    classifier.export(tmp_path / "plain", verbose=False)
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / name).rglob("*") if path.is_file())
        for name in ("ours", "plain")
    ]
    assert sizes[0] <= 1.05 * sizes[1]


def test_warm_up_requests_need_an_extra(served, tmp_path, monkeypatch):
    for name in ("tensorflow_serving", "tensorflow_serving.apis"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.warns(UserWarning, match=r"without warmup requests.*pip install -e '.\[serving\]'"):
        served[0].export(tmp_path / "1", class_names=NAMES)
    assert not (tmp_path / "1" / "assets.extra").exists()
    assert tf.saved_model.load(str(tmp_path / "1")).signatures.keys() == served[2].signatures.keys()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def test_the_page_asks_without_a_server(served, tmp_path, monkeypatch):
    _, folder, _ = served
    monkeypatch.chdir(tmp_path)
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "1").symlink_to(folder)
    (tmp_path / "photo.jpg").write_bytes(encoded(PIXELS, "JPEG"))
    scope: dict = {}
    exec(blocks("python")[0], scope)
    assert scope["why"]["class_name"].numpy()[0].decode() in NAMES
    assert scope["why"]["contrast_last"].shape[0] == 1


def test_the_pages_grpc_request_fits_the_signature(served, tmp_path, monkeypatch):
    _, folder, loaded = served
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(encoded(PIXELS, "JPEG"))
    scope: dict = {}
    exec(blocks("python")[1], scope)
    request = scope["request"]
    wanted = signature_def(folder, request.model_spec.signature_name).inputs
    assert request.inputs.keys() == wanted.keys()
    for key, value in request.inputs.items():
        assert value.dtype == wanted[key].dtype
    inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
    answer = loaded.signatures[request.model_spec.signature_name](**inputs)
    outputs = set(re.findall(r'outputs\["(\w+)"\]', blocks("python")[2]))
    assert outputs and outputs <= answer.keys()
    compile(blocks("python")[2], "serving.md", "exec")


def test_the_pages_rest_request_fits_the_signature(served, tmp_path):
    _, folder, loaded = served
    (tmp_path / "photo.jpg").write_bytes(encoded(PIXELS, "JPEG"))
    command = next(block for block in blocks("bash") if "printf" in block).split("curl")[0]
    subprocess.run(["bash", "-ec", command], check=True, cwd=tmp_path)
    request = json.loads((tmp_path / "request.json").read_text())
    wanted = signature_def(folder, request["signature_name"]).inputs
    (instance,) = request["instances"]
    assert instance.keys() == wanted.keys()
    file = base64.b64decode(instance["image_bytes"]["b64"])
    assert file == (tmp_path / "photo.jpg").read_bytes()
    answer = loaded.signatures[request["signature_name"]](
        image_bytes=tf.constant([file]), class_ids=tf.constant([instance["class_ids"]])
    )
    assert answer["class_name"].numpy()[0].decode() in NAMES


def test_the_pages_export_command_and_batching_file(tmp_path, served):
    model, _, _ = served
    workdir = tmp_path / "runs" / "scenes-both-0" / "icasc"
    workdir.mkdir(parents=True)
    model.save(workdir / "last.keras")
    (workdir / "data.json").write_text(json.dumps({"class_names": NAMES}))
    command = blocks("bash")[0].replace("python", sys.executable, 1)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(["bash", "-ec", command], check=True, cwd=tmp_path, env=environment, capture_output=True)
    assert (tmp_path / "served" / "1" / "saved_model.pb").exists()
    fields = re.findall(r"(\w+) \{ value: \d+ \}", blocks("text")[0])
    assert set(fields) == {"max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"}


def test_what_cannot_be_exported_is_told(served, tmp_path):
    model, folder, _ = served
    with pytest.raises(ValueError, match="expected 3, one for each class, got 1"):
        model.export(tmp_path / "1", class_names=("ant",))
    with pytest.raises(FileExistsError, match="is there already"):
        model.export(folder, class_names=NAMES)
    with pytest.raises(ValueError, match="takes images of 16x16"):
        model.export(tmp_path / "1", image_size=(8, 8))
    with pytest.raises(ValueError, match=r"image_size=\(16,\): expected height and width\."):
        model.export(tmp_path / "1", image_size=(16,))
    with pytest.raises(TypeError, match="unexpected arguments nonsense"):
        model.export(tmp_path / "1", nonsense=3)
    assert not list(tmp_path.iterdir())


def test_a_classifier_for_any_size_needs_one_for_encoded_images(tmp_path):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    x = keras.layers.Conv2D(4, 3, 2, activation="relu")(x)
    model = sf.SharpenFocus(keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))))
    with pytest.raises(
        ValueError, match="image_size=None: expected height and width, as this classifier takes images of any size"
    ):
        model.export(tmp_path / "1")
    with pytest.raises(ValueError, match="image_size=0: expected a positive whole number"):
        model.export(tmp_path / "1", image_size=0)
    model.export(tmp_path / "square", image_size=20)
    assert (tmp_path / "square" / "saved_model.pb").exists()
    model.export(tmp_path / "1", image_size=(20, 24))
    signatures = tf.saved_model.load(str(tmp_path / "1")).signatures
    one = signatures["explain_bytes"](image_bytes=tf.constant([encoded(PIXELS)]), class_ids=tf.constant([-1]))
    assert one["attention_rival_inner"].shape == (1, 20, 24)
    other = signatures["explain"](images=tf.zeros([2, 33, 41, 3]), class_ids=tf.constant([-1]))
    assert other["attention_rival_inner"].shape == (2, 33, 41)


def test_signatures_have_their_documented_method(served):
    _, folder, _ = served
    assert json_format.MessageToDict(signature_def(folder, "explain"))["methodName"] == "tensorflow/serving/predict"
