"""Errors for operations without a first or second derivative in TensorFlow."""

import re

import keras

# TensorFlow raises the first for an operation without a derivative, the second for the second of `tf.recompute_grad`.
MISSING = (LookupError, NotImplementedError)


def no_second_derivative(error: Exception, classifier: keras.Model) -> ValueError:
    """The error for a network whose attention has no second-order gradient.

    Args:
        error: one of `MISSING`, raised by differentiating an attention loss.
        classifier: the network.
    """
    return ValueError(
        f"classifier {classifier.name!r}: {_operation(error, classifier)} has no second derivative, which training "
        "needs to differentiate the attention. Pass sf.objective(second_order=False), which takes the attention's "
        "weights as constants, or attention layers after that operation."
    )


def no_derivative(error: Exception, classifier: keras.Model, layers: tuple[str, ...]) -> ValueError:
    """The error for a network whose scores cannot be differentiated back to its attention layers.

    Args:
        error: one of `MISSING`, raised by differentiating a score.
        classifier: the network.
        layers: paths of the attention layers.
    """
    return ValueError(
        f"classifier {classifier.name!r}: {_operation(error, classifier)} has no derivative, and lies between an "
        f"attention layer ({', '.join(layers)}) and the scores. Expected attention layers after it: "
        "SharpenFocus(classifier, inner_layer=..., last_layer=...)."
    )


def _operation(error: Exception, classifier: keras.Model) -> str:
    """The type of the operation in TensorFlow's message, and its layer if the name contains it."""
    text = str(error)
    match = re.search(r"op type: (\w+)|has no entry for: (\w+)", text)
    if match is None:
        return f"an operation ({type(error).__name__}: {text.splitlines()[0] if text else 'no message'})"
    kind = match.group(1) or match.group(2)
    named = re.search(r"operation *'([^']+)'", text)
    scopes = named.group(1).split("/") if named else []
    layers = {layer.name for layer in classifier._flatten_layers(include_self=False)}
    # TensorFlow appends a number to repeated scopes.
    within = [layers & {scope, re.sub(r"_\d+$", "", scope)} for scope in scopes]
    known = [names.pop() for names in within if len(names) == 1]
    return f"the operation {kind.removesuffix('Grad')}" + (f" of layer {known[-1]!r}" if known else "")
