"""The workdir: creates it, goes on from its last checkpoint, and refuses to mix runs of different configs or data."""

import json
import pathlib
import zipfile
from typing import Any

from sfocus_tf import distribution
from sfocus_tf.data import Data
from sfocus_tf.model import SharpenFocus
from sfocus_tf.training import checkpoints


class WorkdirError(ValueError):
    """The workdir has a run of another config, or cannot be written."""


def prepare(folder: pathlib.Path, identity: dict[str, Any], noted: dict[str, Any]) -> None:
    """Creates the folder of a run, with its `config.json`; of several workers, only the chief writes.

    Args:
        folder: the workdir; created if it does not exist.
        identity: the settings that determine the result of the run; see `Config.identity`.
        noted: settings without effect on it, for `config.json` too.

    Raises:
        WorkdirError: the folder has a run of another config, has lost files of its run, or cannot be written.
    """
    identity = json.loads(json.dumps(identity))
    path = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A run that never reached its first checkpoint may be replaced.
        if any((folder / name).exists() for name in ("last.keras", "results.json")):
            there = {key: value for key, value in _saved(path).items() if key not in noted}
            _refuse_other(folder, "config", there, identity)
        if distribution.is_chief() and not (folder / "results.json").exists():
            for name in ("new.keras", "new_best.keras"):  # from a process that was killed while writing
                (folder / name).unlink(missing_ok=True)
            checkpoints.write_text(path, json.dumps(identity | noted, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise WorkdirError(f"workdir={str(folder)!r} cannot be written: {error}.") from error


def begin(folder: pathlib.Path, model: SharpenFocus, splits: dict[str, Data]) -> checkpoints.Position:
    """Loads the last checkpoint, if there is one, and writes `data.json`, once all workers agree on both.

    Args:
        folder: the workdir.
        model: the newly built model; gets the state of the checkpoint.
        splits: the data of the run.

    Returns:
        The position of the run.

    Raises:
        WorkdirError: the checkpoint is from other data, is damaged, or has lost its `data.json`.
        ValueError: the workers would start at different positions or read different images.
    """
    position, path = checkpoints.Position(0), folder / "data.json"
    about: dict[str, Any] = {"class_names": list(splits["train"].class_names)}
    about |= {split: part.source.size for split, part in splits.items()}
    if (folder / "last.keras").exists():
        _refuse_other(folder, "data", _saved(path), about)
        try:
            position = checkpoints.position(folder / "last.keras")
        except (KeyError, zipfile.BadZipFile) as error:
            raise _damaged(folder / "last.keras", error) from error
        checkpoints.load(model, folder / "last.keras")
    files = [pathlib.Path(file).name for part in splits.values() for file in part.source.files]
    if not distribution.all_agree(json.dumps([(folder / "config.json").exists(), position, about, files])):
        raise ValueError(
            f"the workers differ in the workdir or in the data. This one: workdir={str(folder)!r} at epoch "
            f"{position.epochs}, step {position.steps}; {about}. Expected one --workdir and the same --data_dir, on a "
            "file system that all workers share."
        )
    if distribution.is_chief():
        checkpoints.write_text(path, json.dumps(about, indent=2) + "\n")
        if position.epochs == 0:
            (folder / "best.keras").unlink(missing_ok=True)  # from a run that was killed before its first checkpoint
    return position


def _saved(file: pathlib.Path) -> dict[str, Any]:
    """What a run wrote to a JSON file."""
    try:
        saved: dict[str, Any] = json.loads(file.read_text())
        return dict(saved)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise _damaged(file, error) from error


def _damaged(file: pathlib.Path, error: Exception) -> WorkdirError:
    return WorkdirError(
        f"workdir={str(file.parent)!r} has a run, but its {file.name} is missing or damaged ({error}). "
        f"Choose another, such as --workdir={file.parent}-2, or remove it."
    )


def _refuse_other(folder: pathlib.Path, what: str, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raises a `WorkdirError` that lists the differences if saved settings differ from the current ones."""
    saved, current = _flat(there), _flat(here)
    differing = [
        f"{key}: {saved.get(key)!r} there, {current.get(key)!r} now"
        for key in sorted(saved.keys() | current.keys())
        if saved.get(key) != current.get(key)
    ]
    if differing:
        raise WorkdirError(
            f"workdir={str(folder)!r} has a run of another {what}. Choose another, such as --workdir={folder}-2, or "
            "remove it.\n  " + "\n  ".join(differing)
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat
