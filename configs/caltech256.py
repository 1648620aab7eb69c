"""Caltech-256, 60 training pictures a class. The paper's gain: +1.64 points.

Command: python train.py --dataset=caltech256
    from ImageNet weights: --dataset=caltech256:vgg19, or
    --dataset=caltech256:finetune --config.weights=<workdir of an ilsvrc2012 run>
Data: TFDS downloads it (1.2 GB) with the builder in sfocus_tf/data/caltech256; or --data_dir=<folder with
    256_ObjectCategories in it>. 15,360 pictures to train, the rest to test, without clutter.
Network: ResNet-18 from scratch, as Keras has no ImageNet weights for it; `:vgg19`, its convolutions with
    global pooling, from Keras' ImageNet weights (80 MB); `:finetune` ResNet-18 from weights of your own.
Recipe: SGD with momentum, cosine to 0; 0.1 and 100 epochs from scratch, 0.01 and 30 epochs from weights.
Time, cross-entropy and the paper's losses (the default costs less), estimated by benchmarks/hours.py: 54 and 94 hours
    on 2 CPU cores, 0.5 and 0.8 hours on a V100; `:vgg19` 149 and 187 hours on 2 CPU cores, 1.5 and 1.9 hours on a V100.
Measured here: not measured.
"""

import ml_collections

from configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The settings; `variant` is "", "vgg19", "finetune" or "tiny"."""
    config = common.get_config()
    config.dataset = "caltech256"
    config.backbone = "resnet18"
    config.epochs = 100
    config.batch_size = 64
    config.center_crop = 0.875
    config.optimizer.warmup_epochs = 2.0
    return common.varied(config, variant, vgg19=_vgg19, finetune=_finetune)


def _finetune(config: ml_collections.ConfigDict) -> None:
    config.weights = "runs/ilsvrc2012-cross_entropy-0"  # where that run is by default
    config.epochs = 30
    config.optimizer.learning_rate = 0.01


def _vgg19(config: ml_collections.ConfigDict) -> None:
    _finetune(config)
    config.backbone = "vgg19"
    config.weights = "imagenet"
    config.batch_size = 32
    config.dropout = 0.5
