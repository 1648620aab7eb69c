"""KerasHub's image classifiers, from small configs without weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import sfocus_tf as sf
from tests.conftest import crossentropy, random_images

networks = pytest.importorskip("benchmarks.keras_hub_networks", reason="KerasHub is not installed")

VIT, DEIT = "vi_t_backbone/vit_encoder", "dei_t_backbone/deit_encoder"
SWIN = ("swin_transformer_backbone/stage_0/blocks_1/norm2", "swin_transformer_backbone/norm")
FOUR = (4, 4)

# network, inner and last layer, the sizes of their maps
LAYERS = {
    "ViTImageClassifier, token": (f"{VIT}/transformer_block_1/ln_1", f"{VIT}/transformer_block_2/ln_1", FOUR, FOUR),
    "ViTImageClassifier, gap": (f"{VIT}/transformer_block_2/ln_1", VIT, FOUR, FOUR),
    "ViTImageClassifier, gap, no class token": (f"{VIT}/transformer_block_2/ln_1", VIT, FOUR, FOUR),
    "DeiTImageClassifier, token": (f"{DEIT}/transformer_block_1/ln_1", f"{DEIT}/transformer_block_2/ln_1", FOUR, FOUR),
    "DeiTImageClassifier, gap": (f"{DEIT}/transformer_block_2/ln_1", f"{DEIT}/ln", FOUR, FOUR),
    "SwinTransformerImageClassifier": (*SWIN, (16, 16), (8, 8)),
    "ViTBackbone in a model, class token": (
        f"{VIT}/transformer_block_1/ln_1", f"{VIT}/transformer_block_2/ln_1", FOUR, FOUR,
    ),
    "ViTBackbone in a model, mean": (f"{VIT}/transformer_block_2/ln_1", VIT, FOUR, FOUR),
    "DeiTBackbone in a model, class token": (
        f"{DEIT}/transformer_block_1/ln_1", f"{DEIT}/transformer_block_2/ln_1", FOUR, FOUR,
    ),
    "DeiTBackbone in a model, mean": (f"{DEIT}/transformer_block_2/ln_1", f"{DEIT}/ln", FOUR, FOUR),
    "SwinTransformerBackbone in a model": (*SWIN, (16, 16), (8, 8)),
    "DINOV2Backbone in a model, class token": (
        "dinov2_backbone/encoder/layers_0/norm1", "dinov2_backbone/encoder/layers_1/norm1", FOUR, FOUR,
    ),
    "DINOV2Backbone in a model, mean": (
        "dinov2_backbone/encoder/layers_1/norm1", "dinov2_backbone/layernorm", FOUR, FOUR,
    ),
    "DINOV3Backbone in a model, mean": (
        "dinov3_backbone/encoder/layers_1/norm1", "dinov3_backbone/layernorm", FOUR, FOUR,
    ),
    "CLIPVisionEncoder in a model, mean": (
        "clip_vision_encoder/encoder_block_1/layer_norm_1", "clip_vision_encoder/layer_norm", FOUR, FOUR,
    ),
    "SigLIPVisionEncoder in a model": (
        "sig_lip_vision_encoder/encoder_block_1/layer_norm1", "sig_lip_vision_encoder/post_layer_norm", FOUR, FOUR,
    ),
    "ResNetImageClassifier": (
        "res_net_backbone/stack1_block0_out", "res_net_backbone/stack2_block0_out", FOUR, (2, 2),
    ),
    "ResNetImageClassifier, v2": (
        "res_net_backbone/stack2_block0_pre_activation_relu", "res_net_backbone/post_relu", FOUR, (2, 2),
    ),
    "DenseNetImageClassifier": ("dense_net_backbone/transition2_relu", "dense_net_backbone/relu", FOUR, (2, 2)),
    "EfficientNetImageClassifier": (
        "efficient_net_backbone/block2b_", "efficient_net_backbone/top_activation", (8, 8), FOUR,
    ),
    "MobileNetImageClassifier": ("mobile_net_backbone/block_1_1", "mobile_net_backbone/block_3_0", (8, 8), FOUR),
    "CSPNetImageClassifier": (
        "csp_net_backbone/stage_1_dark_activation_1", "csp_net_backbone/stage_2_dark_activation_1", (14, 14), (7, 7),
    ),
    "VGGImageClassifier": ("vgg_backbone/block2_conv1", "vgg_backbone/block3_conv1", (28, 28), (14, 14)),
    "XceptionImageClassifier": (
        "xception_backbone/block2_sepconv2_act", "xception_backbone/block3_sepconv2_act", (15, 15), (8, 8),
    ),
}  # fmt: skip


@pytest.fixture
def model(request):
    keras.backend.clear_session(free_memory=False)  # names of layers are numbered
    keras.utils.set_random_seed(0)
    classifier = {**networks.TRANSFORMERS, **networks.CONVOLUTIONAL}[request.param]()
    return sf.SharpenFocus(classifier)


def images_of(model, count=4, scale=1):
    return scale * random_images(count, model.classifier.input_shape[1])


@pytest.mark.parametrize(("model", "expected"), LAYERS.items(), indirect=["model"], ids=list(LAYERS))
def test_layers_and_maps(model, expected):
    inner, last, inner_size, last_size = expected
    assert (model.inner_layer, model.last_layer) == (inner, last)
    found = model.explain(images_of(model, 8))
    assert found.inner.target.shape[1:] == inner_size and found.last.target.shape[1:] == last_size
    for maps in (found.inner, found.last):
        assert max(maps.target.max(), maps.rival.max()) > 0


def last_attention(model, images):
    """Scores of a ViT of KerasHub, layer by layer, and the input of its last attention."""
    backbone = model.classifier.backbone
    embedding, encoder = backbone.layers[1:]
    x = encoder.dropout(embedding(images))
    *blocks, block = encoder.encoder_layers
    for each in blocks:
        x = each(x)
    tokens = block.layer_norm_1(x)
    x = block.mha(tokens, tokens) + x
    x = encoder.layer_norm(x + block.mlp(block.layer_norm_2(x)))
    return tokens, model.classifier.output_dense(x[:, 0])


@pytest.mark.parametrize("model", ["ViTImageClassifier, token"], indirect=True)
def test_maps_inside_of_a_layer_are_those_of_a_gradient_tape(model):
    images = images_of(model)
    found = model.explain(images)
    for class_ids, maps in ((found.target, found.last.target), (found.rival, found.last.rival)):
        with tf.GradientTape() as tape:
            tokens, scores = last_attention(model, tf.constant(images))
            chosen = tf.gather(scores, class_ids, batch_dims=1)
        slopes = tape.gradient(chosen, tokens)[:, 1:].numpy()
        np.testing.assert_allclose(scores, found.scores, atol=1e-5)
        assert np.abs(slopes).max((1, 2)).min() > 0
        expected = np.maximum(0, np.einsum("bnc,bc->bn", tokens[:, 1:].numpy(), slopes.mean(1)))
        np.testing.assert_allclose(maps, expected.reshape(4, 4, 4), atol=1e-5)


TRAINED = [
    "ViTImageClassifier, token", "DeiTImageClassifier, gap", "SwinTransformerImageClassifier",
    "ResNetImageClassifier", "DenseNetImageClassifier", "EfficientNetImageClassifier", "MobileNetImageClassifier",
]  # fmt: skip


@pytest.mark.parametrize("model", TRAINED, indirect=True)
def test_training_and_saving(model, tmp_path):
    """The attention terms count in every step; the loss of classification falls."""
    objective = sf.objective("paper", inner=0.1, last=0.1, consistency=0.1)
    model = sf.SharpenFocus(model.classifier, objective)
    model.compile(keras.optimizers.Adam(1e-3), crossentropy(), run_eagerly=True)  # a graph of so many takes longer
    images, labels = images_of(model), np.array([0, 1, 2, 1])
    before = model.train_on_batch(images, labels, return_dict=True)
    for _ in range(2):
        after = model.train_on_batch(images, labels, return_dict=True)
    assert before["loss"] - before["classification_loss"] > 1e-3
    # Logged are means over the steps so far.
    assert after["classification_loss"] < before["classification_loss"]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert (loaded.inner_layer, loaded.last_layer) == (model.inner_layer, model.last_layer)
    for one, two in zip(model.explain(images).last, loaded.explain(images).last, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4 * max(1, two.max()))


@pytest.mark.parametrize(
    "model", ["DeiTImageClassifier, token", "SwinTransformerImageClassifier", "MobileNetImageClassifier"], indirect=True
)
def test_served_explanations(model, tmp_path):
    images = images_of(model)
    expected = model.explain(images)
    model.export(tmp_path / "served")
    answer = tf.saved_model.load(str(tmp_path / "served")).signatures["explain"](
        images=tf.constant(images), class_ids=tf.fill([4], -1)
    )
    np.testing.assert_allclose(answer["logits"], expected.scores, atol=1e-5)
    np.testing.assert_allclose(answer["raw_attention_target_last"], expected.last.target, atol=1e-5)
    np.testing.assert_allclose(answer["raw_attention_rival_inner"], expected.inner.rival, atol=1e-5)
