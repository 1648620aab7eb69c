"""Generated look-alike classes, from scratch: the main job on data that come with the package.

Command: python train.py
Data: none needed. 16 classes in pairs that share all but a small mark; see `sfocus_tf/data/scenes.py`.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    """The settings."""
    config = common.get_config()
    config.dataset = "scenes"
    config.backbone = "resnet20"
    config.epochs = 3
    config.batch_size = 32
    return config
