"""All settings with their meaning. The other configs override a few of them."""

import dataclasses
from collections.abc import Callable

import ml_collections
from ml_collections import config_dict

from sfocus_tf.errors import unknown
from sfocus_tf.losses import Objective, Term


def get_config() -> ml_collections.ConfigDict:
    """The default settings, which the other configs start from."""
    config = ml_collections.ConfigDict()
    config.dataset = "scenes"  # a name of sfocus_tf.data.names(), or tfds:<name>
    config.data_dir = config_dict.placeholder(str)  # folder of the data; scenes needs none
    config.method = "icasc"  # icasc; cross_entropy, the same without the attention losses; or both, compared
    config.seed = 0  # seed of initial weights, data order and augmentation
    config.deterministic = False  # bit-identical runs; slower on GPUs
    config.precision = "float32"  # float32, mixed_float16 or mixed_bfloat16
    config.jit_compile = False  # compile the training step with XLA
    # auto, one, mirrored (several GPUs), multi_worker (TF_CONFIG or Slurm) or tpu; see docs/scaling.md
    config.strategy = "auto"
    config.devices = ()  # e.g. GPU:0,GPU:1; all by default. CPU:0,CPU:1 tries several replicas without GPUs
    config.synchronized = False  # synchronize BatchNormalization over all replicas

    config.epochs = 10
    config.batch_size = 128  # images per step, over all replicas
    config.image_size = config_dict.placeholder(int)  # height and width in pixels; the usual size by default
    # Height and width of validation and test images, and of exported models; image_size by default. A larger one suits
    # random_resized_crop, in which objects look larger than in whole images (Touvron et al. 2019, arXiv 1906.06423).
    config.test_image_size = config_dict.placeholder(int)
    config.augmentation = config_dict.placeholder(str)  # none, flip, pad_crop_flip, random_resized_crop; as usual
    config.min_crop_area = 0.08  # smallest crop of random_resized_crop, as a share of the image's area
    # Central crop in evaluation, as a share of the shorter side; the whole image, stretched, by default.
    config.center_crop = config_dict.placeholder(float)
    config.validation_fraction = 0.1  # share of the training images held out to select the best checkpoint
    config.attention_images_every = 5  # epochs between attention figures in TensorBoard; 0 for none
    config.examples = config_dict.placeholder(int)  # maximum number of images per split; all by default
    config.check_images = True  # decode every image file once before training, to find corrupt ones
    config.skip_corrupt = False  # skip images that cannot be decoded, instead of stopping

    config.backbone = "resnet20"  # a name of sfocus_tf.backbones.names()
    # imagenet; a .keras file or workdir, whose last layer is not loaded; or none for random weights, the default
    config.weights = config_dict.placeholder(str)
    config.dropout = 0.0  # rate before the last layer
    config.inner_layer = config_dict.placeholder(str)  # attention layers by name; chosen automatically by default
    config.last_layer = config_dict.placeholder(str)

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "sgd"  # sgd or adamw
    config.optimizer.learning_rate = 0.1
    # Batch size that learning_rate is meant for, to scale it linearly with batch_size; no scaling by default
    config.optimizer.rate_for_batch = config_dict.placeholder(int)
    config.optimizer.schedule = "cosine"  # cosine to 0; step: divide by 10 at each of `drops`; constant
    config.optimizer.drops = (0.5, 0.75)  # step only: shares of the run; as for CIFAR by default (He et al. 2016)
    config.optimizer.warmup_epochs = 0.0  # epochs of linear warmup from 0 (cosine only)
    config.optimizer.momentum = 0.9  # sgd only
    config.optimizer.nesterov = False  # sgd only
    # Decoupled, as in Keras: w -= rate * weight_decay * w. With momentum 0.9 it needs ten times the value of an L2 term
    # in the loss for the same effect. Biases and normalisation layers are excluded.
    config.optimizer.weight_decay = 1e-3
    # Maximum global norm of the gradient; 0 for no clipping. The attention losses need it; cross-entropy gets the same.
    config.optimizer.clip_norm = 5.0

    # The attention losses; unset values come from the named objective. See sfocus_tf.Objective.
    config.objective = ml_collections.ConfigDict()
    config.objective.name = "default"  # default, light, or paper for the paper's exact equations
    for field in dataclasses.fields(Objective):
        if field.name in ("inner", "last", "consistency"):  # each with weight, warmup, ramp and every_steps
            config.objective[field.name] = ml_collections.ConfigDict()
            for part in dataclasses.fields(Term):
                config.objective[field.name][part.name] = config_dict.placeholder(type(part.default))
        elif field.name != "steps":  # follows from the data and epochs
            config.objective[field.name] = config_dict.placeholder(type(field.default))
    return config.lock()


def fine_tune(config: ml_collections.ConfigDict) -> None:
    """Fine-tunes all of EfficientNet-Lite0 from ImageNet weights: the recipe for a few hundred photos or more."""
    config.image_size = 128
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
    """Applies a variant to a config, as in `--dataset=cub200:tiny`.

    Args:
        config: the config, changed in place.
        variant: "" for the config as it is; "tiny", which every config has; or one of `others`.
        others: functions that change the config, by variant name.

    Raises:
        ValueError: the variant is unknown.
    """
    known = {"": lambda config: None, "tiny": _tiny, **others}
    if variant not in known:
        raise unknown(f"variant of {config.dataset}", variant, [name for name in known if name])
    known[variant](config)
    return config


def _tiny(config: ml_collections.ConfigDict) -> None:
    """A one-minute check of a command and its data on a CPU: a small network, few small images, one epoch."""
    config.backbone = "resnet8"
    config.weights = None
    config.image_size = 32
    config.test_image_size = None
    config.examples = 128
    config.validation_fraction = 0.25
    config.batch_size = 32
    config.epochs = 1
    config.optimizer.warmup_epochs = 0.0
