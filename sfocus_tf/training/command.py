"""The command behind `train.py` and `sfocus-train`: flags, config, one call of `run`."""

import contextlib
import importlib.util
import inspect
import logging
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import ml_collections
from absl import flags
from ml_collections import config_flags

import sfocus_tf.configs
from sfocus_tf import startup
from sfocus_tf.configs import common
from sfocus_tf.errors import unknown
from sfocus_tf.training import interruption
from sfocus_tf.training.both import run_both
from sfocus_tf.training.config import BOTH
from sfocus_tf.training.results import table
from sfocus_tf.training.run import run

_HELP = """Trains an image classifier with attention supervision (ICASC), with
cross-entropy alone, or both in turn.

  {0}
      generated images, no data needed: a comparison in a few minutes
  {0} --dataset=folder:photos --data_dir=<folder>
      your own photos, <class>/*.jpg or {{train,test}}/<class>/*.jpg
  {0} --dataset=voc2012 --data_dir=<folder>
      the recipe in configs/voc2012.py
  {0} --dataset=voc2012:tiny --data_dir=<folder>
      any recipe in a minute, to check that it runs
  {0} --method=icasc
      attention supervision; cross_entropy: the baseline; both: one after the
      other, and a comparison
  {0} --config.optimizer.learning_rate=0.01
      any setting of configs/common.py
  {0} --strategy=mirrored --devices=GPU:0,GPU:1
      several GPUs; several machines: docs/scaling.md
  {0} --config=my_config.py
      a config of your own

Results, checkpoints and attention.png go to --workdir. The same command resumes
an interrupted run. Flags that are not set keep the value in the config. Exit
codes: 0 finished; 1 error, with a message; 75 stopped by SIGTERM or Ctrl-C and
saved, can be resumed; 69 another worker was lost, see its output.
"""
_CONFIGS = pathlib.Path(sfocus_tf.configs.__path__[0])
# Flags that set the key of the same name in the config.
_SHORTCUTS = (
    "method", "data_dir", "seed", "epochs", "batch_size", "image_size", "backbone", "skip_corrupt", "deterministic",
    "strategy", "devices",
)  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Trains as the command line says, and prints the results.

    Args:
        argv: program and arguments; those of the process by default.

    Raises:
        SystemExit: after an early end; see the help for the codes.
    """
    argv = sys.argv if argv is None else argv
    program = "sfocus-train" if pathlib.Path(argv[0]).name == "sfocus-train" else "python train.py"
    logging.getLogger("tensorflow").setLevel(logging.WARNING)  # strategies log every reduction
    try:
        if any(argument in ("--help", "-help", "-h", "--helpfull", "-?") for argument in argv[1:]):
            shown = _flags(None, []).module_help(__name__).strip().partition("\n")[2]
            print(_HELP.format(program), shown, sep="\n")
            return
        config, workdir = parsed(argv)
        startup.find_gpus()
        text = run_both(config, workdir) if config.method == BOTH else _one(config, workdir)
    except interruption.StoppedError as error:
        _leave(f"{error}. Run the same command again to resume.", interruption.INTERRUPTED)
    except KeyboardInterrupt:
        _leave("stopped by Ctrl-C. Run the same command again to resume.", interruption.INTERRUPTED)
    except interruption.WorkerLostError as error:
        _leave(
            f"{error}\nUnless it failed with an error of its own, run the same command again to resume.",
            interruption.WORKER_LOST,
        )
    except (ValueError, OSError, ImportError, FloatingPointError, flags.Error) as error:
        _leave(str(error), 1)
    if text is not None:
        print(f"\n{text}", flush=True)


def _one(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> str | None:
    """Runs one method; a text about the results, `None` for a worker that is not the chief."""
    results = run(config, workdir)
    return None if results is None else f"{table(results)}\n\nresults, checkpoints and attention.png: {workdir}"


def parsed(argv: list[str]) -> tuple[ml_collections.ConfigDict, pathlib.Path]:
    """The config and the workdir that a command line selects.

    Args:
        argv: program and arguments.

    Raises:
        ValueError: an unknown dataset, variant or setting, or arguments that are not flags.
        FileNotFoundError: no such config file.
        absl.flags.Error: an unknown flag, or a value of the wrong type.
    """
    own, dataset = _value(argv, "config"), _value(argv, "dataset") or "scenes"
    config = _config(own, dataset)
    recipe = config.copy_and_resolve_references()
    if own:
        argv = [argument for argument in _joined(argv) if not argument.lstrip("-").startswith("config=")]
    try:
        values = _flags(config, argv)
        rest = values(argv)[1:]
    except (KeyError, AttributeError) as error:
        text = error
        while isinstance(text, Exception) and text.args:  # unwrap nested errors
            text = text.args[0]
        raise ValueError(f"no such setting (configs/common.py has them all): {text}") from error
    except flags.UnrecognizedFlagError as error:
        raise ValueError(f"{error}{_setting_meant(config, error.flagname)}") from error
    if rest:
        raise ValueError(f"unexpected arguments: {' '.join(rest)}. Write flags as --name=value.")
    config = values.config
    if values["dataset"].present:
        config.dataset, _ = _dataset_and_variant(values.dataset)
    for name in _SHORTCUTS:
        value = values[name].value
        if value is not None:
            _refuse_contradiction(argv, name, name, value)
            config[name] = tuple(value) if isinstance(value, list) else value
    if _value(argv, "config.test_image_size") is None:
        config.test_image_size = _in_proportion(recipe.test_image_size, recipe.image_size, config.image_size)
    if values.objective is not None:
        _refuse_contradiction(argv, "objective", "objective.name", values.objective)
        config.objective.name = values.objective
    name = values.dataset if values["dataset"].present else config.dataset
    default = f"runs/{name.replace(':', '-')}-{config.method}-{config.seed}"
    return config, pathlib.Path(values.workdir or default)


def _refuse_contradiction(argv: list[str], name: str, key: str, value: Any) -> None:
    """Raises a `ValueError` if a flag and the setting that it stands for are both set, to different values."""
    given, setting = ",".join(value) if isinstance(value, list) else str(value), _value(argv, f"config.{key}")
    if setting is not None and setting.lower() != given.lower():
        raise ValueError(f"--{name}={given} contradicts --config.{key}={setting}. Set one of them.")


def _setting_meant(config: ml_collections.ConfigDict, name: str) -> str:
    """A hint for a flag that is a setting of the config."""
    for prefix, settings in (("", config), ("optimizer.", config.optimizer), ("objective.", config.objective)):
        if name in settings:
            return f" Did you mean --config.{prefix}{name}?"
    return ""


def _in_proportion(test_size: int | None, recipe_size: int | None, size: int | None) -> int | None:
    """A recipe's test size for another image size, in multiples of 8 pixels."""
    if not (test_size and recipe_size and size) or size == recipe_size:
        return test_size
    return max(8 * round(size * test_size / recipe_size / 8), 8)


def _flags(config: ml_collections.ConfigDict | None, argv: list[str]) -> flags.FlagValues:
    """The flags; those in `argv` as `--config.key=value` change the config, if there is one."""
    values = flags.FlagValues()

    def text(name: str, help_: str, default: str | None = None) -> None:
        flags.DEFINE_string(name, default, help_, flag_values=values)

    help_of_config = "File with get_config(); default: configs/<dataset>.py. --config.key=value changes a key."
    if config is None:
        text("config", help_of_config)
    else:
        config_flags.DEFINE_config_dict("config", config, help_of_config, flag_values=values, sys_argv=argv)
    text("dataset", "A config in configs/, <config>:<variant> (every config has :tiny), or tfds:<name>.", "scenes")
    text("workdir", "Folder for the results; default: runs/<dataset>-<method>-<seed>.")
    text("method", "icasc (attention supervision), cross_entropy (the baseline), or both, which are compared.")
    text("objective", "Attention losses: default, light or paper (--config.objective.name).")
    text("data_dir", "Folder of the dataset.")
    text("backbone", "Network, e.g. resnet20, efficientnet_lite0 or ResNet50.")
    text("strategy", "auto, one (device), mirrored (GPUs), multi_worker or tpu.")
    devices = "E.g. GPU:0,GPU:1; CPU:0,CPU:1 tries replicas without GPUs; default: all."
    flags.DEFINE_list("devices", None, devices, flag_values=values)
    for name, help_ in (
        ("seed", "Seed of the initial weights, data order and augmentation."),
        ("epochs", "Passes over the training images."),
        ("batch_size", "Images per step, over all devices."),
        ("image_size", "Height and width in pixels; the recipe's test size changes in proportion."),
    ):
        flags.DEFINE_integer(name, None, help_, flag_values=values)
    for name, help_ in (
        ("skip_corrupt", "Skip images that cannot be decoded, instead of stopping."),
        ("deterministic", "Bit-identical runs; slower on GPUs."),
    ):
        flags.DEFINE_bool(name, None, help_, flag_values=values)
    return values


def _config(own: str | None, dataset: str) -> ml_collections.ConfigDict:
    """The config in a file `own`, or the one that `--dataset` selects."""
    name, variant = _dataset_and_variant(dataset)
    if own:
        if variant:
            raise ValueError(f"dataset={dataset!r}: with --config, name the variant there: --config=FILE:VARIANT.")
        file, _, variant = own.partition(":")
        path = pathlib.Path(file).expanduser()
    else:
        known = sorted(path.stem for path in _CONFIGS.glob("*.py") if path.stem not in ("__init__", "common"))
        stem = "common" if name.startswith("tfds:") else name
        if stem not in [*known, "common"]:
            raise unknown("dataset", dataset, [*known, "tfds:<name>"])
        path = _CONFIGS / f"{stem}.py"
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"config={str(path)!r} {problem}. Expected a Python file with get_config().")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    with _beside(path):
        spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"config={str(path)!r} has no function get_config().")
    return _complete(path, module.get_config, [variant] if variant else [])


def _complete(path: pathlib.Path, get_config: Any, variant: list[str]) -> ml_collections.ConfigDict:
    """What `get_config` of a file returns, with every setting."""
    try:
        inspect.signature(get_config).bind(*variant)
    except TypeError as error:
        raise ValueError(f"config={str(path)!r}: get_config() does not take variant={variant} ({error}).") from error
    config = get_config(*variant)
    if not isinstance(config, ml_collections.ConfigDict):
        raise ValueError(
            f"config={str(path)!r}: expected get_config() to return a ConfigDict, got {type(config).__name__}."
        )
    missing = [key for key in _keys(common.get_config()) if key not in _keys(config)]
    if missing:
        raise ValueError(
            f"config={str(path)!r}: get_config() lacks {', '.join(missing)}. Begin with common.get_config() "
            "(from sfocus_tf.configs import common)."
        )
    return config


def _keys(config: ml_collections.ConfigDict) -> list[str]:
    """The names of all settings, such as "optimizer.name"."""
    nested = {key: value for key, value in config.items() if isinstance(value, ml_collections.ConfigDict)}
    return [*config, *(f"{key}.{name}" for key, value in nested.items() for name in _keys(value))]


@contextlib.contextmanager
def _beside(path: pathlib.Path) -> Iterator[None]:
    """Lets a config file import modules beside it."""
    sys.path.insert(0, str(path.resolve().parent))
    try:
        yield
    finally:
        sys.path.remove(str(path.resolve().parent))


def _joined(argv: list[str]) -> list[str]:
    """The arguments with `--config FILE` written as `--config=FILE`."""
    joined: list[str] = []
    for argument in argv:
        if joined and joined[-1] in ("--config", "-config"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _value(argv: list[str], flag: str) -> Any:
    """The value of a flag that decides which others there are; `None` if it is not set."""
    found = None
    for position, argument in enumerate(argv[1:], 1):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == flag:
            found = value if equals else "".join(argv[position + 1 : position + 2])
    return found


def _dataset_and_variant(name: str) -> tuple[str, str]:
    """Splits `cub200:tiny` into `cub200` and `tiny`; a TFDS name keeps its colon."""
    if name.startswith("tfds:"):
        return name, ""
    dataset, _, variant = name.partition(":")
    return dataset, variant


def _leave(message: str, code: int) -> NoReturn:
    """Exits with a message; with several workers at once, as threads may still wait for a lost worker."""
    print(f"train.py: {message}", file=sys.stderr, flush=True)
    if "TF_CONFIG" in os.environ:
        os._exit(code)
    sys.exit(code)
