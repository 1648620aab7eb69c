"""What `python -m sfocus_tf` does: explain, evaluate, compare and export classifiers from files."""

import argparse
import fnmatch
import functools
import glob
import itertools
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from sfocus_tf import data, evaluation, report, saved_models
from sfocus_tf.attention import CAMS
from sfocus_tf.data import Data
from sfocus_tf.data.files import readable, text_lines
from sfocus_tf.data.formats import EXTENSIONS
from sfocus_tf.data.listing import images_below, is_stray, require_utf8
from sfocus_tf.errors import unknown
from sfocus_tf.evaluation import Evaluation
from sfocus_tf.model import SharpenFocus
from sfocus_tf.report.tf_keras_vis import VIS_CAMS, explain_by

_FAITHFULNESS_STEPS = 16


def explain(arguments: argparse.Namespace) -> None:
    """Writes one figure an image."""
    cam = arguments.cam
    if cam not in (None, *CAMS, *VIS_CAMS):
        raise unknown("--cam", cam, [*CAMS, *VIS_CAMS])
    folder = pathlib.Path(arguments.output).expanduser()
    files = _files(arguments.images, leave_out=folder.resolve())
    if arguments.of != "score" and cam in VIS_CAMS:
        raise ValueError(f"--of={arguments.of}: expected --cam to be one of {', '.join(CAMS)}, got --cam={cam}.")
    model = saved_models.load(arguments.model, arguments.preprocessing, arguments.multi_label or None)
    names = _class_names(arguments, model.num_classes)
    target, rival = _number("--class", arguments.class_name, names), _number("--rival", arguments.rival, names)
    if target == rival != -1:
        raise ValueError(f"--rival={arguments.rival!r} is the class to explain: expected another one.")
    size = _size(arguments, arguments.model, model) or (224, 224)
    center_crop = _config(arguments.model).get("center_crop")
    good = list(itertools.compress(files, readable([str(file) for file in files], arguments.skip_corrupt)))
    folder.mkdir(parents=True, exist_ok=True)
    paths = _figure_paths(folder, good)
    bar = _bar(len(good), "image")
    ours = None if cam in VIS_CAMS else cam
    for start in range(0, len(good), arguments.batch_size):
        batch = good[start : start + arguments.batch_size]
        images = data.read_images(batch, size, center_crop)
        explanation = model.explain(images, target, rival, len(batch), of=arguments.of, cam=ours)
        if cam in VIS_CAMS:
            explanation = explain_by(cam, model, images, explanation)
        for row, file in enumerate(batch):
            one = explanation.rows(slice(row, row + 1))
            layers = {"last": "pixels"} if cam == "vis:saliency" else None
            figure = report.attention_figure(images[row : row + 1], one, names, layers=layers)
            figure.suptitle(file.name, fontsize=9)
            figure.savefig(paths[start + row], dpi=110)
            bar(start + row + 1)
    print(f"{len(good)} figure(s): {folder}")


def evaluate(arguments: argparse.Namespace) -> None:
    """Prints all measures and writes them as JSON."""
    output = _output(arguments.output)
    settings = _data_settings(arguments, arguments.model)
    result = _evaluated(arguments, *_model_and_split(arguments, arguments.model, settings, {})).as_json()
    output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{settings['name']}, {settings['split']}: {result['images']} images{_kind_of_maps(arguments)}")
    width = max(len(name) for name in result["summary"])
    for name, value in result["summary"].items():
        shown = "not defined" if value is None else f"{value:.3f}" if "correlation" in name else f"{100 * value:.2f} %"
        print(f"{name:<{width}}  {shown}")
    occurring = [row for row in result["classes"] if row["images"]]
    print("\n" + "  ".join(f"{name:>18}" for name in result["classes"][0]))
    for row in occurring:
        print("  ".join(f"{value:>18.4f}" if isinstance(value, float) else f"{value!s:>18}" for value in row.values()))
    print()
    for pair in result["confused"][:10]:
        print(f"{pair['images']} of {pair['class']} taken for {pair['taken for']}")
    print(f"\nall numbers: {output}")


def compare(arguments: argparse.Namespace) -> None:
    """Writes the page."""
    paths = (arguments.model, arguments.model_b)
    names = tuple(arguments.names.split(",")) if arguments.names else _names(paths)
    if len(names) != 2 or names[0] == names[1]:
        given = f"--names={arguments.names!r}" if arguments.names else f"both models are {names[0]!r}"
        raise ValueError(f"{given}: expected two different names, such as --names=before,after.")
    output = _output(arguments.output)
    settings = _data_settings(arguments, *paths)
    splits: dict[tuple[int, ...] | None, Data] = {}
    both = []
    for path, mode in zip(paths, _modes(arguments.preprocessing, paths), strict=True):
        both.append(
            _model_and_split(argparse.Namespace(**vars(arguments) | {"preprocessing": mode}), path, settings, splits)
        )
    evaluations = (_evaluated(arguments, *both[0]), _evaluated(arguments, *both[1]))
    dataset = f"{settings['name']}, {settings['split']} split{_kind_of_maps(arguments)}"
    images = functools.partial(_images, both[0][1])
    page = report.comparison_page(*evaluations, images, (names[0], names[1]), dataset)
    output.write_text(page, encoding="utf-8")
    for name, each in zip(names, evaluations, strict=True):
        measure, value = each.headline()
        print(f"{name}: {measure} {100 * value:.2f} %")
    print(f"the page: {output}")


def _modes(preprocessing: str, paths: tuple[str, str]) -> tuple[str, str]:
    """The preprocessing of each of two models: a single name is for those that are not of `train.py`."""
    modes = preprocessing.split(",")
    if len(modes) > 2:
        raise ValueError(f"--preprocessing={preprocessing!r}: expected one for both models, or A,B.")
    plain = [not _config(path) for path in paths]
    if len(modes) == 1 and any(plain):
        return (modes[0] if plain[0] else "none", modes[0] if plain[1] else "none")
    return modes[0], modes[-1]


def _images(split: Data, numbers: Sequence[int]) -> dict[int, np.ndarray]:
    """Some images of a split by their numbers; all of them may be more than memory holds."""
    found: dict[int, np.ndarray] = {}
    first, wanted = 0, set(numbers)
    for batch in split.batches.as_numpy_iterator():
        images = batch["image"]
        found |= {first + row: images[row].astype(np.uint8) for row in range(len(images)) if first + row in wanted}
        first += len(images)
    return found


def export(arguments: argparse.Namespace) -> None:
    """Writes a SavedModel."""
    if not pathlib.Path(arguments.output).name.isdecimal():
        raise ValueError(f"--output={arguments.output!r}: expected a folder and a version, such as served/1.")
    model = saved_models.load(arguments.model, arguments.preprocessing, arguments.multi_label or None)
    size = _size(arguments, arguments.model, model)
    if size is None:
        raise ValueError(f"--image_size is not set, and {arguments.model} takes images of any size.")
    names, center_crop = _class_names(arguments, model.num_classes), _config(arguments.model).get("center_crop")
    model.export(arguments.output, class_names=names, image_size=size, center_crop=center_crop)
    print(f"the SavedModel: {arguments.output}")


def _files(given: list[str], leave_out: pathlib.Path) -> list[pathlib.Path]:
    """The images that files, folders and patterns stand for, in order, but for those in one folder.

    A file that is named is taken whatever its name; hidden and stray files of folders and patterns are not.
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


def _figure_paths(folder: pathlib.Path, files: list[pathlib.Path]) -> list[pathlib.Path]:
    """Where each image's figure goes; with a number where two have the same name."""
    paths: dict[pathlib.Path, None] = {}
    for file in files:
        path, number = folder / f"{file.stem}.png", 1
        while path in paths:
            path, number = folder / f"{file.stem}-{number}.png", number + 1
        paths[path] = None
    return list(paths)


def _size(arguments: argparse.Namespace, path: str, model: SharpenFocus) -> tuple[int, int] | None:
    """Height and width of a model's images: its own, or where it takes any, the flag's or the workdir's."""
    height, width = model.classifier.input_shape[1:3]
    if height and width:
        if arguments.image_size not in (None, height) or arguments.image_size not in (None, width):
            raise ValueError(f"--image_size={arguments.image_size}: {path} takes images of {height}x{width} pixels.")
        return height, width
    size = arguments.image_size or _config(path).get("image_size")
    return (size, size) if size else None


def _config(path: str) -> dict[str, Any]:
    """What `train.py` left beside a model, or nothing."""
    file = saved_models.model_file(path).parent / "config.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _class_names(arguments: argparse.Namespace, classes: int) -> tuple[str, ...]:
    if not arguments.class_names:
        return saved_models.class_names(arguments.model, classes)
    names = tuple(text_lines("--class_names", pathlib.Path(arguments.class_names).expanduser()))
    if "" in names:
        raise ValueError(f"--class_names={arguments.class_names!r}: line {names.index('') + 1} is blank.")
    if len(names) != classes:
        raise ValueError(f"--class_names={arguments.class_names!r}: {len(names)} lines for {classes} classes.")
    return names


def _number(flag: str, value: str | None, names: tuple[str, ...]) -> int:
    """A class given by name or number; -1 for none."""
    if value is None:
        return -1
    if value in names:
        return names.index(value)
    if value.isdecimal() and int(value) < len(names):
        return int(value)
    raise unknown(flag, value, names)


def _data_settings(arguments: argparse.Namespace, *models: str) -> dict[str, Any]:
    """What `data.load` needs: from the flags, and where they are silent from the first workdir."""
    config = next(filter(None, map(_config, models)), {})
    name = arguments.dataset or config.get("dataset")
    if not name:
        raise ValueError(f"--dataset is not set, and no config.json beside {models[0]} says which it is.")
    if name != config.get("dataset"):
        config = {}
    return {
        "name": name,
        "split": arguments.split,
        "data_dir": arguments.data_dir or config.get("data_dir"),
        "center_crop": config.get("center_crop"),
        "examples": config.get("examples"),
        "check_images": config.get("check_images", True),
        "validation_fraction": config.get("validation_fraction", 0.0),
        "skip_corrupt": arguments.skip_corrupt or config.get("skip_corrupt", False),
    }


def _model_and_split(
    arguments: argparse.Namespace, path: str, settings: dict[str, Any], splits: dict[tuple[int, ...] | None, Data]
) -> tuple[SharpenFocus, Data]:
    """A model and the images at its size; `splits` keeps what was loaded, by size."""
    model = saved_models.load(path, arguments.preprocessing)
    if arguments.of == "relative" and model.multi_label:  # before the data are read
        raise ValueError(f"--of=relative: expected a model of one class an image, got MODEL={path!r}, one of several.")
    size = _size(arguments, path, model)
    if size and size[0] != size[1]:
        raise ValueError(f"MODEL={path!r} takes images of {size[0]}x{size[1]} pixels: expected a square.")
    if size not in splits:
        splits[size] = data.load(
            **settings, image_size=size and size[0], batch_size=arguments.batch_size, training=False, regions=True
        )
    split = splits[size]
    names = saved_models.class_names(path, 0)
    if names and names != split.class_names:
        other = next((pair for pair in zip(names, split.class_names, strict=False) if pair[0] != pair[1]), None)
        raise ValueError(
            f"MODEL={path!r} was trained on {len(names)} classes, the data have {len(split.class_names)}"
            + (f"; the first that differs is {other[0]!r} there, {other[1]!r} here." if other else ".")
        )
    if model.multi_label != split.multi_label:
        model = saved_models.load(path, arguments.preprocessing, split.multi_label)
    return model, split


def _evaluated(arguments: argparse.Namespace, model: SharpenFocus, split: Data) -> Evaluation:
    steps = _FAITHFULNESS_STEPS if arguments.faithfulness else 0
    return evaluation.evaluate(model, split, steps, _bar(split.steps, "batch"), arguments.of)


def _kind_of_maps(arguments: argparse.Namespace) -> str:
    """What to add to the name of the images, where the maps are not the usual ones."""
    return "" if arguments.of == "score" else f", {arguments.of} maps"


def _names(paths: tuple[str, str]) -> tuple[str, ...]:
    """What to call two models: their methods where these differ, else their paths."""
    shown = {"icasc": "ICASC", "cross_entropy": "cross-entropy"}
    methods = tuple(shown.get(_config(path).get("method", ""), "") for path in paths)
    return methods if all(methods) and methods[0] != methods[1] else paths


def _bar(total: int, unit: str) -> Callable[[int], None]:
    """A function that shows how much is done, on a terminal."""
    if not sys.stderr.isatty():
        return lambda done: None
    return keras.utils.Progbar(total, unit_name=unit).update


def _output(output: str) -> pathlib.Path:
    """The path of a file to write, known to be writable before any work is done."""
    path = pathlib.Path(output).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"--output={output!r} is a folder: expected a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    existed = path.exists()
    path.open("a").close()
    if not existed:
        path.unlink()
    return path
