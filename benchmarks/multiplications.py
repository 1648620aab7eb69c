"""Counts the multiplications of a network for one image, from its layers."""

import math

from sfocus_tf.classifier import graph


def of_layers(classifier):
    """Multiplications of the forward pass for one image, by layer name, without normalisation and activations.

    `classifier` is a flat functional model of fixed image size, as from `sfocus_tf.backbones.create`.
    """
    counts = {}
    for layer in classifier.layers:
        kernels = [
            math.prod(weight.shape)
            for weight in layer.weights
            if weight.name in ("kernel", "depthwise_kernel", "pointwise_kernel")
        ]
        if kernels:
            positions = math.prod(layer.output.shape[1:-1])  # 1 for a dense layer
            counts[layer.name] = positions * sum(kernels)
    return counts


def of_forward(classifier):
    """Multiplications of the forward pass for one image."""
    return sum(of_layers(classifier).values())


def after(classifier, path):
    """Multiplications of the layers between a layer and the scores of a flat model."""
    steps, *_ = graph.steps(classifier)
    counts = of_layers(classifier)
    reached, total = set(), 0
    for step in steps:
        if any(id(tensor) in reached for tensor in step.inputs):
            reached.add(id(step.output))
            total += counts.get(step.path, 0)
        elif step.path == path:
            reached.add(id(step.output))
    return total


def floors(classifier, inner_layer):
    """Time of a step with attention supervision over a plain one, if only multiplications took time.

    A training step counts as three forward passes. For each of two classes, a backward pass from the score to the inner
    layer costs as much as the forward pass between them, and differentiating it twice as much again. The saving in the
    layers that read the inner layer (`sfocus_tf.attention.channel_gradients`) is not counted, so a measured ratio may
    be lower.
    """
    share = after(classifier, inner_layer) / of_forward(classifier)
    return {"exact": 1 + 2 * share, "first_order": 1 + 2 * share / 3}
