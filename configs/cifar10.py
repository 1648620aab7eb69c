"""CIFAR-10, from scratch, as He et al. (2016) train it.

Command: python train.py --dataset=cifar10
Data: TFDS downloads it (170 MB).
Network: ResNet-20, or --backbone=resnet56, resnet18_cifar, ...
Recipe: SGD 0.1 with momentum, divided by 10 at 1/2 and 3/4 of 164 epochs; padded crops and flips.
Time, cross-entropy and the paper's losses (the default costs less), estimated by benchmarks/hours.py: 13 and 18 hours
    on 2 CPU cores, under 0.1 hours on a V100 (more likely an hour: small networks underuse a GPU).
The paper reports no result. Measured here: cross-entropy, 12 epochs, 81.04 % (docs/results.md); else not measured.
"""

import ml_collections
from sfocus_tf.configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The settings; `variant` is "" or "tiny"."""
    config = common.get_config()
    config.dataset = "cifar10"
    config.backbone = "resnet20"
    config.epochs = 164
    config.optimizer.schedule = "step"
    return common.varied(config, variant)
