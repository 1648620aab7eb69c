"""Your own pictures in class folders, from scratch; the defaults are CIFAR's (He et al. 2016).

Command: python train.py --dataset=folder --data_dir=<folder>
Data: <folder>/train/<class>/*.jpg and <folder>/test/<class>/*.jpg.
"""

import ml_collections

from configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The settings; `variant` is "" or "tiny"."""
    config = common.get_config()
    config.dataset = "folder"
    config.image_size = 32
    config.backbone = "resnet20"
    config.epochs = 164
    config.batch_size = 128
    config.optimizer.schedule = "step"
    return common.varied(config, variant)
