"""ILSVRC2012 (ImageNet), from scratch. The paper's gain: +0.92 points.

Command: python train.py --dataset=ilsvrc2012 --data_dir=<folder>
Data: class folders, <folder>/train/n01440764/*.JPEG and <folder>/val/n01440764/*.JPEG; or TFDS' imagenet2012, which
    needs ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar in <folder>/downloads/manual. The official validation
    images are the test split; 1 % of the training images are held out to select the best checkpoint.
Network: ResNet-18, or --backbone=ResNet50.
Recipe: SGD 0.1 with momentum, divided by 10 at 1/3 and 2/3 of 90 epochs, batch 256, random resized crops and flips, no
    label smoothing; tested on the central crop.
Time, cross-entropy and the paper's losses (the default costs less), estimated by benchmarks/hours.py: 4,689 and 7,327
    hours on 2 CPU cores, 34.9 and 54.5 hours on a V100.
Measured here: not measured.
"""

import ml_collections
from sfocus_tf.configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The settings; `variant` is "" or "tiny"."""
    config = common.get_config()
    config.dataset = "ilsvrc2012"
    config.backbone = "resnet18"
    config.epochs = 90
    config.batch_size = 256
    config.center_crop = 0.875
    config.validation_fraction = 0.01
    config.check_images = False  # 1.28 million images would take minutes to an hour at every start
    config.optimizer.schedule = "step"
    config.optimizer.drops = (1 / 3, 2 / 3)
    return common.varied(config, variant)
