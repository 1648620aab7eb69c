"""Trains an image classifier with attention supervision (ICASC), or with cross-entropy alone.

  python train.py                                              generated images, a few minutes
  python train.py --dataset=voc2012 --data_dir=<folder>        the recipe in configs/voc2012.py
  python train.py --dataset=folder --data_dir=<folder>         class folders of your own
  python train.py --dataset=voc2012:tiny --data_dir=<folder>   any recipe in a minute, to see that all is in place
  python train.py --method=cross_entropy                       the same without attention supervision
  python train.py --config.optimizer.learning_rate=0.01        any setting of configs/common.py
  python train.py --strategy=mirrored --devices=GPU:0,GPU:1    several devices; docs/scaling.md has machines
  python train.py --config=my_config.py                        a config of your own

Run the same command again after an interruption, and it goes on where it stopped. Exit codes: 0 finished; 1 an error,
with a message; 75 stopped by SIGTERM and saved, the same command goes on; 69 another worker is gone, whose output says
why.
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
_CONFIG = config_flags.DEFINE_config_file("config", None, "A file with get_config(); configs/<dataset>.py by default.")
_DATASET = flags.DEFINE_string(
    "dataset", "scenes", "Data set; picks configs/<dataset>.py, and with <dataset>:<variant> a variant of it."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where results go; runs/<dataset>-<method>-<seed> by default.")
_METHOD = flags.DEFINE_string("method", None, "icasc or cross_entropy.")
_OBJECTIVE = flags.DEFINE_string("objective", None, "default, light or paper; --config.objective.name.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data are.")
_SEED = flags.DEFINE_integer("seed", None, "Of initial weights, data order and augmentation.")
_EPOCHS = flags.DEFINE_integer("epochs", None, "Passes over the training images.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images a step.")
_BACKBONE = flags.DEFINE_string("backbone", None, "Network, such as resnet20, efficientnet_lite0 or ResNet50.")
_SKIP_CORRUPT = flags.DEFINE_bool("skip_corrupt", None, "Leave images that cannot be decoded out.")
_DETERMINISTIC = flags.DEFINE_bool("deterministic", None, "The same bits in each run.")
_STRATEGY = flags.DEFINE_string("strategy", None, "auto, one, mirrored, multi_worker or tpu.")
_DEVICES = flags.DEFINE_list("devices", None, "Such as GPU:0,GPU:1; CPU:0,CPU:1 to try several replicas without GPUs.")
_SHORTCUTS = (
    _METHOD, _DATA_DIR, _SEED, _EPOCHS, _BATCH_SIZE, _BACKBONE, _SKIP_CORRUPT, _DETERMINISTIC, _STRATEGY, _DEVICES
)  # fmt: skip


def _dataset_and_variant(name: str) -> tuple[str, str]:
    """`cub200:tiny` -> `cub200` and `tiny`; the names of TFDS keep their colon."""
    if name.startswith("tfds:"):
        return name, ""
    dataset, _, variant = name.partition(":")
    return dataset, variant


def with_config(argv: list[str]) -> list[str]:
    """The command line with the config file that `--dataset` picks, unless it names one itself.

    Raises:
        ValueError: there is no config or variant of that name.
    """
    name = "scenes"
    for position, argument in enumerate(argv):
        flag, _, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and flag == "dataset":
            name = value or (argv[position + 1] if position + 1 < len(argv) else "")
    dataset, variant = _dataset_and_variant(name)
    if any(argument.lstrip("-").split("=")[0] == "config" for argument in argv[1:]):
        if variant:
            raise ValueError(f"dataset={name!r}: with --config, the variant is named there, as --config=FILE:VARIANT.")
        return argv
    known = sorted(path.stem for path in (_ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "common"))
    file = "common" if dataset.startswith("tfds:") else dataset
    if file not in [*known, "common"]:
        from sfocus_tf.errors import unknown  # here, as importing the package takes seconds

        raise unknown("dataset", name, [*known, "tfds:<name>"])
    if variant:
        # An unknown one is told here: absl would bury the message in a traceback.
        importlib.import_module(f"configs.{file}").get_config(variant)
    return [argv[0], f"--config={_ROOT / 'configs' / file}.py:{variant}".rstrip(":"), *argv[1:]]


def main(argv: list[str]) -> None:
    """Trains, and prints the results."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}. Flags are written as --name=value.")
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
    # Here, as it takes seconds: first the flags shall be known to be right.
    from sfocus_tf import training

    logging.getLogger("tensorflow").setLevel(logging.WARNING)  # strategies tell of every reduction
    workdir = pathlib.Path(_WORKDIR.value or f"runs/{name.replace(':', '-')}-{config.method}-{config.seed}")
    try:
        found = training.run(config, workdir)
    except training.StoppedError as error:
        _leave(f"{error}. The same command goes on.", training.INTERRUPTED)
    except training.WorkerLostError as error:
        _leave(
            f"{error}\nIf it was not stopped by an error of its own, the same command goes on.", training.WORKER_LOST
        )
    if found is not None:
        print(f"\n{training.table(found)}\n\nresults, checkpoints and attention.png: {workdir}", flush=True)


def _leave(message: str, code: int) -> NoReturn:
    """Ends with a message; of several workers, without waiting for threads that may wait for one that is gone."""
    print(f"train.py: {message}", file=sys.stderr, flush=True)
    if "TF_CONFIG" in os.environ:
        os._exit(code)
    sys.exit(code)


def _parsed(argv: list[str]) -> list[str]:
    """What is left of a command line without its flags; one that names no setting is an error a user can mend."""
    try:
        return app.parse_flags_with_usage(argv)
    except (KeyError, AttributeError) as error:
        text = error
        while isinstance(text, Exception) and text.args:  # one inside another
            text = text.args[0]
        raise ValueError(f"no such setting (configs/common.py has them all): {text}") from error


def cli() -> None:
    """Runs `main`; what a user can mend is shown as one message, without a traceback."""
    sys.path.insert(0, str(_ROOT))
    try:
        app.run(main, argv=with_config(sys.argv), flags_parser=_parsed)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        _leave(str(error), 1)


if __name__ == "__main__":
    cli()
