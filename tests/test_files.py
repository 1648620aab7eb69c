"""What survives a file: a saved model trains on, and its classifier stands alone."""

import contextlib
import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import sfocus_tf as sf
from tests.conftest import LABELS, PAPER, ROOT, compiled, random_images, tiny_classifier

FRESH = """
import sys, keras, numpy as np, sfocus_tf
from tests.conftest import LABELS, random_images
for path in sys.argv[1:]:
    keras.utils.set_random_seed(7)
    model = keras.models.load_model(path)
    model.fit(random_images(6), LABELS, batch_size=3, initial_epoch=2, epochs=4, shuffle=False, verbose=0)
    np.savez(path.replace(".keras", ".npz"), *model.get_weights(), step=int(model.optimizer.iterations))
"""


def with_random_state():
    """A small classifier with normalisation and dropout."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, padding="same")(inputs))
    x = keras.layers.Conv2D(6, 3, 2, padding="same")(keras.layers.ReLU()(x))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(keras.layers.BatchNormalization()(x)))
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dropout(0.5)(x)))


def test_saved_models_train_on_in_a_fresh_process(tmp_path):
    """With and without a number of steps."""
    models = {
        tmp_path / f"{steps}.keras": saved_in_mid_schedule(steps, tmp_path / f"{steps}.keras") for steps in (None, 8)
    }
    subprocess.run([sys.executable, "-c", FRESH, *map(str, models)], check=True, cwd=ROOT)
    for path, model in models.items():
        model.fit(random_images(6), LABELS, batch_size=3, initial_epoch=2, epochs=4, shuffle=False, verbose=0)
        fresh = np.load(path.with_suffix(".npz"))
        assert int(fresh["step"]) == int(model.optimizer.iterations) == 8
        for number, weight in enumerate(model.get_weights()):
            np.testing.assert_allclose(fresh[f"arr_{number}"], weight, rtol=1e-5, atol=1e-6)


def saved_in_mid_schedule(steps, path):
    """A model saved in the middle of the terms' warm-up and ramp, 3 and 4 of its 8 steps, and loaded again."""
    images = random_images(6)
    term = sf.Term(0.7, warmup=0.375, ramp=0.5)
    classifier = with_random_state()
    model = sf.SharpenFocus(classifier, sf.objective("light", last=term, of="relative", theta=0.6, steps=steps))
    compiled(model, metrics=["accuracy"])
    stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", epoch == 1))
    model.fit(images, LABELS, batch_size=3, epochs=4, shuffle=False, verbose=0, callbacks=[stop])
    model.set_term_weight("consistency", 0.25)
    model.save(path)
    loaded = keras.models.load_model(path, safe_mode=True)
    assert {**loaded.get_config(), "classifier": None} == {**model.get_config(), "classifier": None}
    keras.tree.map_structure(np.testing.assert_array_equal, model.explain(images), loaded.explain(images))
    return model


def test_the_bare_classifier_is_trained_and_saved_with_it(tmp_path):
    model = compiled(sf.SharpenFocus(tiny_classifier(), PAPER))
    images = random_images(6)
    model.fit(images, LABELS, verbose=0)
    model.classifier.save(tmp_path / "plain.keras")
    plain = keras.models.load_model(tmp_path / "plain.keras")
    np.testing.assert_allclose(plain.predict(images, verbose=0), model.predict(images, verbose=0), rtol=1e-6)


def as_of_version_0_1(path, **settings):
    """Rewrites a model's file to have its settings as version 0.1 had them; without any for `None`."""
    off = {"weight": 0.0, "warmup_steps": 0, "ramp_steps": 0, "every_steps": 1}
    former = {
        "separation_inner": off, "separation_last": off | {"weight": 0.3}, "consistency": off, "separation": "rival",
        "sigma": 0.55, "omega": 100.0, "theta": 0.8, "minimum_mass": 0.05, "attention": "grad_cam",
        "second_order": True, **settings,
    }  # fmt: skip
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    whole = json.loads(members["config.json"])
    del whole["config"]["objective"]
    whole["config"] |= {key: value for key, value in former.items() if value is not None}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {"config.json": json.dumps(whole)}).items():
            archive.writestr(name, content)


@pytest.mark.parametrize(("named", "separation"), [("rival", "rival"), ("overlap", "overlap"), (None, "overlap")])
def test_a_file_of_version_0_1_is_the_same_model(named, separation, tmp_path):
    """Times were steps of the optimizer, whatever the calls of `fit`; the first files did not name the separation."""
    terms = {"separation_inner": (0.5, 0, 0, 1), "separation_last": (0.7, 5, 13, 3), "consistency": (0.2, 2, 7, 1)}
    former = {
        key: dict(zip(("weight", "warmup_steps", "ramp_steps", "every_steps"), values, strict=True))
        for key, values in terms.items()
    }
    weights = (sf.Term(weight) for weight, *_ in terms.values())
    weights = dict(zip(("inner", "last", "consistency"), weights, strict=True))
    changes = {"sigma": 0.5, "omega": 40.0, "theta": 0.6, "minimum_mass": 0.01}
    objective = sf.objective("paper", separation=separation, **weights, **changes)
    model = compiled(sf.SharpenFocus(tiny_classifier(), objective), rate=0.0)
    model.save(tmp_path / "model.keras")
    as_of_version_0_1(tmp_path / "model.keras", **former, **changes, separation=named)
    changed = pytest.warns(UserWarning, match="has changed since version 0.1.*only the rival's channel weights")
    with changed if separation == "rival" else contextlib.nullcontext():
        loaded = keras.models.load_model(tmp_path / "model.keras")
    images = random_images(6)
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))
    keras.tree.map_structure(np.testing.assert_array_equal, loaded.explain(images), model.explain(images))

    losses = model.evaluate(images, LABELS, return_dict=True, verbose=0)
    assert min(losses[key] for key in terms) > 0.01
    added = []
    for _ in range(20):  # of the same weights, as the learning rate is 0
        logs = loaded.fit(images, LABELS, batch_size=6, verbose=0).history
        added.append(logs["loss"][0] - logs["classification_loss"][0])
    last = [3 * 0.7 * min((step - 5) / 13, 1) if step >= 5 and (step - 5) % 3 == 0 else 0 for step in range(20)]
    consistency = [0.2 * min(max(step - 2, 0) / 7, 1) for step in range(20)]
    expected = 0.5 * losses["separation_inner"] + np.multiply(losses["separation_last"], last)
    np.testing.assert_allclose(added, expected + np.multiply(losses["consistency"], consistency), atol=1e-5)


@pytest.mark.parametrize("name", ["rival", "overlap"])
def test_weights_of_version_0_1_for_several_labels_are_as_they_were(name):
    """They were not divided by the number of classes."""
    config = sf.SharpenFocus(tiny_classifier(), multi_label=True).get_config()
    del config["objective"]
    term = {"weight": 0.7, "warmup_steps": 3, "ramp_steps": 0, "every_steps": 1}
    config |= dict.fromkeys(("separation_inner", "separation_last", "consistency"), term) | {"separation": name}
    model = sf.SharpenFocus.from_config(config)
    weights = {weight.name: float(weight) for weight in model.weights if weight.name.endswith("_weight")}
    assert weights.keys() == {f"{key}_weight" for key in model.objective.terms}
    assert list(weights.values()) == pytest.approx([0.7] * 3)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"separation": "margin"}, "separation='margin' was removed"),
        ({"separation": "outside"}, "separation='outside' was removed"),
        ({"separation": "difference"}, "separation='difference' was removed"),
        ({"attention": "layer_cam"}, "maps by 'layer_cam'; training uses Grad-CAM alone"),
    ],
)
def test_a_file_of_version_0_1_that_can_no_longer_be_trained_is_good_for_all_else(setting, reason, tmp_path):
    eager = "separation" in setting  # so are the loaded models
    model = compiled(sf.SharpenFocus(tiny_classifier(), sf.Objective()), metrics=["accuracy"], run_eagerly=eager)
    model.save(tmp_path / "model.keras")
    as_of_version_0_1(tmp_path / "model.keras", **setting)
    images = random_images(6)
    explanation = model.explain(images, cam=setting.get("attention"))
    logs = model.evaluate(images, LABELS, return_dict=True, verbose=0)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.save(tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras")
    assert {**again.get_config(), "classifier": None} == {**loaded.get_config(), "classifier": None}
    for found in (loaded, again):
        np.testing.assert_array_equal(found.predict(images, verbose=0), model.predict(images, verbose=0))
        keras.tree.map_structure(np.testing.assert_array_equal, found.explain(images), explanation)
        measured = found.evaluate(images, LABELS, return_dict=True, verbose=0)
        for key in ("accuracy", "classification_loss"):
            assert measured[key] == pytest.approx(logs[key])
        with pytest.raises(ValueError, match=f"can be used, but not trained: .*{reason}"):
            found.fit(images, LABELS, verbose=0)
        # As the message says:
        compiled(sf.SharpenFocus(found.classifier), run_eagerly=eager).fit(images, LABELS, verbose=0)
