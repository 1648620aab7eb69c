"""How many multiplications a network needs for one picture, counted from its layers."""

import math

from sfocus_tf.classifier import graph


def of_layers(classifier):
    """Multiplications of the forward pass for one picture, by layer name; normalisation and activations left out.

    `classifier` is a flat functional model of fixed picture size, such as `sfocus_tf.backbones.create` makes.
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
    """Multiplications of the forward pass for one picture."""
    return sum(of_layers(classifier).values())


def after(classifier, path):
    """Multiplications of those layers of a flat model that lie between a layer and the scores."""
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
    """A step with attention supervision as a multiple of a plain one, if multiplications were all that takes time.

    A training step counts as three forward passes. For each of two classes one backward pass leads from the score to
    the inner layer, which costs as much as the forward pass there; to differentiate it takes twice that again. That the
    layers which read the inner layer can be spared theirs (`sfocus_tf.attention.channel_gradients`) is not counted, so
    that a measured ratio may lie below.
    """
    share = after(classifier, inner_layer) / of_forward(classifier)
    return {"exact": 1 + 2 * share, "first_order": 1 + 2 * share / 3}
