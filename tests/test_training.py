"""train.py from the outside: what it leaves, how it goes on, what it refuses."""

import csv
import dataclasses
import errno
import json
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import PIL.Image
import pytest

import sfocus_tf as sf
from sfocus_tf import data, training
from sfocus_tf.training import checkpoints, interruption
from sfocus_tf.training.progress import Progress
from sfocus_tf.training.results import table
from tests.command_line import train
from tests.conftest import ROOT
from tests.faulty_train import fault

FILES = {
    "config.json",
    "data.json",
    "results.json",
    "history.csv",
    "tensorboard",
    "last.keras",
    "best.keras",
    "attention.png",
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """60 training and 12 test images of 3 classes: red, green or blue, with noise."""
    root = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 4)):
        for channel, name in enumerate(("red", "green", "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = rng.integers(0, 160, (16, 16, 3), dtype=np.uint8)
                image[..., channel] += 90
                PIL.Image.fromarray(image).save(folder / f"{number}.png")
    return root


def arguments(data_dir, workdir, *more):
    return [
        "--dataset=folder", f"--data_dir={data_dir}", f"--workdir={workdir}",
        "--backbone=resnet8", "--batch_size=16", "--config.image_size=16", "--epochs=4", "--deterministic",
        "--config.optimizer.learning_rate=0.02", "--config.dropout=0.2", "--config.attention_images_every=0", *more,
    ]  # fmt: skip


def run(*args, check=True):
    done = train(*arguments(*args))
    assert not check or done.returncode == 0, done.stderr[-2000:]
    return done


def weights(workdir):
    return keras.models.load_model(workdir / "last.keras").get_weights()


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, run(small, workdir, "--config.attention_images_every=2").stdout


def test_the_workdir_holds_everything(finished):
    workdir, printed = finished
    assert {path.name for path in workdir.iterdir()} == FILES
    results = json.loads((workdir / "results.json").read_text())
    assert results["examples"] == {"train": 54, "validation": 6, "test": 12}
    assert 0 <= results["test"]["accuracy"] <= 1 and 0 <= results["test"]["overlap_last"] <= 1
    assert results["config"]["optimizer"]["learning_rate"] == 0.02
    # What the config leaves to the named objective is spelt out.
    assert results["objective"] == dataclasses.asdict(sf.objective("default"))
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    assert not cpuinfo.exists() or f": {results['machine']['processor']}\n" in cpuinfo.read_text()
    assert results["config"]["objective"]["last"]["weight"] is None
    with open(workdir / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert {"loss", "val_loss", "accuracy", "val_separation_last", "dead_rival_inner"} <= rows[0].keys()
    # The first step that is due is the first of the ramp, with a weight of 0; the next one is in the second epoch.
    assert float(rows[0]["separation_last"]) == 0 and float(rows[1]["separation_last"]) > 0
    assert float(rows[1]["val_separation_last"]) > float(rows[3]["val_separation_last"]) > 0
    assert float(rows[3]["loss"]) < float(rows[0]["loss"])
    assert f"{100 * results['test']['accuracy']:.2f} %" in printed and "epoch 4/4" in printed
    assert "3 classes; images: 54 train, 6 validation, 12 test\n" in printed
    assert "attention maps: 8x8 positions at the inner layer, 4x4 at the last\n" in printed
    assert f"% (epoch {results['best']['epochs']}, the best on the validation images)" in printed
    assert results["of"] == "relative" and "Maps are relative" in printed
    assert "Maps are of the scores themselves" in table({key: results[key] for key in results if key != "of"})
    assert PIL.Image.open(workdir / "attention.png").width > 800


def test_a_finished_run_is_shown_and_not_run_again(finished, small):
    workdir, _ = finished
    before = (workdir / "last.keras").stat().st_mtime_ns
    assert "accuracy" in run(small, workdir).stdout
    assert (workdir / "last.keras").stat().st_mtime_ns == before


def test_killed_then_stopped_in_mid_epoch_and_run_again_gives_the_same_bits(finished, small, tmp_path):
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "train.py", *arguments(small, workdir)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while not (workdir / "last.keras").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (workdir / "results.json").exists()
    (workdir / "new.keras").write_bytes(b"half a file")
    with fault("sigint", 2, 0):
        done = run(small, workdir, check=False)
    assert done.returncode == 75 and "stopped by Ctrl-C; saved after step 1 of epoch 3. Run the same" in done.stderr
    with fault("sigterm", 3, 1):
        done = run(small, workdir, check=False)
    assert "resuming after step 1 of epoch 3" in done.stdout
    assert done.returncode == 75 and "saved after step 2 of epoch 4. Run the same command again" in done.stderr
    assert checkpoints.position(workdir / "last.keras")[:2] == (3, 2)
    run(small, workdir)
    for one, other in zip(weights(finished[0]), weights(workdir), strict=True):
        np.testing.assert_array_equal(one, other)
    histories = []
    for folder in (finished[0], workdir):
        with open(folder / "history.csv") as file:
            histories.append([{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)])
    assert histories[0] == histories[1], "the epoch that was interrupted has the metrics of all its steps"


def test_a_loss_that_becomes_nan_is_told_with_step_term_and_images(small, tmp_path):
    workdir = tmp_path / "run"
    with fault("nan", 1, 0):
        done = run(small, workdir, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "classification_loss" in done.stderr and "step 2 of epoch 2" in done.stderr and "is intact" in done.stderr
    told = json.loads((workdir / "nan.json").read_text())
    assert (told["epoch"], told["step"]) == (2, 2) and "classification_loss" in told["not_finite"]
    train = data.load("folder", "train", data_dir=small, batch_size=16, image_size=16, validation_fraction=0.1)
    train = dataclasses.replace(train, augmentation="none")
    batches = list(train.epochs(1, 2).as_numpy_iterator())
    for key, (images, _) in (("images_of_the_step_before", batches[0]), ("images", batches[1])):
        named = np.stack([np.asarray(PIL.Image.open(path)) for path in told[key]])
        np.testing.assert_array_equal(named, images)


def test_another_config_in_the_same_workdir_is_refused(finished, small):
    done = run(small, finished[0], "--seed=5", "--config.objective.theta=0.7", check=False)
    assert done.returncode == 1
    assert "has a run of another config" in done.stderr and "seed: 0 there, 5 now" in done.stderr
    assert "objective.theta: 0.8 there, 0.7 now" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("lost", "content", "message"),
    [
        ("config.json", None, "config.json is missing or damaged"),
        ("config.json", "{", "config.json is missing or damaged"),
        ("config.json", "[1]", "config.json is missing or damaged"),
        ("data.json", None, "data.json is missing or damaged"),
        ("last.keras", "no zip archive", "last.keras is missing or damaged"),
    ],
)
def test_a_run_that_has_lost_a_file_is_not_resumed(lost, content, message, finished, small, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / "results.json").unlink()  # as before the end
    (workdir / lost).unlink() if content is None else (workdir / lost).write_text(content)
    done = run(small, workdir, "--config.attention_images_every=2", check=False)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


def test_a_workdir_that_cannot_be_written(small):
    done = run(small, "/proc/nowhere", check=False)
    assert done.returncode == 1 and "workdir='/proc/nowhere' cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_data_that_may_not_be_read_are_not_taken_for_the_workdir(tmp_path, monkeypatch):
    from sfocus_tf.configs import scenes

    def refused(*arguments, **settings):
        raise PermissionError(errno.EACCES, "Permission denied", "/data/train.txt")

    monkeypatch.setattr(data, "load", refused)
    with pytest.raises(PermissionError, match="Permission denied: '/data/train.txt'"):
        training.run(scenes.get_config("tiny"), tmp_path / "run")


def test_a_full_disk_leaves_the_checkpoint_before_intact(tmp_path):
    """Files may not grow beyond a limit: as on a full disk, the write fails half way."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(50_000)(inputs))
    callback = checkpoints.Checkpoint(tmp_path, None)
    callback.set_model(model)
    callback.on_epoch_end(0, {"loss": 1.0})
    before = (tmp_path / "last.keras").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="checkpoint of epoch 2 could not be written.*written before, is intact"):
            callback.on_epoch_end(1, {"loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "last.keras").read_bytes() == before


def test_best_is_kept_and_a_model_gone_to_nan_is_never_written(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    callback = checkpoints.Checkpoint(tmp_path, "val_accuracy", best=0.5)
    callback.set_model(model)

    def epoch(number, loss, accuracy):
        model.set_weights([np.full((2, 1), number, np.float32), np.zeros(1, np.float32)])
        callback.on_epoch_end(4 if number > 4 else number, {"loss": loss, "val_accuracy": accuracy})

    def first_weight(name):
        return keras.models.load_model(tmp_path / name).get_weights()[0][0, 0]

    epoch(1, 1.0, 0.4)
    assert not (tmp_path / "best.keras").exists()
    epoch(2, 1.0, 0.7)
    epoch(3, 1.0, 0.6)
    with pytest.raises(FloatingPointError, match="loss became NaN or infinite in epoch 5.*written before, is intact"):
        epoch(4, float("nan"), 0.9)
    with pytest.raises(FloatingPointError, match="kernel became NaN"):
        epoch(float("inf"), 1.0, 0.9)
    assert first_weight("best.keras") == 2 and first_weight("last.keras") == 3


def test_history_is_cut_to_the_epochs_that_are_saved(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("epoch,loss\n0,1.5\n1,1.25\n2,1.0\n3,0.")
    assert checkpoints.read_history(path, 2) == [{"epoch": 0, "loss": 1.5}, {"epoch": 1, "loss": 1.25}]
    checkpoints.cut_history(path, 2)
    assert path.read_text() == "epoch,loss\n0,1.5\n1,1.25\n"
    assert checkpoints.read_history(tmp_path / "none.csv", 2) == []


def test_the_second_ctrl_c_does_not_wait():
    stop, before = interruption.Stop(), signal.getsignal(signal.SIGINT)
    asked = []

    def ask_twice():
        with stop.caught(), stop.after_saving():
            signal.raise_signal(signal.SIGINT)
            asked.append(stop.requested)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        ask_twice()
    assert asked == ["Ctrl-C"]
    with pytest.raises(interruption.StoppedError, match="stopped by Ctrl-C"), interruption.Stop().caught():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_real_images_of_cifar10(real, tmp_path):
    """300 training and 100 test images of the real CIFAR-10, as a user would start it."""
    for split, count in (("train", 30), ("test", 10)):
        for folder in (real("cifar10") / "cifar10" / split).iterdir():
            (tmp_path / "data" / split / folder.name).mkdir(parents=True)
            for path in sorted(folder.iterdir())[:count]:
                (tmp_path / "data" / split / folder.name / path.name).symlink_to(path)
    done = train(
        "--dataset=folder", f"--data_dir={tmp_path / 'data'}",
        f"--workdir={tmp_path / 'run'}", "--backbone=resnet8", "--epochs=8", "--batch_size=16",
        "--config.optimizer.learning_rate=0.02", "--config.augmentation=none",
        "--config.attention_images_every=0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["examples"] == {"train": 270, "validation": 30, "test": 100}
    with open(tmp_path / "run" / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["accuracy"]) > 0.25, "eight epochs of 270 images fit them better than chance"


def test_an_epoch_is_told_in_lines_of_80_columns(capsys):
    logs = {"accuracy": 0.196, "loss": 2.2765, "val_accuracy": 0.2232, "val_loss": 12.1453, "dead_rival_last": 0.1}
    logs |= {"separation_last": 0.2876, "consistency": 0.1367, "separation_inner": 0.0, "val_separation_last": 0.3}
    progress = Progress(100)
    progress.on_epoch_begin(98)
    progress.on_epoch_end(98, logs)
    first, second = capsys.readouterr().out.splitlines()
    assert first.split("  ")[0] == "epoch 99/100" and first.endswith(
        "accuracy 0.1960 (val 0.2232)  loss 2.2765 (val 12.1453)"
    )
    assert second.split() == ["separation_last", "0.2876", "consistency", "0.1367"]
    assert len(first) <= 80
