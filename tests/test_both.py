"""train.py --method=both: two runs of one recipe, and what differs between them."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from sfocus_tf.configs import common

from sfocus_tf import training
from sfocus_tf.training import both as both_methods
from tests.command_line import train


def run(workdir):
    """What the command prints."""
    size = ("--config.image_size=16", "--config.examples=48", "--config.attention_images_every=0")
    done = train("--dataset=scenes:tiny", *size, "--method=both", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("both") / "run"
    return workdir, run(workdir)


def test_cross_entropy_has_no_attention_terms(both):
    folder = both[0] / "cross_entropy"
    with open(folder / "history.csv") as file:
        (row,) = csv.DictReader(file)
    assert float(row["separation_last"]) == 0 < float(row["val_separation_last"])
    assert float(row["loss"]) == float(row["classification_loss"])
    assert json.loads((folder / "results.json").read_text())["objective"] is None


def test_both_methods_are_compared(both):
    """The table has the accuracies of the two runs, which started from the same weights and differ in method alone."""
    workdir, printed = both
    assert {path.name for path in workdir.iterdir()} == {"cross_entropy", "icasc", "comparison.html", "comparison.png"}
    results = [json.loads((workdir / method / "results.json").read_text()) for method in ("cross_entropy", "icasc")]
    assert [each["method"] for each in results] == ["cross_entropy", "icasc"]
    assert results[0]["config"] | {"method": "icasc"} == results[1]["config"]
    shares = [f"{100 * each['test']['accuracy']:.1f} %" for each in results]
    (line,) = (line for line in printed.splitlines() if line.startswith("accuracy  ") and "(" in line)
    assert line.split()[1:5] == " ".join(shares).split()
    assert "python -m sfocus_tf explain" in printed
    assert "cross-entropy and ICASC" in (workdir / "comparison.html").read_text()
    assert PIL.Image.open(workdir / "comparison.png").width > 800
    again = run(workdir)
    assert line in again and "epoch 1/1" not in again, "finished runs are not repeated"


def test_images_of_the_comparison_where_no_answer_is_right():
    wrong = SimpleNamespace(correct=lambda: np.zeros(9, bool), valid=np.ones(9, bool), labels=np.zeros(9, int))
    comparison = SimpleNamespace(mended=np.array([], int), broken=np.array([], int))
    assert both_methods._examples(comparison, wrong, wrong) == [0, 2, 5, 8]


def test_several_workers_train_one_method_at_a_time(monkeypatch, tmp_path):
    cluster = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(ValueError, match="method='both': expected one process, got several workers"):
        both_methods.run_both(common.get_config(), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_both_methods_are_no_single_run():
    config = common.get_config()
    config.method = "both"
    with pytest.raises(ValueError, match="method='both': expected icasc or cross_entropy for one run"):
        training.resolve(config)
