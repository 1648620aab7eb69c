"""Every setting, with what it means. The other configs change a few of these."""

import dataclasses
from collections.abc import Callable

import ml_collections
from ml_collections import config_dict

from sfocus_tf.errors import unknown
from sfocus_tf.losses import Objective, Term


def get_config() -> ml_collections.ConfigDict:
    """The settings that the other configs start from."""
    config = ml_collections.ConfigDict()
    config.dataset = "scenes"  # a name of sfocus_tf.data.names(), or tfds:<name>
    config.data_dir = config_dict.placeholder(str)  # where the data are; scenes needs none
    config.method = "icasc"  # icasc, or cross_entropy: the same without the attention terms
    config.seed = 0  # of initial weights, data order and augmentation
    config.deterministic = False  # the same bits in each run, at some cost of speed on GPUs
    config.precision = "float32"  # float32, mixed_float16 or mixed_bfloat16
    config.jit_compile = False  # compile the training step with XLA
    # auto, one, mirrored (several GPUs), multi_worker (TF_CONFIG or Slurm) or tpu; see docs/scaling.md
    config.strategy = "auto"
    config.devices = ()  # such as GPU:0,GPU:1; all by default. CPU:0,CPU:1 to try several replicas without GPUs
    config.synchronized = False  # BatchNormalization over the pictures of all replicas, instead of each one's own

    config.epochs = 10
    config.batch_size = 128  # pictures a step, of all replicas together
    config.image_size = config_dict.placeholder(int)  # height and width in pixels; the data set's usual by default
    config.augmentation = config_dict.placeholder(str)  # none, flip, pad_crop_flip, random_resized_crop; as usual
    # Share of the shorter side that the central window takes in evaluation; the whole picture, stretched, by default.
    config.center_crop = config_dict.placeholder(float)
    config.validation_fraction = 0.1  # share of the training pictures held out to choose the best checkpoint
    config.attention_images_every = 5  # epochs between figures of attention in TensorBoard; 0 for none
    config.examples = config_dict.placeholder(int)  # pictures of each split to use, at most; all by default
    config.check_pictures = True  # decode every picture file once before training, to find corrupt ones
    config.skip_corrupt = False  # leave pictures that cannot be decoded out, instead of stopping

    config.backbone = "resnet20"  # a name of sfocus_tf.backbones.names()
    # imagenet; a .keras file or workdir to take all but the last layer from; or none for random ones, the default
    config.weights = config_dict.placeholder(str)
    config.dropout = 0.0  # rate before the last layer
    config.inner_layer = config_dict.placeholder(str)  # attention layers by name; found by themselves by default
    config.last_layer = config_dict.placeholder(str)

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "sgd"  # sgd or adamw
    config.optimizer.learning_rate = 0.1
    # The batch size that learning_rate is meant for, to scale it linearly to another one; as it is by default
    config.optimizer.rate_for_batch = config_dict.placeholder(int)
    config.optimizer.schedule = "cosine"  # cosine to 0; step: a tenth at each of `drops`; constant
    config.optimizer.drops = (0.5, 0.75)  # step only: shares of the run; those of CIFAR by default (He et al. 2016)
    config.optimizer.warmup_epochs = 0.0  # epochs in which the rate grows from 0 (cosine only)
    config.optimizer.momentum = 0.9  # sgd only
    config.optimizer.nesterov = False  # sgd only
    # Decoupled, as in Keras: w -= rate * weight_decay * w. With momentum 0.9 it takes ten times the value of an L2 term
    # in the loss to shrink weights as fast. Biases and normalisation are left out.
    config.optimizer.weight_decay = 1e-3
    # Largest norm of the whole gradient; 0 for none. For the attention terms' sake, and for cross-entropy alike.
    config.optimizer.clip_norm = 5.0

    # The attention losses; what is not set here is as the named objective has it. See sfocus_tf.Objective.
    config.objective = ml_collections.ConfigDict()
    config.objective.name = "default"  # default, light, or paper for the paper's equations as they stand
    for field in dataclasses.fields(Objective):
        if field.name in ("inner", "last", "consistency"):  # each with weight, warmup, ramp and every_steps
            config.objective[field.name] = ml_collections.ConfigDict()
            for part in dataclasses.fields(Term):
                config.objective[field.name][part.name] = config_dict.placeholder(type(part.default))
        elif field.name != "steps":  # as the data and epochs have it
            config.objective[field.name] = config_dict.placeholder(type(field.default))
    return config.lock()


def fine_tune(config: ml_collections.ConfigDict) -> None:
    """EfficientNet-Lite0 from ImageNet weights, all layers trained, by the recipe for a few hundred photos and more."""
    config.image_size = 160
    config.backbone = "efficientnet_lite0"
    config.weights = "imagenet"
    config.batch_size = 32
    config.dropout = 0.2
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.weight_decay = 1e-2


def varied(
    config: ml_collections.ConfigDict, variant: str, **others: Callable[[ml_collections.ConfigDict], None]
) -> ml_collections.ConfigDict:
    """A config with one of its variants applied, as in `--dataset=cub200:tiny`.

    Args:
        config: changed in place.
        variant: "" for the config as it is; "tiny", which every config has; or one of `others`.
        others: what changes the config, by name.

    Raises:
        ValueError: no such variant.
    """
    known = {"": lambda config: None, "tiny": _tiny, **others}
    if variant not in known:
        raise unknown(f"variant of {config.dataset}", variant, [name for name in known if name])
    known[variant](config)
    return config


def _tiny(config: ml_collections.ConfigDict) -> None:
    """A minute on a CPU, to see that a command and its data work: a small network, few small pictures, one epoch."""
    config.backbone = "resnet8"
    config.weights = None
    config.image_size = 32
    config.examples = 128
    config.validation_fraction = 0.25
    config.batch_size = 32
    config.epochs = 1
    config.optimizer.warmup_epochs = 0.0
