"""What Grad-CAM needs of a model: its last feature maps, its scores before the softmax, and a gradient.

Introduced in notebook 13.
"""

from lib import project, runtime, transfer  # noqa: F401  (runtime silences the backend's start)

import keras
import numpy as np
from keras import layers

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)


def split(model, rows=1):
    """Return (features, tail) of a flat model, which share its weights, or None where it has no such maps.

    `features` turns images into the last maps (n, rows, columns, channels) with at least so many rows, before any
    pooling, which would only make them coarser, or Dropout behind it, and not those that padding adds a border to;
    `tail` turns these into class scores (n, classes) before the softmax, whose slope would be zero where the model is
    sure.
    """
    first = next((place for place, layer in enumerate(model.layers) if isinstance(layer, CONVOLUTIONS)), None)
    if first is None:
        return None
    behind = [operation for count, operation in transfer.cuts(model) if count > first and _has_maps(operation)]
    maps = [tensor for tensor in map(transfer.output, behind) if tensor.shape[1] >= rows]
    return (keras.Model(model.inputs, maps[-1]), keras.Model(maps[-1], _scores(model))) if maps else None


def heatmaps(model, images, classes, rows=1):
    """Return where each image (n, height, width, channels) speaks for its class (n,): (n, rows, columns), 0 to 1.

    LayerCAM (Jiang et al. 2021) on the last maps of at least so many rows: as Grad-CAM, but each cell of a map has a
    weight of its own, its positive slope. On maps before the last ones a mean slope of the whole map says little.
    Raises StudyError where the model has no such maps.
    """
    parts = split(model, rows)
    if parts is None:
        raise project.StudyError(f"this model has no feature maps of {rows} rows to draw a heat map from")
    features, tail = parts
    maps = features(keras.ops.convert_to_tensor(images), training=False)  # or `Resizing` has BatchNorm train
    wanted = keras.ops.one_hot(classes, model.output_shape[-1])
    slopes = gradient(lambda maps: keras.ops.sum(keras.ops.cast(tail(maps, training=False), "float32") * wanted), maps)
    heat = keras.ops.relu(keras.ops.sum(maps * keras.ops.relu(slopes), axis=-1))
    heat = keras.ops.convert_to_numpy(keras.ops.cast(heat, "float32"))
    highest = heat.max(axis=(1, 2), keepdims=True)
    return heat / np.where(highest > 0, highest, 1)


def _has_maps(operation):
    reshaping = any(kind in type(operation).__name__ for kind in ("Pooling", "Padding", "Dropout"))
    return len(transfer.output(operation).shape) == 4 and not reshaping


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
    """Return the derivative of a function's single number by each number of the tensor x, in the shape of x.

    Raises StudyError for a backend other than TensorFlow and JAX.
    """
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
