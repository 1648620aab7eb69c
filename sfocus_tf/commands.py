"""The commands of `python -m sfocus_tf`: explain, evaluate, compare and export saved classifiers."""

import argparse
import itertools
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import keras

from sfocus_tf import data, evaluation, report, saved_models
from sfocus_tf.attention import CAMS, LINEAR
from sfocus_tf.data import Data
from sfocus_tf.data.files import readable, text_lines
from sfocus_tf.data.patterns import images_named
from sfocus_tf.errors import unknown
from sfocus_tf.evaluation import Evaluation
from sfocus_tf.model import SharpenFocus
from sfocus_tf.report.tf_keras_vis import VIS_CAMS, explain_by
from sfocus_tf.saved_models import SavedModel

_FAITHFULNESS_STEPS = 16


def explain(arguments: argparse.Namespace) -> None:
    """Writes one attention figure per image."""
    cam = arguments.cam
    if cam not in (None, *CAMS, *VIS_CAMS):
        raise unknown("--cam", cam, [*CAMS, *VIS_CAMS])
    folder = pathlib.Path(arguments.output).expanduser()
    files = images_named(arguments.images, leave_out=folder.resolve())
    if arguments.of not in (None, "score") and cam in VIS_CAMS:
        raise ValueError(f"--of={arguments.of}: expected --cam to be one of {', '.join(CAMS)}, got --cam={cam}.")
    saved = saved_models.find(arguments.model)
    model = saved.load(arguments.preprocessing, arguments.multi_label or None)
    of = arguments.of or ("contrast" if (cam or model.cam) in LINEAR else "score")
    names = _class_names(arguments, saved, model.num_classes)
    target, rival = _number("--class", arguments.class_name, names), _number("--rival", arguments.rival, names)
    if target == rival != -1:
        raise ValueError(f"--rival={arguments.rival!r} is the class to explain: expected another class.")
    size = _size(arguments, saved, model)
    readable_files = list(itertools.compress(files, readable([str(file) for file in files], arguments.skip_corrupt)))
    folder.mkdir(parents=True, exist_ok=True)
    paths = _figure_paths(folder, readable_files)
    print(f"explaining {len(readable_files)} images", flush=True)
    bar = _bar(len(readable_files), "image")
    ours = None if cam in VIS_CAMS else cam
    for start in range(0, len(readable_files), arguments.batch_size):
        batch = readable_files[start : start + arguments.batch_size]
        images = data.read_images(batch, size, saved.config.get("center_crop"))
        explanation = model.explain(images, target, rival, len(batch), of=of, cam=ours)
        if cam in VIS_CAMS:
            explanation = explain_by(cam, model, images, explanation)
        for row, file in enumerate(batch):
            place = slice(row, row + 1)
            one = explanation.rows(place)
            if of == "contrast":
                figure = report.contrast_figure(images[place], one, names, multi_label=model.multi_label)
            else:
                layers = {"last": "pixels"} if cam == "vis:saliency" else None
                figure = report.attention_figure(images[place], one, names, layers=layers)
            figure.suptitle(file.name, fontsize=9)
            figure.savefig(paths[start + row], dpi=110)
            bar(start + row + 1)
    print(f"{len(readable_files)} figure{'s' if len(readable_files) > 1 else ''} in {folder}")


def evaluate(arguments: argparse.Namespace) -> None:
    """Prints all metrics and writes them as JSON."""
    output = _output(arguments.output)
    saved = saved_models.find(arguments.model)
    settings = _data_settings(arguments, saved)
    result = _evaluated(arguments, *_model_and_split(arguments, saved, arguments.preprocessing, settings, {})).as_json()
    output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{settings['name']}, {settings['split']}: {result['images']} images")
    print(f"maps are {evaluation.MAPS[result['of']]}\n")
    for name, value in result["summary"].items():
        shown = "not defined" if value is None else f"{value:.3f}" if "correlation" in name else f"{100 * value:.2f} %"
        print(f"{evaluation.describe(name).full_text:<54}  {shown:>11}")
    if rows := [row for row in result["classes"] if row["images"]]:
        _print_classes(rows)
    for pair in result["confused"][:10]:
        print(f"{pair['images']} of {pair['class']} taken for {pair['taken for']}")
    print(f"\nall numbers: {output}")


def _print_classes(rows: list[dict[str, Any]]) -> None:
    """Prints the table of classes."""
    width = max(len(row["class"]) for row in rows)
    print("\n" + "  ".join([f"{'class':<{width}}", *(f"{name.replace('_', ' '):>9}" for name in list(rows[0])[1:])]))
    for row in rows:
        cells = [f"{row['class']:<{width}}"]
        for name, value in list(row.items())[1:]:
            text = "not defined" if value is None else f"{100 * value:.1f} %" if isinstance(value, float) else value
            cells.append(f"{text:>{max(len(name), 9)}}")
        print("  ".join(cells))
    print()


def compare(arguments: argparse.Namespace) -> None:
    """Writes a page that compares two classifiers."""
    saved = [saved_models.find(path) for path in (arguments.model, arguments.model_b)]
    names = tuple(arguments.names.split(",")) if arguments.names else _names(saved)
    if len(names) != 2 or names[0] == names[1]:
        problem = f"--names={arguments.names!r}" if arguments.names else f"both models are {names[0]!r}"
        raise ValueError(f"{problem}: expected two different names, such as --names=before,after.")
    output = _output(arguments.output)
    fractions = {one.config.get("validation_fraction", 0.0) for one in saved if one.config}
    if len(fractions) > 1 and arguments.split != "test":
        raise ValueError(
            f"--split={arguments.split}: the models held out different shares of the training images "
            f"({' and '.join(map(str, sorted(fractions)))}), so that one was trained on images that the other was not. "
            "Expected --split=test."
        )
    settings = _data_settings(arguments, *saved)
    splits: dict[tuple[int, float | None], Data] = {}
    models = [
        _model_and_split(arguments, one, mode, settings, splits)
        for one, mode in zip(saved, _modes(arguments.preprocessing, saved), strict=True)
    ]
    evaluations = (_evaluated(arguments, *models[0]), _evaluated(arguments, *models[1]))
    dataset = f"{settings['name']}, {settings['split']} split"
    page = report.comparison_page(*evaluations, models[0][1].images, (names[0], names[1]), dataset)
    output.write_text(page, encoding="utf-8")
    for name, result in zip(names, evaluations, strict=True):
        metric, value = result.headline()
        print(f"{name}: {metric} {100 * value:.2f} %")
    print(f"the page: {output}")


def _modes(preprocessing: str, saved: list[SavedModel]) -> tuple[str, str]:
    """The preprocessing of two models; a single name applies to those that are not from `train.py`."""
    modes = preprocessing.split(",")
    if len(modes) > 2:
        raise ValueError(f"--preprocessing={preprocessing!r}: expected one for both models, or A,B.")
    plain = [not one.config for one in saved]
    if len(modes) == 1 and any(plain):
        return (modes[0] if plain[0] else "none", modes[0] if plain[1] else "none")
    return modes[0], modes[-1]


def export(arguments: argparse.Namespace) -> None:
    """Writes a SavedModel for TF Serving."""
    if not pathlib.Path(arguments.output).name.isdecimal():
        raise ValueError(
            f"--output={arguments.output!r}: expected a model folder and a version number, such as served/1."
        )
    saved = saved_models.find(arguments.model)
    model = saved.load(arguments.preprocessing, arguments.multi_label or None)
    size = _size(arguments, saved, model)
    names = _class_names(arguments, saved, model.num_classes)
    model.export(arguments.output, class_names=names, image_size=size, center_crop=saved.config.get("center_crop"))
    print(f"the SavedModel: {arguments.output}")


def _figure_paths(folder: pathlib.Path, files: list[pathlib.Path]) -> list[pathlib.Path]:
    """The path of each image's figure, numbered if names repeat."""
    paths: dict[pathlib.Path, None] = {}
    for file in files:
        path, number = folder / f"{file.stem}.png", 1
        while path in paths:
            path, number = folder / f"{file.stem}-{number}.png", number + 1
        paths[path] = None
    return list(paths)


def _size(arguments: argparse.Namespace, saved: SavedModel, model: SharpenFocus) -> tuple[int, int]:
    """Height and width of a model's images: its input size, or if open, the flag's or the workdir's for tests."""
    height, width = model.classifier.input_shape[1:3]
    if height and width:
        if arguments.image_size not in (None, height) or arguments.image_size not in (None, width):
            raise ValueError(
                f"--image_size={arguments.image_size}: {saved.path} takes images of {height}x{width} pixels."
            )
        return height, width
    size = arguments.image_size or saved.config.get("test_image_size") or saved.config.get("image_size")
    if not size:
        raise ValueError(f"--image_size is not set, and {saved.path} takes images of any size.")
    return size, size


def _class_names(arguments: argparse.Namespace, saved: SavedModel, classes: int) -> tuple[str, ...]:
    """The class names: from the `--class_names` file, else of the training data, else the class numbers."""
    if not arguments.class_names:
        if len(saved.class_names) not in (0, classes):
            raise ValueError(
                f"{saved.file.parent / 'data.json'} has {len(saved.class_names)} class names for {classes} classes of "
                f"{saved.path!r}. Pass the right ones: --class_names=FILE."
            )
        return saved.class_names or tuple(str(number) for number in range(classes))
    names = tuple(text_lines("--class_names", pathlib.Path(arguments.class_names).expanduser()))
    if "" in names:
        raise ValueError(f"--class_names={arguments.class_names!r}: line {names.index('') + 1} is blank.")
    if len(names) != classes:
        raise ValueError(f"--class_names={arguments.class_names!r}: {len(names)} lines for {classes} classes.")
    return names


def _number(flag: str, value: str | None, names: tuple[str, ...]) -> int:
    """The number of a class given by name or number; -1 for none."""
    if value is None:
        return -1
    if value in names:
        return names.index(value)
    alike = [number for number, name in enumerate(names) if _plain(name) == _plain(value)]
    if len(alike) == 1:
        return alike[0]
    if value.isdecimal() and int(value) < len(names):
        return int(value)
    raise unknown(flag, value, names)


def _plain(name: str) -> str:
    """A class name without case, and with a space for each underscore or hyphen."""
    return name.lower().replace("_", " ").replace("-", " ")


def _data_settings(arguments: argparse.Namespace, *saved: SavedModel) -> dict[str, Any]:
    """The arguments of `data.load`: from the flags, else from the config of the first workdir."""
    config = next((one.config for one in saved if one.config), {})
    name = arguments.dataset or config.get("dataset")
    if not name:
        raise ValueError(f"--dataset is not set, and no config.json next to {saved[0].path} names the dataset.")
    if name != config.get("dataset"):
        config = {}
    return {
        "name": name,
        "split": arguments.split,
        "data_dir": arguments.data_dir or config.get("data_dir"),
        "examples": arguments.examples or config.get("examples"),
        "check_images": arguments.skip_corrupt or config.get("check_images", True),
        "validation_fraction": config.get("validation_fraction", 0.0),
        "skip_corrupt": arguments.skip_corrupt or config.get("skip_corrupt", False),
    }


def _model_and_split(
    arguments: argparse.Namespace,
    saved: SavedModel,
    preprocessing: str,
    settings: dict[str, Any],
    splits: dict[tuple[int, float | None], Data],
) -> tuple[SharpenFocus, Data]:
    """A model and the images as it was trained to see them; `splits` caches loaded splits by size and crop."""
    model = saved.load(preprocessing)
    if arguments.of == "relative" and model.multi_label:  # before reading the data
        raise ValueError(f"--of=relative: expected a single-label model, got MODEL={saved.path!r}, a multi-label one.")
    size, width = _size(arguments, saved, model)
    if size != width:
        raise ValueError(f"MODEL={saved.path!r} takes images of {size}x{width} pixels: expected a square.")
    crop = saved.config.get("center_crop")
    if (size, crop) not in splits:
        splits[size, crop] = data.load(
            **settings,
            image_size=size,
            center_crop=crop,
            batch_size=arguments.batch_size,
            training=False,
            regions=True,
        )
    split = splits[size, crop]
    names = saved.class_names
    if names and names != split.class_names:
        other = next((pair for pair in zip(names, split.class_names, strict=False) if pair[0] != pair[1]), None)
        raise ValueError(
            f"MODEL={saved.path!r} was trained on {len(names)} classes, the data have {len(split.class_names)}"
            + (f"; the first that differs is {other[0]!r} there, {other[1]!r} here." if other else ".")
        )
    if model.multi_label != split.multi_label:
        model = saved.load(preprocessing, split.multi_label)
    return model, split


def _evaluated(arguments: argparse.Namespace, model: SharpenFocus, split: Data) -> Evaluation:
    steps = _FAITHFULNESS_STEPS if arguments.faithfulness else 0
    return evaluation.evaluate(model, split, steps, _bar(split.steps, "batch"), arguments.of)


def _names(saved: list[SavedModel]) -> tuple[str, ...]:
    """Names for two models: their methods if these differ, else their paths."""
    methods = tuple(saved_models.METHOD_NAMES.get(one.config.get("method", ""), "") for one in saved)
    return methods if all(methods) and methods[0] != methods[1] else tuple(one.path for one in saved)


def _bar(total: int, unit: str) -> Callable[[int], None]:
    """A function that updates a progress bar, where Keras prints one, if that is a terminal."""
    if not sys.stdout.isatty():
        return lambda done: None
    return keras.utils.Progbar(total, unit_name=unit).update


def _output(output: str) -> pathlib.Path:
    """The path of a file to write, checked to be writable before any work is done."""
    path = pathlib.Path(output).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"--output={output!r} is a folder: expected a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    existed = path.exists()
    path.open("a").close()
    if not existed:
        path.unlink()
    return path
