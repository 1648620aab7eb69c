"""Image files by what a user names: files, folders and patterns."""

import fnmatch
import glob
import pathlib

from sfocus_tf.data.formats import EXTENSIONS
from sfocus_tf.data.listing import images_below, is_stray, require_utf8


def images_named(given: list[str], leave_out: pathlib.Path) -> list[pathlib.Path]:
    """The image files that a user names on the command line.

    A file that is named is taken whatever its name; hidden and stray files of folders and patterns are not.

    Args:
        given: files, folders and patterns.
        leave_out: a folder whose images are left out, such as the one for figures.

    Returns:
        The files, in the order of what names them, and sorted within each folder or pattern.

    Raises:
        FileNotFoundError: a name that stands for no image.
        ValueError: a name that is not UTF-8.
    """
    files: list[pathlib.Path] = []
    for text in given:
        path = pathlib.Path(require_utf8(text)).expanduser()
        found = [path]
        if path.is_dir() or not path.exists():
            among = map(pathlib.Path, images_below(path)) if path.is_dir() else _matches(path)
            found = sorted(each for each in among if leave_out not in each.resolve().parents)
        if not found:
            raise FileNotFoundError(f"IMAGE={text!r}: no image there. Expected a file, a folder or a pattern.")
        files += found
    return files


def _matches(pattern: pathlib.Path) -> list[pathlib.Path]:
    """The image files that a pattern matches; it names hidden and stray ones itself, or they are left out."""
    if "**" in pattern.parts:
        return _matches_at_any_depth(pattern)
    found = map(pathlib.Path, glob.glob(str(pattern)))  # without hidden names
    images = [
        path
        for path in found
        if path.suffix.lower() in EXTENSIONS
        and path.is_file()
        and not any(is_stray(part) for part in set(path.parts) - set(pattern.parts))
    ]
    return [pathlib.Path(require_utf8(str(path))) for path in images]


def _matches_at_any_depth(pattern: pathlib.Path) -> list[pathlib.Path]:
    """The same of a pattern with `**`, by which `glob` would run in circles of linked folders."""
    at = pattern.parts.index("**")
    roots = [pathlib.Path(root) for root in glob.glob(str(pathlib.Path(*pattern.parts[:at])))]
    found = [(root, pathlib.Path(path)) for root in roots if root.is_dir() for path in images_below(root)]
    return [path for root, path in found if _fits(path.relative_to(root).parts, pattern.parts[at:])]


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether the parts of a path match those of a pattern; `**` is for any number of folders."""
    if not pattern or not parts:
        return not parts and set(pattern) <= {"**"}
    if pattern[0] == "**":
        return _fits(parts, pattern[1:]) or _fits(parts[1:], pattern)
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])
