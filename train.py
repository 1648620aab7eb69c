"""Trains an image classifier with attention supervision (ICASC), or with cross-entropy alone.

  python train.py                                              generated images, no data needed, a few minutes
  python train.py --dataset=voc2012 --data_dir=<folder>        the recipe in configs/voc2012.py
  python train.py --dataset=folder --data_dir=<folder>         your own images: {train,test}/<class>/*.jpg
  python train.py --dataset=voc2012:tiny --data_dir=<folder>   any recipe in a minute, to check that it runs
  python train.py --method=cross_entropy                       the baseline, without attention supervision
  python train.py --config.optimizer.learning_rate=0.01        any setting of configs/common.py
  python train.py --strategy=mirrored --devices=GPU:0,GPU:1    several GPUs; several machines: docs/scaling.md
  python train.py --config=my_config.py                        a config of your own

Results, checkpoints and attention.png go to --workdir. Run the same command again to resume an interrupted run.
Flags that are not set keep the value in the config. Exit codes: 0 finished; 1 error, with a message; 75 stopped by
SIGTERM after saving, can be resumed; 69 another worker was lost, see its output.
"""

import importlib
import logging
import os
import pathlib
import sys
from typing import NoReturn

from absl import app, flags
from ml_collections import config_flags

_ROOT = pathlib.Path(__file__).parent
_CONFIG = config_flags.DEFINE_config_file("config", None, "File with get_config(); default: configs/<dataset>.py.")
_DATASET = flags.DEFINE_string(
    "dataset", "scenes", "Dataset: a config in configs/, <config>:<variant> (every config has :tiny), or tfds:<name>."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the results; default: runs/<dataset>-<method>-<seed>.")
_METHOD = flags.DEFINE_string("method", None, "icasc (attention supervision) or cross_entropy (the baseline).")
_OBJECTIVE = flags.DEFINE_string(
    "objective", None, "Attention losses: default, light or paper (--config.objective.name)."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the dataset.")
_SEED = flags.DEFINE_integer("seed", None, "Seed of the initial weights, data order and augmentation.")
_EPOCHS = flags.DEFINE_integer("epochs", None, "Passes over the training images.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images per step, over all devices.")
_BACKBONE = flags.DEFINE_string("backbone", None, "Network, e.g. resnet20, efficientnet_lite0 or ResNet50.")
_SKIP_CORRUPT = flags.DEFINE_bool("skip_corrupt", None, "Skip images that cannot be decoded, instead of stopping.")
_DETERMINISTIC = flags.DEFINE_bool("deterministic", None, "Bit-identical runs; slower on GPUs.")
_STRATEGY = flags.DEFINE_string("strategy", None, "auto, one (device), mirrored (GPUs), multi_worker or tpu.")
_DEVICES = flags.DEFINE_list(
    "devices", None, "E.g. GPU:0,GPU:1; CPU:0,CPU:1 tries replicas without GPUs; default: all."
)
_SHORTCUTS = (
    _METHOD, _DATA_DIR, _SEED, _EPOCHS, _BATCH_SIZE, _BACKBONE, _SKIP_CORRUPT, _DETERMINISTIC, _STRATEGY, _DEVICES
)  # fmt: skip


def _dataset_and_variant(name: str) -> tuple[str, str]:
    """Splits `cub200:tiny` into `cub200` and `tiny`; a TFDS name keeps its colon."""
    if name.startswith("tfds:"):
        return name, ""
    dataset, _, variant = name.partition(":")
    return dataset, variant


def with_config(argv: list[str]) -> list[str]:
    """Adds the `--config` that `--dataset` selects to a command line that has none.

    Raises:
        ValueError: the config or variant is unknown.
    """
    name = "scenes"
    for position, argument in enumerate(argv):
        flag, _, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and flag == "dataset":
            name = value or (argv[position + 1] if position + 1 < len(argv) else "")
    dataset, variant = _dataset_and_variant(name)
    if any(argument.lstrip("-").split("=")[0] == "config" for argument in argv[1:]):
        if variant:
            raise ValueError(f"dataset={name!r}: with --config, name the variant there: --config=FILE:VARIANT.")
        return argv
    known = sorted(path.stem for path in (_ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "common"))
    file = "common" if dataset.startswith("tfds:") else dataset
    if file not in [*known, "common"]:
        from sfocus_tf.errors import unknown  # late: importing the package takes seconds

        raise unknown("dataset", name, [*known, "tfds:<name>"])
    if variant:
        # Fails on an unknown variant now: absl would bury the message in a traceback.
        importlib.import_module(f"configs.{file}").get_config(variant)
    return [argv[0], f"--config={_ROOT / 'configs' / file}.py:{variant}".rstrip(":"), *argv[1:]]


def main(argv: list[str]) -> None:
    """Trains and prints the results."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}. Write flags as --name=value.")
    config = _CONFIG.value
    name = config.dataset
    if flags.FLAGS["dataset"].present:
        name = _DATASET.value
        config.dataset, _ = _dataset_and_variant(name)
    for flag in _SHORTCUTS:
        if flag.value is not None:
            config[flag.name] = tuple(flag.value) if isinstance(flag.value, list) else flag.value
    if _OBJECTIVE.value is not None:
        config.objective.name = _OBJECTIVE.value
    # Imported only once the flags are valid: it takes seconds.
    from sfocus_tf import training

    logging.getLogger("tensorflow").setLevel(logging.WARNING)  # strategies log every reduction
    workdir = pathlib.Path(_WORKDIR.value or f"runs/{name.replace(':', '-')}-{config.method}-{config.seed}")
    try:
        results = training.run(config, workdir)
    except training.StoppedError as error:
        _leave(f"{error}. Run the same command again to resume.", training.INTERRUPTED)
    except training.WorkerLostError as error:
        _leave(
            f"{error}\nUnless it failed with an error of its own, run the same command again to resume.",
            training.WORKER_LOST,
        )
    if results is not None:
        print(f"\n{training.table(results)}\n\nresults, checkpoints and attention.png: {workdir}", flush=True)


def _leave(message: str, code: int) -> NoReturn:
    """Exits with a message; with several workers at once, as threads may still wait for a lost worker."""
    print(f"train.py: {message}", file=sys.stderr, flush=True)
    if "TF_CONFIG" in os.environ:
        os._exit(code)
    sys.exit(code)


def _parsed(argv: list[str]) -> list[str]:
    """Parses the flags and returns the other arguments; an unknown setting raises a `ValueError`."""
    try:
        return app.parse_flags_with_usage(argv)
    except (KeyError, AttributeError) as error:
        text = error
        while isinstance(text, Exception) and text.args:  # unwrap nested errors
            text = text.args[0]
        raise ValueError(f"no such setting (configs/common.py has them all): {text}") from error


def cli() -> None:
    """Runs `main`; errors that a user can fix are shown without a traceback."""
    sys.path.insert(0, str(_ROOT))
    try:
        app.run(main, argv=with_config(sys.argv), flags_parser=_parsed)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        _leave(str(error), 1)


if __name__ == "__main__":
    cli()
