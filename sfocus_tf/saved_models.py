"""Loads saved Keras classifiers, wrapped for explanation and evaluation."""

import dataclasses
import json
import pathlib
import zipfile
import zlib
from typing import Any

import keras

from sfocus_tf import backbones
from sfocus_tf.classifier import checks, graph
from sfocus_tf.model import SharpenFocus

# In files that `train.py` wrote: the position of the run.
POSITION = "position.json"
# How texts name the methods of `train.py`.
METHOD_NAMES = {"cross_entropy": "cross-entropy", "icasc": "ICASC"}


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A saved classifier, with the config and class names that `train.py` wrote next to it.

    Attributes:
        path: as the user gave it.
        argument: name of the argument that gave it, for error messages.
        file: the `.keras` file.
        config: config of the run that trained it; empty if `train.py` did not.
        class_names: classes of its training data; empty if unknown.
    """

    path: str
    argument: str
    file: pathlib.Path
    config: dict[str, Any]
    class_names: tuple[str, ...]

    def load(self, preprocessing: str = "none", multi_label: bool | None = None) -> SharpenFocus:
        """Loads the classifier, wrapped in `SharpenFocus` even if it was trained without.

        Args:
            preprocessing: preprocessing of pixels in [0, 255] to add before the classifier, one of
                `sfocus_tf.backbones.PREPROCESSING`. Those from `train.py` already include theirs.
            multi_label: whether images may have several classes; by default as in training, or for a plain Keras
                classifier whether it ends in a sigmoid.

        Returns:
            The model, which maps images with pixels in [0, 255] to logits.

        Raises:
            ValueError: not a Keras model; a network that cannot be wrapped: subclassed, with several inputs, with fewer
                than two classes, or not for colour images; or preprocessing for a run of `train.py`.
        """
        if preprocessing != "none" and (self.config or _is_of_training(self.file)):
            raise ValueError(
                f"--preprocessing={preprocessing}: {self.path} is from train.py, whose networks have theirs inside."
            )
        what = f"{self.argument}={self.path!r}"
        try:
            wrapped = _wrapped(self._read(), multi_label)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{what}: {error}") from error
        if multi_label not in (None, wrapped.multi_label):
            raise ValueError(f"{what} was trained with multi_label={wrapped.multi_label}, not {multi_label}.")
        channels = wrapped.classifier.input_shape[-1]
        if channels != 3:
            raise ValueError(f"{what} takes {channels} channel(s): expected 3, in colour.")
        return wrapped if preprocessing == "none" else _preprocessed(wrapped, preprocessing)

    def copy_weights(self, classifier: keras.Model) -> None:
        """Copies the weights into a classifier of the same network, except those of the last layer.

        Args:
            classifier: made by `sfocus_tf.backbones.create`; changed in place.

        Raises:
            ValueError: not a Keras model, or another network.
        """
        saved = self._read()
        saved = saved.classifier if isinstance(saved, SharpenFocus) else saved
        theirs, ours = ([layer for layer in model.layers if layer.weights][:-1] for model in (saved, classifier))
        shapes = [[[weight.shape for weight in layer.weights] for layer in layers] for layers in (theirs, ours)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{self.argument}={self.path!r} is another network than {classifier.name}: their layers' weights "
                f"differ in number or shape ({len(theirs)} layers there, {len(ours)} here). Expected the same one, for "
                "any classes."
            )
        for source, target in zip(theirs, ours, strict=True):
            target.set_weights(source.get_weights())

    def _read(self) -> keras.Model:
        """The model as Keras loads it; a `ValueError` where it cannot."""
        what = f"{self.argument}={self.path!r}"
        _refuse_damaged(what, self.file)
        try:
            return keras.models.load_model(self.file, compile=False)
        except Exception as error:  # Keras lets errors from zip, JSON, HDF5 and the layers through
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise ValueError(f"{what} cannot be loaded as a Keras model: {reason}") from error


def find(path: str | pathlib.Path, argument: str = "MODEL") -> SavedModel:
    """Finds a saved classifier by its file or its workdir.

    Args:
        path: a `.keras` file, or a workdir of `train.py`, whose `last.keras` is taken.
        argument: name of the argument, for error messages.

    Raises:
        FileNotFoundError: no such file, or a folder without `last.keras`, such as one of several runs.
        ValueError: a damaged `config.json` or `data.json` beside it.
    """
    file = pathlib.Path(path).expanduser()
    if file.is_dir():
        file = file / "last.keras"
    runs = [each.parent for each in sorted(pathlib.Path(path).expanduser().glob("*/last.keras"))]
    if not file.is_file() and runs:
        names = " or ".join(map(str, runs))
        raise FileNotFoundError(f"{argument}={str(path)!r} is a folder of runs. Expected one of them: {names}.")
    if not file.is_file():
        raise FileNotFoundError(
            f"{argument}={str(path)!r}: {file} does not exist. Expected a .keras file, or a workdir of train.py."
        )
    config, about = _json(file.parent / "config.json", "method"), _json(file.parent / "data.json", "class_names")
    names = about.get("class_names", [])
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError(f"{file.parent / 'data.json'}: class_names={names!r}: expected a list of names.")
    return SavedModel(str(path), argument, file, config, tuple(names))


def _json(file: pathlib.Path, key: str) -> dict[str, Any]:
    """What train.py wrote to a file; empty if there is none, or another program's, without this key."""
    try:
        found = json.loads(file.read_text()) if file.is_file() else {}
    except ValueError as error:  # of JSON or of the encoding
        raise ValueError(f"{file} cannot be read ({error}). Restore it, or remove it.") from error
    return found if isinstance(found, dict) and key in found else {}


def _is_of_training(file: pathlib.Path) -> bool:
    """Whether `train.py` wrote a file, which tells even where its `config.json` is gone."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return POSITION in archive.namelist()


def _refuse_damaged(model: str, file: pathlib.Path) -> None:
    """Raises a `ValueError` for a damaged `.keras` archive, which Keras reports unclearly or not at all."""
    if file.suffix != ".keras":
        return
    what = f"{model} cannot be loaded as a Keras model"
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{what}: it is no zip archive, as .keras files are; it is cut off or another kind of file.")
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
    """Wraps a loaded model, keeping the settings of a `SharpenFocus` that it is or contains."""
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


def _preprocessed(model: SharpenFocus, preprocessing: str) -> SharpenFocus:
    """Adds preprocessing before the model's classifier."""
    inputs = keras.Input(model.classifier.input_shape[1:], name="image")
    outputs = model.classifier(backbones.preprocess(preprocessing, inputs))
    return model.around(keras.Model(inputs, outputs))
