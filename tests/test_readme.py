"""The README and the pages: their Python runs, and the commands and files they name are there."""

import re
import textwrap
import tomllib

import matplotlib.pyplot as plt
import pytest

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
    names = run_blocks("README.md", tmp_path, monkeypatch)
    assert (
        names["why"].last.target.shape[0] == 16
        and max(names["why"].last.rival.max(), names["why"].last.target.max()) > 0
    )
    assert (tmp_path / "model.keras").exists() and (tmp_path / "why.png").exists()
    assert len(README.encode()) < 7000
    assert blocks_of(PAGES["index.md"])[0] == blocks_of(README)[0]


def test_the_guide_runs(tmp_path, monkeypatch):
    names = run_blocks("guide.md", tmp_path, monkeypatch)
    assert names["measured"].summary()["accuracy"] >= 0
    assert (tmp_path / "why.png").exists() and (tmp_path / "served" / "1" / "saved_model.pb").exists()


def test_every_page_with_python_is_run():
    """Those of scaling and serving in the tests of their subject."""
    pages = {name for name, text in PAGES.items() if blocks_of(text)}
    assert pages == {"README.md", "index.md", "guide.md", "scaling.md", "serving.md"}


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
