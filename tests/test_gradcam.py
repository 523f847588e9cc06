"""Grad-CAM's parts: where a model is split, and what the gradient is."""

from lib import gradcam, models, project

import keras
import numpy as np
import pytest
from keras import layers

pytestmark = pytest.mark.usefixtures("study")


def pictures():
    """Return random 8-bit colour images."""
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def cnn(last="dense", residual=False, resizing=False):
    """Return a small network with the kinds of layers that stand between the last convolution and the answer."""
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    x = layers.Resizing(32, 32)(inputs) if resizing else inputs
    x = layers.Conv2D(6, 3, padding="same")(models.Grayscale()(layers.Rescaling(1 / 255)(x)))
    x = layers.BatchNormalization(name="norm")(x)
    if residual:
        x = layers.Add(name="sum")([x, layers.Conv2D(6, 1)(x)])
    x = layers.Dropout(0.5)(layers.MaxPooling2D()(x))
    x = layers.GlobalAveragePooling2D()(x)
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


def test_a_sequential_model_has_maps_too():
    """Its first layer may be its only convolution."""
    model = keras.Sequential([keras.Input((32, 32, 3)), layers.Conv2D(6, 3, padding="same"),
                              layers.GlobalAveragePooling2D(), layers.Dense(10, activation="softmax")])
    assert gradcam.heatmaps(model, pictures().astype("float32"), np.arange(3)).shape == (3, 32, 32)


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


def test_finer_maps_lie_further_back():
    """Where a single tensor carries everything, so that the tail can be built."""
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    x = layers.Conv2D(4, 3, padding="same")(layers.Rescaling(1 / 255)(inputs))
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="half")(x)
    branch = layers.Conv2D(4, 3, padding="same")(x)
    x = layers.ZeroPadding2D()(layers.Add(name="sum")([x, branch]))
    x = layers.Conv2D(6, 3, strides=4, padding="same")(x)
    model = keras.Model(inputs, layers.Dense(5, activation="softmax")(layers.GlobalAveragePooling2D()(x)))
    found = {rows: gradcam.split(model, rows)[0] for rows in (1, 6, 16, 17)}
    assert {rows: part.output_shape[1] for rows, part in found.items()} == {1: 5, 6: 16, 16: 16, 17: 32}
    assert found[6].layers[-1].name == "sum"
    assert gradcam.split(model, 33) is None
    with pytest.raises(project.StudyError, match="33 rows"):
        gradcam.heatmaps(model, pictures(), np.zeros(3, int), 33)


def test_each_map_shows_where_its_own_class_is():
    """A network whose three classes are red, green and blue finds each where it is, in one call."""
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    maps = layers.DepthwiseConv2D(1, depthwise_initializer="ones")(layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, layers.Dense(3, "softmax", kernel_initializer="identity")(
        layers.GlobalAveragePooling2D()(maps)))
    spots = np.zeros((3, 32, 32, 3), np.uint8)
    spots[0, 4:8, 20:24, 0] = spots[1, 10:12, 3:5, 1] = 255
    heat = gradcam.heatmaps(model, spots, np.array([0, 1, 2]))
    assert heat.shape == (3, 32, 32)
    assert np.array_equal(heat[0] > 0, spots[0, ..., 0] > 0) and np.array_equal(heat[1] > 0, spots[1, ..., 1] > 0)
    assert heat[0].max() == heat[1].max() == 1 and not heat[2].any()  # no blue: no map, and no division by zero


def test_what_speaks_against_a_class_does_not_count():
    """Of the slopes 1 and −1 only the first has a weight: the places have 2, 1 and −2 of its map."""
    inputs = keras.Input((3, 1, 2))
    maps = layers.DepthwiseConv2D(1, depthwise_initializer="ones")(inputs)
    model = keras.Model(inputs, layers.Dense(2, "softmax")(layers.GlobalAveragePooling2D()(maps)))
    model.layers[-1].set_weights([np.array([[1, 0], [-1, 0]]), np.zeros(2)])
    heat = gradcam.heatmaps(model, np.float32([[[[2, 1]], [[1, 0]], [[-2, -3]]]]), [0])
    assert heat.tolist() == [[[1], [0.5], [0]]]


def test_resizing_has_no_layer_act_as_in_training():
    """In Keras 3.15 it does in a direct call, and a network whose BatchNorm was trained then sees nothing."""
    plain, resized = cnn(), cnn(resizing=True)
    plain.get_layer("norm").set_weights([np.full(6, value) for value in (2.0, 0.5, 0.3, 4.0)])
    resized.set_weights(plain.get_weights())
    heat = [gradcam.heatmaps(model, pictures(), [0, 1, 2]) for model in (plain, resized)]
    np.testing.assert_allclose(*heat, atol=1e-5)
    assert heat[0].max() == 1
