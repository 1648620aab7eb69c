"""Keras on another backend than TensorFlow is told at the first import, whatever is installed."""

import os
import subprocess
import sys

import pytest

from sfocus_tf import keras_backend
from tests.conftest import ROOT


def imported(code="import sfocus_tf", **environment):
    kept = {key: value for key, value in os.environ.items() if key not in ("KERAS_BACKEND", "KERAS_HOME")}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("backend", ["jax", "torch", "numpy", "tensorfow"])
def test_another_backend_in_the_environment(backend):
    """Before anything else fails: of these backends, none is installed here."""
    last = imported(KERAS_BACKEND=backend).stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: sfocus_tf needs Keras on TensorFlow, but KERAS_BACKEND={backend} selects")
    assert "Set KERAS_BACKEND=tensorflow" in last


def test_another_backend_in_kerass_own_file(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    last = imported(KERAS_HOME=str(tmp_path)).stderr.strip().splitlines()[-1]
    assert f"{tmp_path / 'keras.json'} selects the backend 'jax'" in last
    require = "from sfocus_tf.keras_backend import require_tensorflow as check; check()"
    assert imported(require, KERAS_HOME=str(tmp_path), KERAS_BACKEND="tensorflow").returncode == 0


def test_the_backend_that_runs_decides(monkeypatch, tmp_path):
    """Once Keras is imported, neither the environment nor a file changes its backend."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras_backend.require_tensorflow()
    monkeypatch.setattr("keras.config.backend", lambda: "torch")
    with pytest.raises(ImportError, match="Keras, which was imported before, selects the backend 'torch'"):
        keras_backend.require_tensorflow()


def test_no_setting_and_files_that_say_nothing(monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "keras")
    for content in (None, "no json", "[]", "{}", '{"backend": "tensorflow"}'):
        if content is not None:
            (tmp_path / "keras.json").write_text(content)
        keras_backend.require_tensorflow()
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    with pytest.raises(ImportError, match="'torch'"):
        keras_backend.require_tensorflow()
