"""How many multiplications a network needs for one picture, counted from its layers."""

import math


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
