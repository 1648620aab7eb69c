"""The paper's five benchmarks, end to end: the commands of docs/benchmarks.md, small and on made-up data."""

import dataclasses
import functools
import json
import operator
import re

import numpy as np
import pytest
from sfocus_tf.configs import common

import sfocus_tf as sf
from benchmarks import choices, effects, experiments, looks, multiplications, stored_runs, table
from sfocus_tf import backbones
from sfocus_tf.training import resolve
from sfocus_tf.training.command import parsed
from tests import archives
from tests.command_line import sfocus, train
from tests.conftest import ROOT, tiny_classifier
from tests.mocked_tfds import mocked

PAGE = (ROOT / "docs" / "benchmarks.md").read_text()
COMMANDS = re.findall(r"^ *python (train\.py .*)$", PAGE, flags=re.M)
NO_FIGURES = "--config.attention_images_every=0"
FIVE = ("cifar100", "caltech256", "ilsvrc2012", "cub200", "voc2012")


def checked(workdir, test_images):
    """What a run left: one epoch of training, and a measured test split."""
    found = json.loads((workdir / "results.json").read_text())
    assert found["epochs"] == 1 and found["examples"]["test"] == test_images and found["examples"]["train"] > 0
    value = found["test"]["mAP" if found["dataset"] == "voc2012" else "accuracy"]
    assert 0 <= value <= 1 and np.isfinite(found["test_loss"])
    return found


def test_the_page_has_a_command_for_each():
    named = {re.search(r"--dataset=(\w+)", command).group(1) for command in COMMANDS}
    assert named == set(FIVE)
    for name in re.findall(r"--backbone=(\w+)", PAGE):
        backbones.check(name, None)
    for name, variant in re.findall(r"--dataset=(\w+):?(\w*)", PAGE):
        __import__(f"sfocus_tf.configs.{name}", fromlist=["get_config"]).get_config(variant)


@pytest.mark.parametrize(
    "command",
    # One of each data set, and the one that starts from a file; the others only name another network.
    [*COMMANDS[: len(FIVE)], *(command for command in COMMANDS if "weights=" in command)],
    ids=lambda command: command.split()[1],
)
def test_commands_of_the_page(command, tmp_path):
    """As they stand, but for `:tiny`, made-up data in TFDS's true structure, and one seed of the quicker method."""
    command = command.replace("$method", "cross_entropy").replace("$seed", "0")
    script, *arguments = re.sub(r"--dataset=(\w+)(:\w+)?", r"--dataset=\1:tiny", command).split()
    own = ("--data_dir", "--workdir", "--backbone")
    arguments = [argument for argument in arguments if not argument.startswith(own)]
    for position, argument in enumerate(arguments):
        if argument.startswith("--config.weights="):
            sf.SharpenFocus(backbones.create("resnet8", 3, 32)).save(tmp_path / "start.keras")
            arguments[position] = f"--config.weights={tmp_path / 'start.keras'}"
    assert script == "train.py"
    (tmp_path / "data").mkdir()  # empty, as nothing is downloaded among other files
    with mocked():
        done = train(*arguments, f"--data_dir={tmp_path / 'data'}", f"--workdir={tmp_path / 'run'}", NO_FIGURES)
    assert done.returncode == 0, done.stderr
    found = checked(tmp_path / "run", 24)
    classes = {"cifar100": 100, "caltech256": 256, "ilsvrc2012": 1000, "cub200": 200, "voc2012": 20}
    names = json.loads((tmp_path / "run" / "data.json").read_text())["class_names"]
    assert len(names) == classes[found["dataset"]]


@pytest.mark.parametrize(
    ("name", "options", "test_images"),
    [
        ("caltech256", {}, 6),
        ("cub200", {"images": 8}, 16),
        ("ilsvrc2012", {"images": 8}, 16),
        ("voc2012", {"images": 12}, 12),
    ],
)
def test_small_archives_of_the_original_layout(name, options, test_images, tmp_path):
    make = {
        "caltech256": archives.caltech256, "cub200": archives.cub, "ilsvrc2012": archives.imagenet,
        "voc2012": archives.voc,
    }[name]  # fmt: skip
    root = make(tmp_path / "data", **options)
    flags = (f"--data_dir={root}", f"--workdir={tmp_path / 'run'}", NO_FIGURES, "--method=cross_entropy")
    done = train(f"--dataset={name}:tiny", *flags)
    assert done.returncode == 0, done.stderr
    checked(tmp_path / "run", test_images)
    assert f"{test_images} test images" in done.stdout
    # The table takes what a run left, and the commands that look at it see the same images as it did.
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    if name == "caltech256":  # with a central crop
        assert sfocus("evaluate", tmp_path / "run", f"--output={tmp_path / 'again.json'}").returncode == 0
        again = json.loads((tmp_path / "again.json").read_text())["summary"]
        assert again == pytest.approx(found["test"], rel=1e-4, abs=1e-4)
    (tmp_path / "other").mkdir()
    other = found | {"method": "icasc", "config": found["config"] | {"method": "icasc"}}
    other["objective"] = dataclasses.asdict(sf.objective("light"))
    (tmp_path / "other" / "results.json").write_text(json.dumps(other))
    (row,) = table.rows([tmp_path / "run", tmp_path / "other"])
    assert row["difference"] == 0 and row["seeds"] == [0]


def test_unknown_variants_are_refused():
    from sfocus_tf.configs import cub200

    with pytest.raises(ValueError, match="variant of cub200='resnet5' is not known. Did you mean 'resnet50'"):
        cub200.get_config("resnet5")
    done = train("--dataset=voc2012:tny")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "train.py: variant of voc2012='tny' is not known. Did you mean 'tiny'?" in done.stderr


def finished_run(folder, method, seed, accuracy, name="default", **changes):
    folder.mkdir()
    objective = dataclasses.asdict(sf.objective(name, **changes)) if method == "icasc" else None
    run = {
        "dataset": "cifar100", "backbone": "resnet20", "epochs": 3, "examples": {"train": 50_000}, "method": method,
        "seed": seed, "test": {"accuracy": accuracy},
        "config": {"image_size": None, "objective": {"name": name}, "method": method, "seed": seed, "batch_size": 8},
        "objective": objective,
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(run))


def test_the_table_of_several_seeds(tmp_path, capsys):
    """Differences of 1, 2 and 3 points: 2 on average, and Student's interval with two degrees of freedom."""
    for seed, (plain, ours) in enumerate(((0.70, 0.71), (0.72, 0.74), (0.71, 0.74))):
        finished_run(tmp_path / f"c{seed}", "cross_entropy", seed, plain)
        finished_run(tmp_path / f"i{seed}", "icasc", seed, ours)
    finished_run(tmp_path / "c7", "cross_entropy", 7, 0.1)  # without its counterpart
    finished_run(tmp_path / "p0", "icasc", 0, 0.75, "paper")  # a row of its own
    finished_run(tmp_path / "p1", "icasc", 1, None, "paper")
    finished_run(tmp_path / "r0", "icasc", 0, 0.72, last={"warmup": 0.5})  # and another, though its config is the same
    (tmp_path / "unfinished").mkdir()
    finished_run(tmp_path / "former", "icasc", 2, 0.9)
    run = json.loads((tmp_path / "former" / "results.json").read_text())
    run["recipe"] = run.pop("objective")
    (tmp_path / "former" / "results.json").write_text(json.dumps(run))
    table.main(sorted(tmp_path.iterdir()))
    printed = capsys.readouterr()
    row, other, changed = json.loads(printed.out.splitlines()[-1])
    assert other["objective"] == "paper" and other["seeds"] == [0] and other["low"] is None
    assert other["difference"] == pytest.approx(5) and "its accuracy is undefined" in printed.err
    assert "| default, last.warmup=0.5 | accuracy | 1 |" in printed.out and "| paper | accuracy | 1 |" in printed.out
    assert changed["seeds"] == [0] and changed["difference"] == pytest.approx(2)
    assert row["seeds"] == [0, 1, 2] and row["paper"] == 3.33
    np.testing.assert_allclose([row["cross_entropy"], row["icasc"], row["difference"]], [71, 73, 2])
    half = 4.302653 * 1 / np.sqrt(3)
    np.testing.assert_allclose([row["low"], row["high"]], [2 - half, 2 + half], rtol=1e-6)
    assert "unfinished" in printed.err and "a run of version 0.1" in printed.err
    assert "| 3 | 71.00 ± 1.00 | 73.00 ± 1.73 | +2.00 | -0.48 to +4.48 | +3.33 |" in printed.out


def test_multiplications():
    """ResNet-20 needs 41 million an image of CIFAR (He et al. give 0.27 million weights), ResNet-50 4.1 billion."""
    assert multiplications.of_forward(backbones.create("resnet20", 10, 32)) == pytest.approx(40.8e6, rel=0.01)
    assert multiplications.of_forward(backbones.create("resnet50", 1000, 224)) == pytest.approx(4.1e9, rel=0.1)


def test_floors_of_attention_supervision_worked_out_by_hand():
    """Between the inner layer and the scores lie the second convolution and the dense layer; the first comes before.

    Two classes, three passes through that part each, where a plain step has three through the whole network.
    """
    beyond = 4 * 4 * 9 * 4 * 6 + 6 * 3
    share = beyond / (beyond + 8 * 8 * 9 * 3 * 4)
    assert multiplications.after(tiny_classifier(), "fine") == beyond
    floors = multiplications.floors(tiny_classifier(), "fine")
    assert floors == {"exact": pytest.approx(1 + 2 * 3 * share / 3), "first_order": pytest.approx(1 + 2 * share / 3)}


def stored(folder, arm, seed, config, *, objective="as the arm's", **measures):
    """A finished run of benchmarks/accuracy.py, with an accuracy and other measures."""
    folder.mkdir(parents=True, exist_ok=True)
    value = measures.pop("accuracy")
    run = {"test": {"accuracy": value, "overlap_last": 0.3}, "test_loss": 0.5 - value / 10, "seconds": 10.0}
    run |= {"config": config, "measures": measures}
    run["objective"] = experiments.objective_of(arm) if objective == "as the arm's" else objective
    (folder / f"{arm}-{seed}.json").write_text(json.dumps(run))


@pytest.fixture
def recipe(monkeypatch):
    """A short recipe for cub200, and the config of a run of it."""
    monkeypatch.setitem(experiments.EXPERIMENTS, "cub200", ("--epochs=3", "--config.optimizer.weight_decay=1e-2"))
    return {"epochs": 3, "optimizer": {"weight_decay": 0.01}}


def test_summary_of_stored_runs_worked_out_by_hand(tmp_path, recipe):
    """Differences of 2 and 4 points: mean 3, standard error 1, and t of one degree of freedom 12.71. Seed 2 was
    not run by the arm, and is left out; rounding alone moved the accuracy by 3 and 4 points, 3.54 on average.
    """
    folder = tmp_path / "cub200"
    for arm, values in {"cross_entropy": (0.70, 0.72, 0.74), "light": (0.72, 0.76), "rounding": (0.73, 0.76)}.items():
        for seed, value in enumerate(values):
            overlap = {"overlap_last": 0.8 if arm == "cross_entropy" else 0.4} if seed == 0 else {}
            stored(folder, arm, seed, recipe, accuracy=value, **overlap)
    found = stored_runs.summary(stored_runs.read("cub200", tmp_path))
    assert (found["metric"], found["seeds"], found["rounding"], found["arms"].keys()) == (
        "accuracy", 3, 3.54, {"light"}
    )  # fmt: skip
    assert found["cross_entropy"]["accuracy"] == {"mean": 72.0, "deviation": 2.0, "seeds": 3}
    light = found["arms"]["light"]
    assert light["accuracy"] == {
        "from": 71.0, "to": 74.0, "difference": 3.0, "low": -9.71, "high": 15.71, "seeds": [0, 1]
    }  # fmt: skip
    assert (light["log_loss"]["difference"], light["log_loss"]["low"]) == (-0.3, -1.57)
    assert light["overlap_last"] == {
        "from": 80.0, "to": 40.0, "difference": -40.0, "low": None, "high": None, "seeds": [0]
    }  # fmt: skip
    assert light["own_overlap_last"]["from"] == 30.0 and "insertion" not in light
    text = stored_runs.markdown({"cub200": found})
    assert "| cub200 | accuracy | 3 | 72.0 ± 2.0 | 3.54 | " in text
    assert "| cub200 | light | accuracy | 2 | 71.0 | 74.0 | +3.00 | -9.71 to +15.71 |" in text
    effects.plot({"cub200": found}, tmp_path / "effects.png")
    assert (tmp_path / "effects.png").stat().st_size > 5000
    assert stored_runs.summary(stored_runs.read("scenes", tmp_path)) is None
    del found["arms"]["light"]["log_loss"]  # of no arm
    effects.plot({"cub200": found}, tmp_path / "effects.png")


@pytest.mark.parametrize(
    ("arm", "changes", "message"),
    [
        ("default", {"objective": None}, "its objective, None, is not what default stands for"),
        ("light", {"config": {"epochs": 4}}, "it was run with epochs=4, cub200 now has 3"),
        ("light", {"config": {"optimizer": {"weight_decay": 0.02}}}, "it was run with optimizer.weight_decay=0.02"),
    ],
)
def test_runs_of_another_recipe_or_objective_are_refused(arm, changes, message, tmp_path, recipe):
    config = recipe | changes.pop("config", {})
    stored(tmp_path / "cub200", arm, 1, config, accuracy=0.7, **changes)
    with pytest.raises(SystemExit, match=f"{arm}-1.json: {message}"):
        stored_runs.read("cub200", tmp_path)


def test_runs_of_unknown_arms_are_refused(tmp_path, recipe):
    stored(tmp_path / "cub200", "icasc", 0, recipe, accuracy=0.7, objective=None)
    with pytest.raises(SystemExit, match="icasc is no arm; expected one of cross_entropy, default, light, paper"):
        stored_runs.read("cub200", tmp_path)


@pytest.mark.parametrize("arm", experiments.ARMS)
def test_flags_of_an_arm_make_its_objective(arm):
    config = common.get_config()
    for flag in experiments.arm_flags(arm):
        path, value = flag.removeprefix("--").removeprefix("config.").split("=")
        *parts, last = path.split(".")
        part = functools.reduce(operator.getitem, parts, config)
        part[last] = part.get_type(last)(value)
    assert resolve(config).objective_used == experiments.objective_of(arm)


def test_stored_runs_are_those_of_the_present_experiments():
    """None is refused for its config or objective, and the archive has former ones to compare."""
    for name in experiments.EXPERIMENTS:
        stored_runs.read(name)
    former = stored_runs.summary(stored_runs.read_archive("cub200"))
    assert {"icasc", "margin", "outside"} <= former["arms"].keys()


def test_archived_runs_are_compared_within_one_recipe(tmp_path, recipe):
    """Differences of 1 and 3 points: mean 2, standard error 1, t 12.71. Their objectives may have any form."""
    folder = tmp_path / "archive" / "cub200"
    for arm, seed, value in (("cross_entropy", 0, 0.70), ("cross_entropy", 1, 0.72), ("icasc", 0, 0.71)):
        stored(folder, arm, seed, recipe, accuracy=value, objective=None)
    stored(folder, "icasc", 1, recipe | {"terms": {"margin": 1}}, accuracy=0.75, objective=None)
    found = stored_runs.summary(stored_runs.read_archive("cub200", tmp_path))["arms"]["icasc"]["accuracy"]
    assert (found["difference"], found["low"], found["high"]) == (2.0, -10.71, 14.71)
    stored(folder, "icasc", 2, recipe | {"image_size": 64}, accuracy=0.75, objective=None)
    with pytest.raises(SystemExit, match="icasc-2.json differ in their recipes"):
        stored_runs.read_archive("cub200", tmp_path)


def test_second_looks_are_chosen_on_other_folds(tmp_path):
    """Of 40 images in 4 folds, 10 are uncertain and wrong at first. Attention mends all of them, a central crop half of
    them, and any other second look spoils what was right, so that no weight is given to it.
    """
    images, fold = np.arange(40), np.arange(40) % 4
    labels, uncertain = images % 2, images % 4 == images // 4 % 4

    def look(right, confidence):
        chance = np.where(right, confidence, 1 - confidence)
        return np.where(labels[:, np.newaxis] == [0, 1], chance[:, np.newaxis], 1 - chance[:, np.newaxis])

    first = look(~uncertain, np.where(uncertain, 0.55, 0.9))
    seconds = {"relative-last-target": look(labels >= 0, 0.95), "central": look(images % 8 < 4, 0.95)}
    ways = [f"one:{size}" for size in looks.SIZES]
    for base in looks.BASES:
        ways += [f"{base}:{'-'.join(of)}:0.3" for of in looks.MAPS]
        ways += [f"{base}:{region}:1" for region in ("central", "random", "box")]
    found = [first if way.startswith("one") else seconds.get(way.split(":")[1], look(labels < 0, 0.95)) for way in ways]
    for number in range(4):
        here = (fold == number) | (fold == (number + 1) % 4)
        arrays = {"labels": labels[here], "test": (fold == number)[here], "images": images[here]}
        np.savez(tmp_path / f"{number}-0.npz", names=ways, probabilities=np.stack(found)[:, here], **arrays)
    summary = choices.summary(tmp_path, folds=4)
    row = summary["192"]
    wrong = 100 * uncertain.mean()
    assert row["one"]["accuracy"] == row["random"]["accuracy"] == row["equal"]["accuracy"] == 100 - wrong
    assert row["relative-last-target"]["accuracy"] == 100 and row["score-last-target"]["accuracy"] == 100 - wrong
    mended = 100 * (uncertain & (images % 8 < 4)).mean()
    assert row["central"]["accuracy"] == pytest.approx(100 - wrong + mended)
    mean, low, high = row["relative-last-target"]["equal"]
    assert mean == pytest.approx(wrong) and 0 < low < mean < high
    assert "| relative-last-target | 100.0 | +25.00 (" in choices.markdown(summary)


def test_the_network_of_the_second_look_takes_images_of_every_size():
    config, _ = parsed(["train.py", *looks.RECIPE])
    assert config.test_image_size not in (None, config.image_size)
