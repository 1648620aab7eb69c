"""The README's Python runs, and its commands are those that are there."""

import re
import textwrap
import tomllib

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def test_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    names: dict = {}
    for block in blocks:
        exec(compile(textwrap.dedent(block), "README.md", "exec"), names)
    assert len(blocks) >= 2 and names["attention"].last.target.shape == (16, 2, 2)
    assert (tmp_path / "classifier.keras").exists()


def test_commands_name_configs_and_files_that_exist():
    names = re.findall(r"--dataset=(?!tfds:)(\w+)", README)
    paths = re.findall(r"\]\(((?:configs|docs|benchmarks|sfocus_tf)[^)]*)\)", README)
    extras = re.findall(r"\.\[(\w+)\]", README)
    assert names and paths and extras
    for name in names:
        assert (ROOT / "configs" / f"{name}.py").is_file(), name
    for path in paths:
        assert (ROOT / path).exists(), path
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) <= known.keys()
