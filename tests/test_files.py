"""What survives a file: a saved model trains on, and its classifier stands alone."""

import subprocess
import sys

import keras
import numpy as np

import sfocus_tf as sf
from sfocus_tf import backbones
from tests.conftest import LABELS, PAPER, ROOT, compiled, pictures, tiny_classifier

FRESH = """
import sys, keras, numpy as np, sfocus_tf
from tests.conftest import LABELS, pictures
keras.utils.set_random_seed(7)
model = keras.models.load_model(sys.argv[1])
model.fit(pictures(6), LABELS, batch_size=3, epochs=2, shuffle=False, verbose=0)
np.savez(sys.argv[2], *model.get_weights(), step=int(model.optimizer.iterations))
"""


def test_a_saved_model_trains_on_in_a_fresh_process(tmp_path):
    images = pictures(6)
    term = sf.Term(0.7, warmup_steps=3, ramp_steps=4)
    classifier = backbones.create("resnet8", 3, 8, dropout=0.5)
    model = sf.SharpenFocus(classifier, attention="layer_cam", separation_last=term, theta=0.6)
    compiled(model, metrics=["accuracy"])
    model.fit(images, LABELS, batch_size=3, epochs=2, shuffle=False, verbose=0)
    model.set_term_weight("consistency", 0.25)
    path = tmp_path / "model.keras"
    model.save(path)

    loaded = keras.models.load_model(path, safe_mode=True)
    assert {**loaded.get_config(), "classifier": None} == {**model.get_config(), "classifier": None}
    for one, other in zip(model.explain(images), loaded.explain(images), strict=True):
        np.testing.assert_array_equal(one, other)

    result = tmp_path / "weights.npz"
    subprocess.run([sys.executable, "-c", FRESH, str(path), str(result)], check=True, cwd=ROOT)
    model.fit(images, LABELS, batch_size=3, epochs=2, shuffle=False, verbose=0)
    fresh = np.load(result)
    assert int(fresh["step"]) == int(model.optimizer.iterations) == 8
    for number, weight in enumerate(model.get_weights()):
        np.testing.assert_allclose(fresh[f"arr_{number}"], weight, rtol=1e-5, atol=1e-6)


def test_the_bare_classifier_is_trained_and_saved_with_it(tmp_path):
    model = compiled(sf.SharpenFocus(tiny_classifier(), **PAPER))
    images = pictures(6)
    model.fit(images, LABELS, verbose=0)
    model.classifier.save(tmp_path / "plain.keras")
    plain = keras.models.load_model(tmp_path / "plain.keras")
    np.testing.assert_allclose(plain.predict(images, verbose=0), model.predict(images, verbose=0), rtol=1e-6)
