"""Caltech-256, 60 training images per class. The paper's gain: +1.64 points.

Command: python train.py --dataset=caltech256
    from ImageNet weights: --dataset=caltech256:vgg19, or
    --dataset=caltech256:finetune --config.weights=<workdir of an ilsvrc2012 run>
Data: TFDS downloads it (1.2 GB) with the builder in sfocus_tf/data/caltech256; or
    --data_dir=<folder that contains 256_ObjectCategories>. 15,360 images for training, others for testing; no clutter.
Network: ResNet-18 from scratch, since Keras has no ImageNet weights for it; `:vgg19` the VGG-19 convolutions with
    global pooling, from Keras' ImageNet weights (80 MB); `:finetune` ResNet-18 from your own weights.
Recipe: SGD with momentum, cosine decay; 0.1 for 100 epochs from scratch, 0.01 for 30 epochs from weights.
Time, cross-entropy and the paper's losses (the default costs less), estimated by benchmarks/hours.py: 54 and 94 hours
    on 2 CPU cores, 0.5 and 0.8 hours on a V100; `:vgg19` 149 and 187 hours on 2 CPU cores, 1.5 and 1.9 hours on a V100.
Measured here: not measured.
"""

import ml_collections
from sfocus_tf.configs import common


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
    config.weights = "runs/ilsvrc2012-cross_entropy-0"  # the default workdir of that run
    config.epochs = 30
    config.optimizer.learning_rate = 0.01


def _vgg19(config: ml_collections.ConfigDict) -> None:
    _finetune(config)
    config.backbone = "vgg19"
    config.weights = "imagenet"
    config.batch_size = 32
    config.dropout = 0.5
