"""Errors for operations that TensorFlow cannot differentiate, or not twice."""

import re

import keras

# What TensorFlow raises: for an operation without a derivative; for `tf.recompute_grad`, which has no second one.
MISSING = (LookupError, NotImplementedError)


def no_second_derivative(error: Exception, classifier: keras.Model) -> ValueError:
    """The error for a network that cannot be trained through its attention's own weights.

    Args:
        error: one of `MISSING`, raised while the loss of the attention was differentiated.
        classifier: the network.
    """
    return ValueError(
        f"classifier {classifier.name!r}: {_operation(error, classifier)} has no second derivative, which training "
        "needs to differentiate the attention. Pass SharpenFocus(..., second_order=False), which takes the attention's "
        "weights as constants, or attention layers after that operation."
    )


def no_derivative(error: Exception, classifier: keras.Model, layers: tuple[str, ...]) -> ValueError:
    """The error for a network whose scores cannot be differentiated back to its attention layers.

    Args:
        error: one of `MISSING`, raised while a score was differentiated.
        classifier: the network.
        layers: paths of the attention layers.
    """
    return ValueError(
        f"classifier {classifier.name!r}: {_operation(error, classifier)} has no derivative, and lies between an "
        f"attention layer ({', '.join(layers)}) and the scores. Expected attention layers after it: "
        "SharpenFocus(classifier, inner_layer=..., last_layer=...)."
    )


def _operation(error: Exception, classifier: keras.Model) -> str:
    """What TensorFlow says of the operation: its type, and the layer where its name tells that."""
    text = str(error)
    found = re.search(r"op type: (\w+)|has no entry for: (\w+)", text)
    if found is None:
        return f"an operation ({type(error).__name__}: {text.splitlines()[0] if text else 'no message'})"
    kind = found.group(1) or found.group(2)
    named = re.search(r"operation *'([^']+)'", text)
    scopes = named.group(1).split("/") if named else []
    layers = {layer.name for layer in classifier._flatten_layers(include_self=False)}
    # TensorFlow numbers a scope that it has seen before.
    within = [layers & {scope, re.sub(r"_\d+$", "", scope)} for scope in scopes]
    known = [found.pop() for found in within if len(found) == 1]
    return f"the operation {kind.removesuffix('Grad')}" + (f" of layer {known[-1]!r}" if known else "")
