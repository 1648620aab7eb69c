"""What counts as data below a folder: class folders and image files, without what systems and editors put there."""

import os
import pathlib
from collections.abc import Sequence

from sfocus_tf.data.formats import EXTENSIONS

# Of macOS's archives, Windows, Linux's and Android's file systems, Synology, QNAP and Python; in lower case. Names that
# a class may have are not here, such as Windows XP's "recycler" and "recycled".
_STRAY = frozenset(
    {
        "__macosx", "icon\r", "network trash folder", "temporary items",
        "$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini", "found.000",
        "lost+found", "lost.dir", "@eadir", "@sharebin", "#recycle", "#snapshot", "@recycle", "@recently-snapshot",
        "@tmp", "__pycache__",
    }
)  # fmt: skip


def is_data(name: str) -> bool:
    """Whether a file or folder of this name is data: neither hidden (`.name`) nor of a system (`__MACOSX`, ...)."""
    return not name.startswith(".") and not is_stray(name)


def is_stray(name: str) -> bool:
    """Whether operating systems, or the like, give this name to files of their own."""
    return name.lower() in _STRAY


def folders_in(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The folders right in a folder that are data, in the order of their names; also those that links lead to.

    Raises:
        ValueError: a name is not UTF-8.
    """
    above = _with_parents(os.path.realpath(folder))
    folders, _ = _entries(os.fspath(folder))
    return [pathlib.Path(require_utf8(path)) for path in sorted(folders) if os.path.realpath(path) not in above]


def images_in(folder: str | os.PathLike[str]) -> list[str]:
    """The paths of the image files right in a folder, sorted; see `images_below`."""
    _, files = _entries(os.fspath(folder))
    return sorted(require_utf8(path) for path in files)


def images_below(folder: str | os.PathLike[str]) -> list[str]:
    """The paths of all image files below a folder, sorted.

    Names that are no data are left out at any depth; `folder` itself may have any. Links are followed, but not to a
    folder that was read before or to one that holds a folder being read, such as a link to its own parent. Links that
    lead nowhere are ignored.

    Raises:
        ValueError: a name is not UTF-8.
    """
    found: list[str] = []
    seen: set[str] = set()

    def read(path: str, above: frozenset[str]) -> None:
        real = os.path.realpath(path)
        if real in seen or real in above:
            return
        seen.add(real)
        folders, files = _entries(path)
        found.extend(files)
        for inner in folders:
            read(inner, above | _with_parents(real))

    read(os.fspath(folder), frozenset())
    return sorted(map(require_utf8, found))


def require_utf8(path: str) -> str:
    """`path`, or an error that shows it: TensorFlow, JSON and figures take no other names."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise ValueError(f"the name of {shown} is not UTF-8: rename it.") from error
    return path


def shown(names: Sequence[str], most: int = 5) -> str:
    """The first few of some names, for a message."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _with_parents(path: str) -> frozenset[str]:
    return frozenset({path, *map(str, pathlib.PurePath(path).parents)})


def _entries(folder: str) -> tuple[list[str], list[str]]:
    """The paths of folders and of image files in a folder; of folders, those that are links come last."""
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
