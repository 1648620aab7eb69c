"""The README and the pages: their Python runs, and the commands and files they name are there."""

import re
import textwrap
import tomllib

import keras
import matplotlib.pyplot as plt
import pytest

import sfocus_tf as sf
from tests import archives
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))} | {"README.md": README}


def blocks_of(text):
    return [textwrap.dedent(block) for block in re.findall(r"```python\n(.*?)```", text, flags=re.S)]


def run_blocks(page, folder, monkeypatch):
    """Runs the blocks of a page one after the other, in an empty folder; returns their variables."""
    monkeypatch.chdir(folder)
    names: dict = {}
    for block in blocks_of(PAGES[page]):
        exec(compile(block, page, "exec"), names)
    plt.close("all")
    return names


def test_the_readme_runs(tmp_path, monkeypatch):
    last = run_blocks("README.md", tmp_path, monkeypatch)["why"].last
    assert last.target.shape == (16, 3, 3) and max(last.target.max(), last.rival.max()) > 0
    assert len(blocks_of(README)) >= 2
    assert (tmp_path / "model.keras").exists() and (tmp_path / "why.png").exists()
    assert len(README.encode()) < 7000
    assert blocks_of(PAGES["index.md"])[0] == blocks_of(README)[0]


def test_the_guide_runs(tmp_path, monkeypatch):
    names = run_blocks("guide.md", tmp_path, monkeypatch)
    assert names["measured"].summary()["accuracy"] >= 0
    assert (tmp_path / "why.png").exists() and (tmp_path / "served" / "1" / "saved_model.pb").exists()
    assert (tmp_path / "model.keras").exists() and (tmp_path / "classifier.keras").exists()


def test_the_page_on_several_devices_runs(tmp_path):
    """With what it leaves to the reader: a classifier for images of any size, and the folder of the data."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, 8, activation="relu")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, 2, activation="relu")(x))
    network = keras.Model(inputs, keras.layers.Dense(2)(x))
    names = {"sf": sf, "keras": keras, "classifier": lambda: network, "folder": archives.cub(tmp_path, images=2)}
    (block,) = blocks_of(PAGES["scaling.md"])
    exec(compile(block, "scaling.md", "exec"), names)
    assert names["model"].optimizer.iterations == 10


def test_every_page_with_python_is_run():
    """That of serving in the tests of its subject."""
    pages = {name for name, text in PAGES.items() if blocks_of(text)}
    assert pages == {"README.md", "index.md", "guide.md", "scaling.md", "serving.md"}


def test_the_readme_names_configs_pages_and_extras():
    for pattern in (r"--dataset=(?!tfds:)(\w+)", r"\]\((docs/[^)]*)\)", r"\.\[(\w+)\]"):
        assert re.findall(pattern, README), pattern


@pytest.mark.parametrize("page", PAGES)
def test_commands_name_configs_and_files_that_exist(page):
    text = PAGES[page]
    for name in re.findall(r"--dataset=(?!tfds:)(\w+)", text):
        assert (ROOT / "configs" / f"{name}.py").is_file(), name
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for path in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (folder / path).exists(), path
    for script in re.findall(r"python (benchmarks/\w+\.py)", text):
        assert (ROOT / script).is_file(), script
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"\.\[(\w+)\]", text)) <= known.keys()
