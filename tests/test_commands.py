"""python -m sfocus_tf on networks that this project never saw while they were trained."""

import json

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import sfocus_tf as sf
from sfocus_tf import evaluation
from sfocus_tf.__main__ import main, parser
from tests.command_line import sfocus
from tests.conftest import tiny_classifier

SIZE = 64


def folder_of_images(root, count=6, size=SIZE):
    """Two classes: bright on the left, bright on the right."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for number, name in enumerate(("left", "right")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for image in range(count):
                pixels = rng.integers(0, 90, (size, size, 3))
                pixels[:, : size // 2] += 150 * (number == 0)
                pixels[:, size // 2 :] += 150 * (number == 1)
                PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{image}.png")
    return root


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """MobileNet with its softmax, trained by plain Keras on pixels from -1 to 1 and saved; with its data."""
    root = tmp_path_factory.mktemp("stranger")
    data_dir = folder_of_images(root / "data")
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNet((SIZE, SIZE, 3), alpha=0.25, weights=None, classes=2)
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    data = sf.data.load("folder", "train", data_dir=data_dir, batch_size=6, image_size=SIZE)
    images, labels = (np.concatenate(part) for part in zip(*data.batches.as_numpy_iterator(), strict=True))
    model.fit(images / 127.5 - 1, labels, epochs=2, verbose=0)
    model.save(root / "mobile.keras")
    return root, model


def test_evaluate_a_strangers_network(stranger, tmp_path, capsys):
    root, model = stranger
    output = tmp_path / "new" / "numbers.json"
    main(["evaluate", str(root / "mobile.keras"), "--dataset=folder", f"--data_dir={root / 'data'}",
          "--preprocessing=tf", "--batch_size=5", "--faithfulness", f"--output={output}"])  # fmt: skip
    result = json.loads(output.read_text())
    data = sf.data.load("folder", "test", data_dir=root / "data", batch_size=4, image_size=SIZE)
    images, labels = (np.concatenate(part) for part in zip(*data.batches.as_numpy_iterator(), strict=True))
    plain = model.predict(images / 127.5 - 1, verbose=0)
    assert result["summary"]["accuracy"] == evaluation.accuracy(plain, labels)
    assert result["images"] == 12 and {"insertion", "overlap_inner"} <= result["summary"].keys()
    assert [row["class"] for row in result["classes"]] == ["left", "right"]
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("cam", [None, "layer_cam"])
def test_explain_a_strangers_network(stranger, tmp_path, cam, capsys):
    root, _ = stranger
    (tmp_path / "names.txt").write_text("left\nright\n")
    given = [str(root / "data" / "test" / "left" / "0.png"), str(root / "data" / "test" / "right" / "[01].png")]
    extra = [f"--cam={cam}"] if cam else []
    main(["explain", str(root / "mobile.keras"), *given, "--preprocessing=tf", "--class=Right",
          f"--class_names={tmp_path / 'names.txt'}", f"--output={tmp_path / 'out'}", *extra])  # fmt: skip
    figures = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert figures == ["0-1.png", "0.png", "1.png"] and "3 figures in" in capsys.readouterr().out
    assert PIL.Image.open(tmp_path / "out" / "1.png").size[0] > 400


def test_compare_two_networks(tmp_path, capsys):
    data_dir = folder_of_images(tmp_path / "data", size=16)
    for name in ("one", "two"):
        sf.SharpenFocus(tiny_classifier(2, 16)).save(tmp_path / f"{name}.keras")
    main(["compare", str(tmp_path / "one.keras"), str(tmp_path / "two.keras"), "--dataset=folder", "--names=old,new",
          f"--data_dir={data_dir}", f"--output={tmp_path / 'page.html'}"])  # fmt: skip
    page = (tmp_path / "page.html").read_text()
    assert "<h1>old and new</h1>" in page and "folder, test split, 12 images" in page
    assert "old: accuracy" in capsys.readouterr().out


def test_a_workdir_needs_no_flags(tmp_path, capsys, monkeypatch):
    """What train.py leaves says which data and which names."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    sf.SharpenFocus(tiny_classifier(2, 16)).save(workdir / "last.keras")
    settings = {
        "dataset": "folder",
        "data_dir": str(folder_of_images(tmp_path / "data", 3, size=16)),
        "method": "icasc",
    }
    (workdir / "config.json").write_text(json.dumps(settings))
    (workdir / "data.json").write_text(json.dumps({"class_names": ["left", "right"]}))
    monkeypatch.chdir(tmp_path)
    main(["evaluate", str(workdir), "--of=relative"])
    measured = json.loads((tmp_path / "evaluation.json").read_text())
    main(["evaluate", str(workdir), "--output=score.json"])  # of two classes
    assert "maps are of the scores themselves" in capsys.readouterr().out
    of_scores = json.loads((tmp_path / "score.json").read_text())
    assert measured["images"] == 6 and measured["classes"] == of_scores["classes"]
    assert (measured["of"], of_scores["of"]) == ("relative", "score")
    assert measured["summary"] != of_scores["summary"]
    with pytest.raises(SystemExit, match="MODEL='.*' is a folder of runs. Expected one of them: .*run"):
        main(["evaluate", str(tmp_path)])
    for _ in range(2):  # its own figures are no images to explain
        main(["explain", str(workdir), ".", "--rival=left", "--batch_size=5"])
        assert len(list((tmp_path / "explanations").iterdir())) == 12
    (workdir / "data.json").write_text(json.dumps({"class_names": ["left", "wrong"]}))
    with pytest.raises(SystemExit, match="first that differs is 'wrong' there, 'right' here"):
        main(["evaluate", str(workdir)])
    (workdir / "data.json").write_text(json.dumps({"class_names": ["left", "right"]}))
    image = str(tmp_path / "data" / "test" / "left" / "0.png")
    main(["explain", str(workdir), image, "--cam=vis:saliency", "--output=pixels"])
    assert (tmp_path / "pixels" / "0.png").exists()
    with pytest.raises(SystemExit, match=r"--class='lift'.*'left'"):
        main(["explain", str(workdir), str(tmp_path / "data"), "--class=lift"])


def test_each_model_sees_images_cropped_as_in_its_training(tmp_path, capsys, monkeypatch):
    """Its first layers see the middle of the image, its own crop, whichever model it is compared with."""
    monkeypatch.chdir(tmp_path)
    data_dir, accuracy = folder_of_images(tmp_path / "data", size=16), {}
    sides = keras.Sequential([keras.Input((16, 16, 3)), *tiny_classifier(2, 16).layers[1:]])
    for name, crop in (("whole", None), ("middle", 0.25)):
        workdir = tmp_path / name
        workdir.mkdir()
        sf.SharpenFocus(sides).save(workdir / "last.keras")
        settings = {"dataset": "folder", "data_dir": str(data_dir), "method": "icasc", "center_crop": crop}
        (workdir / "config.json").write_text(json.dumps(settings))
        main(["evaluate", name, f"--output={name}.json", "--dataset=folder"])
        accuracy[name] = json.loads((tmp_path / f"{name}.json").read_text())["summary"]
    assert accuracy["whole"] != accuracy["middle"], "else this test says nothing"
    seen = []
    monkeypatch.setattr(
        evaluation, "evaluate", lambda *given, real=evaluation.evaluate: seen.append(real(*given)) or seen[-1]
    )
    for order in (("whole", "middle"), ("middle", "whole")):
        seen.clear()
        main(["compare", *order])
        assert [each.summary() for each in seen] == [accuracy[name] for name in order]


def test_a_network_for_any_size_and_one_for_rectangles(tmp_path):
    data_dir = folder_of_images(tmp_path / "data", size=16)
    for name, shape in (("any", (None, None, 3)), ("wide", (16, 24, 3))):
        inputs = keras.Input(shape)
        x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
        x = keras.layers.Conv2D(4, 3, 2, activation="relu")(x)
        outputs = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))
        keras.Model(inputs, outputs).save(tmp_path / f"{name}.keras")
    output = tmp_path / "numbers.json"
    common = ["--dataset=folder", f"--data_dir={data_dir}", f"--output={output}"]
    main(["evaluate", str(tmp_path / "any.keras"), "--image_size=20", *common])
    assert json.loads(output.read_text())["images"] == 12
    image = str(data_dir / "test" / "left" / "0.png")
    for command in (["evaluate", *common], ["explain", image], ["export", f"--output={tmp_path / 'served' / '1'}"]):
        with pytest.raises(SystemExit, match=r"--image_size is not set, and .*any.keras takes images of any size"):
            main([command[0], str(tmp_path / "any.keras"), *command[1:]])
    with pytest.raises(SystemExit, match="16x24 pixels: expected a square"):
        main(["evaluate", str(tmp_path / "wide.keras"), *common])
    main(["explain", str(tmp_path / "wide.keras"), image, f"--output={tmp_path / 'out'}"])


def test_a_trained_model_inside_another_one(tmp_path):
    """SharpenFocus, then a softmax, in one file: every command takes the classifier inside."""
    data_dir = folder_of_images(tmp_path / "data", size=16)
    trained = sf.SharpenFocus(tiny_classifier(2, 16))
    model = keras.Sequential([keras.Input((16, 16, 3)), trained, keras.layers.Softmax()])
    file = str(tmp_path / "model.keras")
    model.save(file)
    output = tmp_path / "numbers.json"
    main(["evaluate", file, "--dataset=folder", f"--data_dir={data_dir}", f"--output={output}"])
    assert json.loads(output.read_text())["images"] == 12
    main(["explain", file, str(data_dir / "test"), f"--output={tmp_path / 'figures'}"])
    assert len(list((tmp_path / "figures").iterdir())) == 12
    main(["export", file, f"--output={tmp_path / 'served' / '1'}"])
    images = np.random.default_rng(0).random((2, 16, 16, 3), "float32")
    served = tf.saved_model.load(str(tmp_path / "served" / "1")).signatures["serving_default"]
    given = served(images=tf.constant(images))["probabilities"]
    np.testing.assert_allclose(given, model.predict(images, verbose=0), atol=1e-5)


def test_wrong_input_is_told_in_one_line(stranger, tmp_path):
    root, _ = stranger
    model = str(root / "mobile.keras")
    several = str(tmp_path / "several.keras")
    sf.SharpenFocus(tiny_classifier(), multi_label=True).save(several)
    (tmp_path / "broken.png").write_text("no image")
    for arguments, message in [
        (["explain", str(root / "no.keras"), str(tmp_path / "broken.png")], "does not exist"),
        (["explain", model, str(tmp_path / "*.jpg")], "no image there"),
        (["explain", model, str(tmp_path / "broken.png")], "cannot be decoded"),
        (
            ["explain", model, str(tmp_path / "broken.png"), "--cam=gradcam"],
            "'gradcam' is not known. Did you mean 'grad_cam'",
        ),
        (
            ["explain", model, str(root / "data"), "--cam=vis:saliency", "--of=relative"],
            "expected --cam to be one of grad",
        ),
        (
            ["evaluate", several, "--dataset=folder", "--data_dir=none", "--of=relative"],
            "got MODEL=.*, a multi-label one",
        ),
        (["evaluate", model], "--dataset is not set"),
        (["evaluate", model, "--dataset=folder", f"--data_dir={tmp_path}", "--preprocessing=tt"], "'tf'"),
        (["compare", model, model, "--names=one", "--dataset=folder"], "--names='one': expected two different names"),
        (["compare", model, model, "--dataset=folder"], "both models are"),
        (["evaluate", model, "--dataset=scenes"], "trained on|16 classes"),
        (["evaluate", model, "--dataset=folder", f"--output={tmp_path}"], "is a folder"),
        (["evaluate", model, "--dataset=folder", "--image_size=9"], "takes images of 64x64"),
        (["explain", model, str(root / "data"), "--class=1", "--rival=1"], "is the class to explain"),
        (["export", model, "--output=served"], "such as served/1"),
        (["explain", model, str(root / "data"), "--class=1", "--rival=1 "], "--rival='1 ' is not known"),
    ]:
        with pytest.raises(SystemExit, match=message):
            main(arguments)


def test_help_teaches():
    text = sfocus("explain", "--help").stdout
    for part in ("examples:", "vis:score_cam", "--preprocessing", "workdir of train.py"):
        assert part in text
    for command in ("explain", "evaluate", "compare", "export"):
        assert command in parser().format_help()
