"""Lists class folders and image files, ignoring files that operating systems and tools leave behind."""

import os
import pathlib
from collections.abc import Sequence

from sfocus_tf.data.formats import EXTENSIONS

# Left by macOS, Windows, Linux, Android, Synology, QNAP and Python; in lower case. Omits names that a class may have,
# such as Windows XP's "recycler" and "recycled".
_STRAY = frozenset(
    {
        "__macosx", "icon\r", "network trash folder", "temporary items",
        "$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini", "found.000",
        "lost+found", "lost.dir", "@eadir", "@sharebin", "#recycle", "#snapshot", "@recycle", "@recently-snapshot",
        "@tmp", "__pycache__",
    }
)  # fmt: skip


def is_data(name: str) -> bool:
    """Whether a file or folder name is data: not hidden (`.name`) and not a system file (`__MACOSX`, ...)."""
    return not name.startswith(".") and not is_stray(name)


def is_stray(name: str) -> bool:
    """Whether this is the name of a system file or folder."""
    return name.lower() in _STRAY


def folders_in(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The data folders directly inside a folder, sorted by name; links are followed.

    Raises:
        ValueError: a name is not UTF-8.
    """
    above = _with_parents(os.path.realpath(folder))
    folders, _ = _entries(os.fspath(folder))
    return [pathlib.Path(require_utf8(path)) for path in sorted(folders) if os.path.realpath(path) not in above]


def images_in(folder: str | os.PathLike[str]) -> list[str]:
    """The sorted paths of the image files directly inside a folder; see `images_below`."""
    _, files = _entries(os.fspath(folder))
    return sorted(require_utf8(path) for path in files)


def images_below(folder: str | os.PathLike[str]) -> list[str]:
    """The sorted paths of all image files below a folder.

    Hidden and system files are ignored at any depth; `folder` itself may have any name. Links are followed, except to
    a folder that has been read already or to a parent of the folder being read. Broken links are ignored.

    Raises:
        ValueError: a name is not UTF-8.
    """
    images: list[str] = []
    seen: set[str] = set()

    def read(path: str, above: frozenset[str]) -> None:
        real = os.path.realpath(path)
        if real in seen or real in above:
            return
        seen.add(real)
        folders, files = _entries(path)
        images.extend(files)
        for inner in folders:
            read(inner, above | _with_parents(real))

    read(os.fspath(folder), frozenset())
    return sorted(map(require_utf8, images))


def require_utf8(path: str) -> str:
    """Returns `path`, or raises an error that shows it: TensorFlow, JSON and figures require UTF-8 names."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise ValueError(f"the name of {shown} is not UTF-8: rename it.") from error
    return path


def shown(names: Sequence[str], most: int = 5) -> str:
    """The first few names, for a message."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _with_parents(path: str) -> frozenset[str]:
    return frozenset({path, *map(str, pathlib.PurePath(path).parents)})


def _entries(folder: str) -> tuple[list[str], list[str]]:
    """The paths of the folders, links last, and of the image files in a folder."""
    folders: list[str] = []
    links: list[str] = []
    files: list[str] = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not is_data(entry.name):
                continue
            path, is_link = os.path.join(folder, entry.name), entry.is_symlink()
            if os.path.isdir(path) if is_link else entry.is_dir():
                (links if is_link else folders).append(path)
            elif entry.name.lower().endswith(EXTENSIONS) and (os.path.isfile(path) if is_link else entry.is_file()):
                files.append(path)
    return folders + links, files
