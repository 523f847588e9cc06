"""Grad-CAM's parts: where a model is split, and what the gradient is."""

from lib import gradcam, models

import keras
import numpy as np
import pytest
from keras import layers

pytestmark = pytest.mark.usefixtures("study")


def pictures():
    """Return random 8-bit colour images."""
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def cnn(last="dense", residual=False):
    """Return a small network with the kinds of layers that stand between the last convolution and the answer."""
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    x = layers.Conv2D(6, 3, padding="same")(models.Grayscale()(layers.Rescaling(1 / 255)(inputs)))
    x = layers.BatchNormalization(name="norm")(x)
    if residual:
        x = layers.Add(name="sum")([x, layers.Conv2D(6, 1)(x)])
    x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    if last == "dense":
        return keras.Model(inputs, layers.Dense(10, activation="softmax", dtype="float32")(x))
    x = layers.Dense(10)(x)
    end = layers.Softmax() if last == "softmax" else layers.Activation("softmax")
    return keras.Model(inputs, end(x))


@pytest.mark.parametrize("last", ["dense", "softmax", "activation"])
@pytest.mark.parametrize("residual", [False, True])
def test_both_parts_together_are_the_model(last, residual):
    """But for the softmax."""
    model = cnn(last, residual)
    features, tail = gradcam.split(model)
    assert features.output_shape == (None, 32, 32, 6)
    assert features.layers[-1].name == ("sum" if residual else "norm")
    scores = keras.ops.convert_to_numpy(tail(features(pictures())))
    expected = keras.ops.convert_to_numpy(model(pictures()))
    assert abs(scores.sum(axis=1) - 1).min() > 1e-3
    np.testing.assert_allclose(keras.ops.convert_to_numpy(keras.ops.softmax(scores)), expected, rtol=1e-4)


def test_without_a_convolution_there_is_no_map():
    """A dense network looks at all pixels at once."""
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    assert gradcam.split(keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.Flatten()(inputs)))) is None


def test_the_gradient_is_the_slope():
    """Of a known function; and of a head that pools, it is the weight of each channel, shared by all places."""
    x = keras.ops.convert_to_tensor(np.float32([[1, 2], [3, 4]]))
    slopes = gradcam.gradient(lambda x: keras.ops.sum(x ** 3), x)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(slopes), [[3, 12], [27, 48]], rtol=1e-6)
    maps = keras.Input((4, 4, 5))
    dense = layers.Dense(3)
    tail = keras.Model(maps, dense(layers.GlobalAveragePooling2D()(maps)))
    slopes = gradcam.gradient(lambda maps: tail(maps)[0, 2], keras.ops.ones((1, 4, 4, 5)))
    expected = np.broadcast_to(dense.get_weights()[0][:, 2] / 16, (1, 4, 4, 5))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(slopes), expected, rtol=1e-5)
