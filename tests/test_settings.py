"""The settings of train.py: flags, configs and what they are resolved to, and what is refused before any work."""

import argparse
import pathlib

import keras
import numpy as np
import pytest
from sfocus_tf.configs import common

import sfocus_tf as sf
from sfocus_tf import commands, losses, saved_models
from sfocus_tf.training import build, command
from sfocus_tf.training import config as config_module
from sfocus_tf.training.workdir import WorkdirError, prepare
from tests.command_line import train
from tests.conftest import ROOT, tiny_classifier


def test_an_objective_that_changed_since_is_another_config(tmp_path, monkeypatch):
    config = common.get_config()
    prepare(tmp_path, config_module.resolve(config).identity(), {})
    (tmp_path / "last.keras").touch()
    prepare(tmp_path, config_module.resolve(config).identity(), {})
    monkeypatch.setitem(losses.OBJECTIVES, "default", sf.objective(last=3.0))
    with pytest.raises(WorkdirError, match="objective.last.weight: 2.0 there, 3.0 now"):
        prepare(tmp_path, config_module.resolve(config).identity(), {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    return {}", "expected get_config() to return a ConfigDict, got dict"),
        ("import ml_collections\n\nget_config = ml_collections.ConfigDict", "get_config() lacks "),
        ("def get_config(one, two):\n    return {}", "get_config() does not take variant=['tiny']"),
    ],
)
def test_a_config_of_ones_own_that_is_none(text, message, tmp_path):
    (tmp_path / "own.py").write_text(text)
    done = train(
        f"--config={tmp_path / 'own.py'}{':tiny' if 'variant' in message else ''}", f"--workdir={tmp_path / 'run'}"
    )
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


def test_a_run_that_did_not_check_its_images_is_evaluated_so(tmp_path):
    config = common.get_config()
    config.check_images = False
    resolved = config_module.resolve(config)
    prepare(tmp_path, resolved.identity(), {"check_images": resolved.check_images})
    (tmp_path / "last.keras").touch()
    saved = saved_models.find(tmp_path)
    prepare(tmp_path, resolved.identity(), {"check_images": True})  # changes no result
    flags = {"dataset": None, "split": "test", "data_dir": None, "examples": None}
    for skip in (False, True):  # skipping needs the check
        arguments = argparse.Namespace(**flags, skip_corrupt=skip)
        assert commands._data_settings(arguments, saved)["check_images"] is skip


@pytest.mark.parametrize("name", config_module.OPTIMIZERS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_weight_decay_shrinks_kernels_or_is_off(name, weight_decay):
    """Without gradients: a decoupled decay of rate * weight_decay a step, or nothing."""
    config = common.get_config()
    config.optimizer.name, config.optimizer.weight_decay, config.optimizer.schedule = name, weight_decay, "constant"
    config.optimizer.learning_rate = 0.5
    variables = [keras.Variable(np.ones(2, np.float32), name=name) for name in ("kernel", "bias", "gamma", "beta")]
    optimizer = build.optimizer(config_module.resolve(config), 10)
    optimizer.build(variables)
    optimizer.apply_gradients([(np.zeros(2, np.float32), variable) for variable in variables])
    np.testing.assert_allclose(variables[0].numpy(), 1 - 0.5 * weight_decay, rtol=1e-6)
    for variable in variables[1:]:
        np.testing.assert_array_equal(variable.numpy(), 1.0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=voc2021"], "dataset='voc2021' is not known. Did you mean 'voc2012'"),
        (["--dataset=folder"], "data_dir is not set. Expected a folder with class folders"),
        (["--dataset=folder", "--data_dir=/nowhere"], "data_dir='/nowhere' does not exist"),
        (["--method=icas"], "method='icas' is not known. Did you mean 'icasc'"),
        (["--backbone=resnet21"], "backbone='resnet21' is not known. Did you mean 'resnet"),
        (["--epochs=0"], "epochs=0: expected a positive number"),
        (["--config.optimizer.name=sdg"], "config.optimizer.name='sdg' is not known. Did you mean 'sgd'"),
        (["--objective=papr"], "config.objective: objective='papr' is not known. Did you mean 'paper'"),
        (["--config.objective.theta=1.5"], "config.objective: theta=1.5: expected a number from 0 to 1"),
        (["--config.objective.last.warmup=2.0"], "config.objective: objective: last: warmup=2.0: expected a share"),
        # Before any data are looked for.
        (
            ["--dataset=voc2012", "--config.objective.separation=rivla"],
            "separation='rivla' is not known. Did you mean 'rival'",
        ),
        (["--dataset=voc2012", "--config.objective.of=relativ"], "of='relativ' is not known. Did you mean 'relative'"),
        (
            ["--dataset=voc2012", "--config.optimizer.rate_for_batch=-32"],
            "config.optimizer.rate_for_batch=-32: expected a",
        ),
        (["--epochs=2", "--config.optimizer.warmup_epochs=3"], "config.optimizer.warmup_epochs=3.0: expected 0 up to"),
        (
            ["--dataset=voc2012", "--config.optimizer.schedule=step"],
            "config.optimizer.warmup_epochs=1.0: expected 0 with config.optimizer.schedule='step'",
        ),
        (["--config.optimizer.learning_rat=1"], "learning_rate"),
        (["--config.lr=1"], "no such setting (configs/common.py has them all): 'lr'"),
        (["--bach_size=3"], "batch_size"),
        (["--dataset=scenes:tiny", "--config.last_layer=stage9_out"], "last_layer='stage9_out' is not known"),
        (
            ["--data_dir=photos", "--method=icasc"],
            "data_dir='photos': dataset='scenes' is generated and reads no folder",
        ),
        (["--epochs=1", "--config.epochs=2"], "--epochs=1 contradicts --config.epochs=2"),
        (["--config.objective.name=paper", "--objective=light"], "--objective=light contradicts"),
        (["--seed=-1"], "config.seed=-1: expected a number from 0"),
        (["--devices=CPU:x", "--method=icasc"], "devices='CPU:X': expected a kind and a number"),
        (["--config=configs"], "config='configs' is a folder"),
    ],
)
def test_bad_flags_fail_at_once_with_the_nearest_name(flags, message, tmp_path):
    done = train(f"--workdir={tmp_path / 'run'}", *flags)
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr


def test_the_test_size_follows_the_image_size():
    def sizes(*flags):
        config, _ = command.parsed(["train.py", "--dataset=cub200", *flags])
        return config.image_size, config.test_image_size

    assert sizes() == (128, 160)
    assert sizes("--image_size=96") == sizes("--config.image_size=96") == (96, 120)
    assert sizes("--image_size=96", "--config.test_image_size=100") == (96, 100)
    assert sizes("--config.test_image_size=100") == (128, 100)
    for flag, meant in (("dropout", "--config.dropout"), ("weight_decay", "--config.optimizer.weight_decay")):
        with pytest.raises(ValueError, match=f"Did you mean {meant}"):
            command.parsed(["train.py", f"--{flag}=0.1"])


def test_objectives():
    paper = sf.objective("paper")
    assert (paper.separation, paper.inner, paper.last, paper.consistency) == ("overlap", *[sf.Term(1.0)] * 3)
    assert paper.minimum_mass == 0
    default = sf.objective("default")
    assert default == sf.Objective() and (default.separation, default.of) == ("rival", "auto")
    assert [term.weight for term in default.terms.values()] == [0.03, 2.0, 0.3]
    assert {(term.warmup, term.ramp, term.every_steps) for term in default.terms.values()} == {(0.1, 0.1, 4)}
    light = sf.objective("light")
    assert [term.weight for term in light.terms.values()] == [0.0, 2.0, 0.0] and light.last.every_steps == 1
    config = common.get_config()
    config.objective.last.warmup = 0.5
    changed = config_module.resolve(config).objective
    assert changed.last == sf.Term(2.0, warmup=0.5, ramp=0.1, every_steps=4) and changed.theta == 0.8
    for name, weight in (("default", 0.1), ("paper", 0.05)):
        model = sf.SharpenFocus(tiny_classifier(20), name, multi_label=True)
        (applied,) = (each for each in model.weights if each.name == "separation_last_weight")
        assert float(applied) == pytest.approx(weight)
    with pytest.raises(ValueError, match="'thta' is not known. Did you mean 'theta'"):
        sf.objective("paper", thta=1)
    with pytest.raises(ValueError, match="warmup=2"):
        sf.objective("paper", last={"warmup": 2.0})


def test_every_config_is_complete_and_locked():
    keys = set(common.get_config().keys())
    for path in sorted(pathlib.Path(ROOT / "configs").glob("*.py")):
        if path.stem == "__init__":
            continue
        module = __import__(f"sfocus_tf.configs.{path.stem}", fromlist=["get_config"])
        config = module.get_config()
        assert set(config.keys()) == keys, path
        assert config.is_locked, path
