"""The workdir: creates it, and refuses to mix runs of different configs."""

import json
import pathlib
from typing import Any

from sfocus_tf.training import checkpoints


class WorkdirError(ValueError):
    """The workdir has a run of another config, or cannot be written."""


def prepare(folder: pathlib.Path, identity: dict[str, Any], chief: bool = True) -> None:
    """Creates the folder of a run, with its `config.json`.

    Args:
        folder: the workdir; created if it does not exist.
        identity: the settings that determine the result of the run; see `Config.identity`.
        chief: whether this process writes; the others only check.

    Raises:
        WorkdirError: the folder has a run of another config, or cannot be written.
    """
    identity = json.loads(json.dumps(identity))
    path = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A run that never reached its first checkpoint may be replaced.
        if any((folder / name).exists() for name in ("last.keras", "results.json")):
            refuse_other(folder, "config", json.loads(path.read_text()), identity)
        if chief and not (folder / "results.json").exists():
            for name in ("new.keras", "new_best.keras"):  # from a process that was killed while writing
                (folder / name).unlink(missing_ok=True)
            checkpoints.write_text(path, json.dumps(identity, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise WorkdirError(f"workdir={str(folder)!r} cannot be written: {error}.") from error


def refuse_other(folder: pathlib.Path, what: str, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raises a `WorkdirError` that lists the differences if saved settings differ from the current ones."""
    saved, current = _flat(there), _flat(here)
    differing = [
        f"{key}: {saved.get(key)!r} there, {current.get(key)!r} now"
        for key in sorted(saved.keys() | current.keys())
        if saved.get(key) != current.get(key)
    ]
    if differing:
        raise WorkdirError(
            f"workdir={str(folder)!r} has a run of another {what}. Choose another --workdir, or remove it.\n  "
            + "\n  ".join(differing)
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat
