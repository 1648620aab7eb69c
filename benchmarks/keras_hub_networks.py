"""Image classifiers of KerasHub, from small configs without weights: `[batch, 32, 32, 3]` -> scores of 3 classes."""

from collections.abc import Callable

import keras
import keras_hub

M = keras_hub.models
_SHAPE = (32, 32, 3)


def vit_backbone(**options) -> keras.Model:
    return M.ViTBackbone(_SHAPE, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, **options)


def deit_backbone() -> keras.Model:
    return M.DeiTBackbone(_SHAPE, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=32)


def swin_backbone() -> keras.Model:
    """Two stages of 16x16 and 8x8 tokens, in windows of 4x4 that are shifted in every other block."""
    return M.SwinTransformerBackbone(
        _SHAPE, embed_dim=8, depths=(2, 2), num_heads=(2, 2), window_size=4, patch_size=2, drop_path=0.0
    )


def mit_backbone() -> keras.Model:
    return M.MiTBackbone(
        layerwise_depths=[1, 1], num_layers=2, layerwise_num_heads=[1, 2], layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.1, layerwise_patch_sizes=[7, 3], layerwise_strides=[4, 2], image_shape=_SHAPE,
        hidden_dims=[8, 16],
    )  # fmt: skip


def dinov2_backbone(registers: int = 4) -> keras.Model:
    return M.DINOV2Backbone(
        patch_size=8, num_layers=2, hidden_dim=16, num_heads=2, intermediate_dim=32, num_register_tokens=registers,
        image_shape=_SHAPE, position_embedding_shape=_SHAPE, apply_layernorm=True,
    )  # fmt: skip


def dinov3_backbone() -> keras.Model:
    return M.DINOV3Backbone(
        patch_size=8, num_layers=2, hidden_dim=16, num_heads=2, intermediate_dim=32, image_shape=_SHAPE,
        apply_layernorm=True,
    )  # fmt: skip


def clip_backbone() -> keras.Model:
    return M.CLIPVisionEncoder(8, 16, 2, 2, 32, image_shape=_SHAPE)


def siglip_backbone() -> keras.Model:
    return M.SigLIPVisionEncoder(8, 16, 2, 2, 32, image_shape=_SHAPE)


def resnet_backbone(**options) -> keras.Model:
    return M.ResNetBackbone(
        [64], [3], stackwise_num_filters=[64, 64, 64], stackwise_num_blocks=[1, 1, 1],
        stackwise_num_strides=[1, 2, 2], block_type="basic_block", image_shape=_SHAPE, **options,
    )  # fmt: skip


def densenet_backbone() -> keras.Model:
    return M.DenseNetBackbone([2, 2, 2], growth_rate=4, image_shape=_SHAPE)


def efficientnet_backbone() -> keras.Model:
    return M.EfficientNetBackbone(
        stackwise_width_coefficients=[1.0] * 3, stackwise_depth_coefficients=[1.0] * 3,
        stackwise_kernel_sizes=[3, 3, 3], stackwise_num_repeats=[1, 2, 2], stackwise_input_filters=[8, 8, 16],
        stackwise_output_filters=[8, 16, 16], stackwise_expansion_ratios=[1, 4, 4],
        stackwise_squeeze_and_excite_ratios=[0.0, 0.25, 0.25], stackwise_strides=[1, 2, 2],
        stackwise_block_types=["fused", "unfused", "unfused"], input_shape=_SHAPE, dropout=0.0,
    )  # fmt: skip


def mobilenet_backbone() -> keras.Model:
    return M.MobileNetBackbone(
        stackwise_expansion=[[40, 56], [64, 144]], stackwise_num_blocks=[2, 2],
        stackwise_num_filters=[[8, 8], [16, 16]], stackwise_kernel_size=[[3, 3], [5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1]], stackwise_se_ratio=[[None, None], [0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1, 1], [2, 2]], output_num_filters=32, depthwise_filters=8, depthwise_stride=1,
        depthwise_residual=True, last_layer_filter=32, image_shape=_SHAPE, input_num_filters=8,
    )  # fmt: skip


def cspnet_backbone() -> keras.Model:
    return M.CSPNetBackbone(
        stem_filters=8, stem_kernel_size=3, stem_strides=1, stackwise_depth=[1, 1, 1], stackwise_strides=[1, 2, 2],
        stackwise_num_filters=[8, 16, 16], block_type="dark_block", stage_type="dark", image_shape=_SHAPE,
    )  # fmt: skip


def vgg_backbone() -> keras.Model:
    return M.VGGBackbone([1, 1, 1], [8, 16, 16], image_shape=(56, 56, 3))


def xception_backbone() -> keras.Model:
    return M.XceptionBackbone([[8, 16], [16, 32], [48, 48]], [True, True, False], image_shape=(64, 64, 3))


def hgnetv2_backbone() -> keras.Model:
    return M.HGNetV2Backbone(
        depths=[1, 1], embedding_size=8, hidden_sizes=[16, 32], stem_channels=[3, 8, 8], hidden_act="relu",
        use_learnable_affine_block=False, stackwise_stage_filters=[(8, 8, 16, 1, 1, 3), (16, 8, 32, 1, 1, 3)],
        apply_downsample=[False, True], use_lightweight_conv_block=[False, False], image_shape=_SHAPE,
    )  # fmt: skip


def in_a_model(backbone: Callable[[], keras.Model], pooling: str) -> keras.Model:
    """A backbone as a layer of a user's model, behind a rescaling, with the "class" token, the "mean", or as it is."""
    backbone = backbone()
    images = keras.Input(backbone.input_shape[1:])
    x = backbone(keras.layers.Rescaling(1 / 255)(images))
    if pooling == "class":
        x = x[:, 0]
    elif pooling == "mean":
        x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(images, keras.layers.Dense(3, name="scores")(x))


TRANSFORMERS: dict[str, Callable[[], keras.Model]] = {
    "ViTImageClassifier, token": lambda: M.ViTImageClassifier(vit_backbone(), 3),
    "ViTImageClassifier, gap": lambda: M.ViTImageClassifier(vit_backbone(), 3, pooling="gap"),
    "ViTImageClassifier, gap, no class token": lambda: M.ViTImageClassifier(
        vit_backbone(use_class_token=False), 3, pooling="gap"
    ),
    "DeiTImageClassifier, token": lambda: M.DeiTImageClassifier(deit_backbone(), 3),
    "DeiTImageClassifier, gap": lambda: M.DeiTImageClassifier(deit_backbone(), 3, pooling="gap"),
    "SwinTransformerImageClassifier": lambda: M.SwinTransformerImageClassifier(swin_backbone(), 3),
    "MiTImageClassifier": lambda: M.MiTImageClassifier(mit_backbone(), 3),
    "ViTBackbone in a model, class token": lambda: in_a_model(vit_backbone, "class"),
    "ViTBackbone in a model, mean": lambda: in_a_model(vit_backbone, "mean"),
    "DeiTBackbone in a model, class token": lambda: in_a_model(deit_backbone, "class"),
    "DeiTBackbone in a model, mean": lambda: in_a_model(deit_backbone, "mean"),
    "SwinTransformerBackbone in a model": lambda: in_a_model(swin_backbone, "mean"),
    "DINOV2Backbone in a model, class token": lambda: in_a_model(dinov2_backbone, "class"),
    "DINOV2Backbone in a model, mean": lambda: in_a_model(dinov2_backbone, "mean"),
    "DINOV3Backbone in a model, mean": lambda: in_a_model(dinov3_backbone, "mean"),
    "CLIPVisionEncoder in a model, mean": lambda: in_a_model(clip_backbone, "mean"),
    "SigLIPVisionEncoder in a model": lambda: in_a_model(siglip_backbone, "as it is"),
}
CONVOLUTIONAL: dict[str, Callable[[], keras.Model]] = {
    "ResNetImageClassifier": lambda: M.ResNetImageClassifier(resnet_backbone(), 3),
    "ResNetImageClassifier, v2": lambda: M.ResNetImageClassifier(resnet_backbone(use_pre_activation=True), 3),
    "DenseNetImageClassifier": lambda: M.DenseNetImageClassifier(densenet_backbone(), 3),
    "EfficientNetImageClassifier": lambda: M.EfficientNetImageClassifier(efficientnet_backbone(), 3),
    "MobileNetImageClassifier": lambda: M.MobileNetImageClassifier(mobilenet_backbone(), 3),
    "CSPNetImageClassifier": lambda: M.CSPNetImageClassifier(cspnet_backbone(), 3),
    "VGGImageClassifier": lambda: M.VGGImageClassifier(vgg_backbone(), 3, pooling="avg"),
    "XceptionImageClassifier": lambda: M.XceptionImageClassifier(xception_backbone(), 3),
    "HGNetV2ImageClassifier": lambda: M.HGNetV2ImageClassifier(hgnetv2_backbone(), None, 3),
}
