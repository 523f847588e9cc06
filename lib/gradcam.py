"""What Grad-CAM needs of a model: its last feature maps, its scores before the softmax, and a gradient.

Introduced in notebook 13.
"""

from lib import project, runtime  # noqa: F401  (runtime silences the backend's start)

import keras
from keras import layers

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)


def split(model):
    """Return (features, tail) of a flat model, which share its weights, or None where it has no convolution.

    `features` turns images into the last maps (n, rows, columns, channels), before any pooling, which would only make
    them coarser; `tail` turns these into class scores (n, classes) before the softmax, whose slope would be zero where
    the model is sure.
    """
    places = [place for place, layer in enumerate(model.layers) if isinstance(layer, CONVOLUTIONS)]
    if not places:
        return None
    last = next(layer for layer in reversed(model.layers[places[-1] :]) if _has_maps(layer))
    return keras.Model(model.inputs, last.output), keras.Model(last.output, _scores(model))


def _has_maps(layer):
    return len(getattr(layer.output, "shape", ())) == 4 and "Pooling" not in type(layer).__name__


def _scores(model):
    """What goes into the softmax at the end of a model."""
    last = model.layers[-1]
    if getattr(last, "activation", None) is not keras.activations.softmax:
        return last.input if isinstance(last, layers.Softmax) else model.output
    if isinstance(last, layers.Activation):
        return last.input
    linear = type(last).from_config(last.get_config() | {"activation": None})
    scores = linear(last.input)
    linear.set_weights(last.get_weights())
    return scores


def gradient(function, x):
    """Return the derivative of a function's single number by each number of the tensor x, in the shape of x."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.grad(function)(x)
    if backend != "tensorflow":
        raise project.StudyError(f"Grad-CAM needs a gradient, which is here for TensorFlow and JAX, not for {backend}")
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x)
