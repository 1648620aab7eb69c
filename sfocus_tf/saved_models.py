"""Loads any saved Keras classifier, ready to be explained and evaluated."""

import json
import pathlib
import zipfile
import zlib
from typing import Any

import keras

from sfocus_tf import backbones
from sfocus_tf.classifier import checks, graph
from sfocus_tf.model import SharpenFocus


def load(path: str | pathlib.Path, preprocessing: str = "none", multi_label: bool | None = None) -> SharpenFocus:
    """A saved classifier, wrapped; whether it was trained with `SharpenFocus` or not.

    Args:
        path: a `.keras` file, or a workdir of `train.py`, whose `last.keras` is taken.
        preprocessing: what pixels in [0, 255] go through before a classifier that has no preprocessing inside, one of
            `sfocus_tf.backbones.PREPROCESSING`. Those that `train.py` made have it inside.
        multi_label: whether its images may have several classes; by default as it was trained, and for a classifier
            that was not wrapped, whether it ends in a sigmoid.

    Returns:
        The model; it takes images with pixels in [0, 255] and gives scores before softmax or sigmoid.

    Raises:
        FileNotFoundError: no such file, or a folder without `last.keras`.
        ValueError: a file that is no Keras model, or a network that cannot be wrapped: a subclassed one, one with
            several inputs or without two scores, or one that takes no colour images; preprocessing for a run of
            `train.py`.
    """
    file = model_file(path)
    _refuse_damaged(path, file)
    try:
        model = keras.models.load_model(file, compile=False)
    except Exception as error:  # Keras lets those of zip, JSON and HDF5 files through, and of layers made of them
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ValueError(f"MODEL={str(path)!r} cannot be loaded as a Keras model: {reason}") from error
    if preprocessing != "none" and (file.parent / "config.json").is_file():
        raise ValueError(f"--preprocessing={preprocessing}: {path} is of train.py, whose networks have theirs inside.")
    try:
        wrapped = _wrapped(model, multi_label)
    except (TypeError, ValueError) as error:
        raise ValueError(f"MODEL={str(path)!r}: {error}") from error
    if multi_label not in (None, wrapped.multi_label):
        raise ValueError(f"MODEL={str(path)!r} was trained with multi_label={wrapped.multi_label}, not {multi_label}.")
    _refuse_other_than_colour(path, wrapped.classifier)
    return wrapped if preprocessing == "none" else _preprocessed(wrapped, preprocessing)


def _refuse_damaged(path: str | pathlib.Path, file: pathlib.Path) -> None:
    """Raises a `ValueError` for a `.keras` file that is no whole zip archive; Keras would not say so, or not notice."""
    if file.suffix != ".keras":
        return
    what = f"MODEL={str(path)!r} cannot be loaded as a Keras model"
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{what}: it is no zip archive, as .keras files are; it is cut off, or of another kind.")
    try:
        with zipfile.ZipFile(file) as archive:
            damaged, names = archive.testzip(), archive.namelist()
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError, zlib.error) as error:
        raise ValueError(f"{what}: the zip archive is damaged ({error}).") from error
    if damaged:
        raise ValueError(f"{what}: {damaged!r} in the zip archive is damaged (bad checksum).")
    if "config.json" not in names:
        raise ValueError(f"{what}: the zip archive has no config.json, but {', '.join(names[:5]) or 'nothing'}.")


def _wrapped(model: Any, multi_label: bool | None) -> SharpenFocus:
    """A loaded model as a `SharpenFocus` of its scores; with the settings of one that it is or has inside."""
    if isinstance(model, SharpenFocus):
        return model
    inside = [(path, layer) for path, layer in graph.operations(model) if isinstance(layer, SharpenFocus)]
    if len(inside) != 1 or len(model.inputs) != 1:
        classifier, activation = checks.without_probabilities(model)
        return SharpenFocus(classifier, multi_label=activation == "sigmoid" if multi_label is None else multi_label)
    trained = inside[0][1]
    plain = graph.rebuilt(model, lambda path, layer: trained.classifier if layer is trained else layer)
    classifier, _ = checks.without_probabilities(plain)
    return trained.around(classifier)


def _refuse_other_than_colour(path: str | pathlib.Path, classifier: keras.Model) -> None:
    channels = classifier.input_shape[-1]
    if channels != 3:
        raise ValueError(f"MODEL={str(path)!r} takes {channels} channel(s): expected 3, in colour.")


def _preprocessed(model: SharpenFocus, preprocessing: str) -> SharpenFocus:
    """The model with preprocessing before its classifier."""
    inputs = keras.Input(model.classifier.input_shape[1:], name="image")
    outputs = model.classifier(backbones.preprocess(preprocessing, inputs))
    return model.around(keras.Model(inputs, outputs))


def class_names(path: str | pathlib.Path, classes: int) -> tuple[str, ...]:
    """The names that `train.py` left beside a model, or where there are none the numbers of so many classes."""
    file = model_file(path).parent / "data.json"
    about: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return tuple(about.get("class_names", ())) or tuple(str(number) for number in range(classes))


def start_from(classifier: keras.Model, path: str | pathlib.Path) -> None:
    """Copies the weights of a saved classifier into another of the same network, all but those of the last layer.

    Args:
        classifier: made by `sfocus_tf.backbones.create`; changed in place.
        path: a `.keras` file, or a workdir of `train.py`, whose `last.keras` is taken.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no Keras model, or of another network.
    """
    try:
        saved = load(path).classifier
    except ValueError as error:
        raise ValueError(f"config.{str(error).replace('MODEL=', 'weights=', 1)}") from error
    theirs, ours = ([layer for layer in network.layers[:-1] if layer.weights] for network in (saved, classifier))
    shapes = [[[weight.shape for weight in layer.weights] for layer in network] for network in (theirs, ours)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"config.weights={str(path)!r} is another network than {classifier.name}: their layers' weights differ in "
            f"number or shape ({len(theirs)} layers there, {len(ours)} here). Expected the same one, for any classes."
        )
    for there, here in zip(theirs, ours, strict=True):
        here.set_weights(there.get_weights())


def model_file(path: str | pathlib.Path, argument: str = "MODEL") -> pathlib.Path:
    """The file of a model given by itself or by its workdir, or a `FileNotFoundError` that names the argument."""
    file = pathlib.Path(path).expanduser()
    if file.is_dir():
        file = file / "last.keras"
    if not file.is_file():
        raise FileNotFoundError(
            f"{argument}={str(path)!r}: {file} does not exist. Expected a .keras file, or a workdir of train.py."
        )
    return file
