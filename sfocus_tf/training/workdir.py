"""The folder of a run, and which run may go on in it."""

import json
import pathlib
from typing import Any

from sfocus_tf.training import checkpoints


class WorkdirError(ValueError):
    """The workdir cannot be used: another config's run is in it, or it cannot be written."""


def prepare(identity: dict[str, Any], folder: pathlib.Path, chief: bool = True) -> pathlib.Path:
    """Makes a run's folder, with its `config.json`.

    Args:
        identity: all that decides the result of the run; see `Config.identity`.
        folder: where it is; made where it does not exist.
        chief: whether this process is the one that writes; the others look only.

    Returns:
        The folder.

    Raises:
        WorkdirError: it has a run of another config, or cannot be written.
    """
    identity = json.loads(json.dumps(identity))
    path = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A config whose run never got to its first checkpoint is no obstacle.
        if any((folder / name).exists() for name in ("last.keras", "results.json")):
            refuse_other(folder, "config", json.loads(path.read_text()), identity)
        if chief and not (folder / "results.json").exists():
            for name in ("new.keras", "new_best.keras"):  # of a process that was killed while it wrote
                (folder / name).unlink(missing_ok=True)
            checkpoints.write_text(path, json.dumps(identity, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise WorkdirError(f"workdir={str(folder)!r} cannot be written: {error}.") from error
    return folder


def refuse_other(folder: pathlib.Path, what: str, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raises a `WorkdirError` that names what differs between a run's settings in the folder and here."""
    there, here = _flat(there), _flat(here)
    differing = [
        f"{key}: {there.get(key)!r} there, {here.get(key)!r} now"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    if differing:
        raise WorkdirError(
            f"workdir={str(folder)!r} has a run of another {what}. Give another --workdir, or remove it.\n  "
            + "\n  ".join(differing)
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat
