"""Generated look-alike classes, from scratch: training without external data.

Command: python train.py
Data: none needed. 16 classes in pairs that differ only in a small mark; see `sfocus_tf/data/scenes.py`.
"""

import ml_collections
from sfocus_tf.configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The settings; `variant` is "" or "tiny"."""
    config = common.get_config()
    config.dataset = "scenes"
    config.backbone = "resnet8"
    config.epochs = 3  # a few minutes on two cores; accuracy keeps improving for dozens of epochs
    config.batch_size = 32
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 5e-3
    config.optimizer.weight_decay = 1e-2
    return common.varied(config, variant)
