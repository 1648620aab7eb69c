"""What `fit` and `evaluate` show of the many logs in a terminal."""

import re

import keras
import pytest

import sfocus_tf as sf
from sfocus_tf.training_step import LOGGED
from tests.conftest import LABELS, compiled, crossentropy, random_images, tiny_classifier

IMAGES = random_images(6)
TERMS = {"separation_inner", "separation_last", "consistency"}


@pytest.fixture
def model():
    return compiled(sf.SharpenFocus(tiny_classifier()), metrics=["accuracy"], run_eagerly=True)


def shown(capsys):
    """The lines that were printed, those that were overwritten too, and the names of the logs in each."""
    lines = [re.sub(r"\x1b\[\d*m|\x08", "", line) for line in re.split(r"[\r\n]", capsys.readouterr().out)]
    return [(line, set(re.findall(r"- (\w+):", line))) for line in lines if "loss" in line]


def test_a_line_of_fit_is_refreshed_in_place(model, capsys):
    """While an epoch lasts, it shows what plain Keras shows; a longer line would be printed anew with each batch."""
    history = model.fit(IMAGES, LABELS, batch_size=2, epochs=2, validation_data=(IMAGES, LABELS)).history
    lines = shown(capsys)
    within = [(line, names) for line, names in lines if "val_loss" not in names]
    assert len(within) >= 2 and all(names == {"accuracy", "loss"} and len(line) < 80 for line, names in within)
    after = [names for _, names in lines if "val_loss" in names]
    assert after == 2 * [{"accuracy", "loss", "val_accuracy", "val_loss"} | TERMS]
    assert {f"{prefix}{name}" for name in LOGGED for prefix in ("", "val_")} < history.keys()


def test_evaluate_shows_the_terms_of_all_batches(model, capsys):
    logs = model.evaluate(IMAGES, LABELS, batch_size=2, return_dict=True)
    *within, (_, after) = shown(capsys)
    assert all(names == {"accuracy", "loss"} for _, names in within) and after == {"accuracy", "loss"} | TERMS
    assert {*LOGGED} < logs.keys()


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_who_asks_for_other_output_gets_it(model, method, capsys):
    run = getattr(model, method)
    run(IMAGES, LABELS, verbose=0)
    assert not capsys.readouterr().out
    everything = {"accuracy", "loss", *LOGGED}
    for options in ({"verbose": 2}, {"verbose": 1, "callbacks": keras.callbacks.ProgbarLogger()}):
        run(IMAGES, LABELS, **options)
        assert [names for _, names in shown(capsys)][-1] == everything
    end = {f"on_{kind}_end": lambda logs: print("over") for kind in ("train", "test")}
    run(IMAGES, LABELS, callbacks=[keras.callbacks.LambdaCallback(**end)])
    printed = capsys.readouterr().out
    assert printed.count("over") == 1 and "classification_loss" not in printed and "accuracy" in printed


def test_lists_of_results_are_those_of_plain_keras(model):
    """As scripts unpack them; by name there is more."""
    loss, accuracy = model.evaluate(IMAGES, LABELS, verbose=0)
    logs = model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    assert (loss, accuracy) == (logs["loss"], logs["accuracy"]) and {*LOGGED} < logs.keys()
    assert len(model.test_on_batch(IMAGES, LABELS)) == len(model.train_on_batch(IMAGES, LABELS)) == 2
    without_metrics = sf.SharpenFocus(tiny_classifier())
    without_metrics.compile("sgd", crossentropy(), run_eagerly=True)
    assert isinstance(without_metrics.evaluate(IMAGES, LABELS, verbose=0), float)
