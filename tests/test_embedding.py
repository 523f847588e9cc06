"""The features in front of a network's last layer, and the map of them."""

from lib import data, embedding, plots

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from keras import layers

pytestmark = pytest.mark.usefixtures("study")


def test_features_are_what_the_last_layer_sees():
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    x = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(x))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    np.testing.assert_allclose(embedding.features(model, pixels), pixels.mean(axis=(1, 2)) / 255, rtol=1e-4)


def test_neighbours_of_the_same_class():
    vectors = np.array([[0.0], [0.1], [5.0], [5.1]])
    assert embedding.agreement(vectors, np.array([0, 0, 1, 1])) == 1
    assert embedding.agreement(vectors, np.array([0, 1, 0, 1])) == 0
    assert embedding.agreement(vectors, np.array([0, 0, 0, 1])) == 0.5


@pytest.mark.parametrize("count", [4, 120])
def test_the_map_keeps_neighbours_together(count):
    test = data.load_dataset("digits").test.take(slice(count))
    points = embedding.flat_map(test.images.reshape(count, -1).astype(np.float32), seed=0)
    assert points.shape == (count, 2) and np.isfinite(points).all()
    if count > 100:
        assert embedding.agreement(points, test.labels) > 0.7


def test_the_map_shows_every_class_and_what_each_point_is():
    digits = data.load_dataset("digits", test_limit=60)
    inputs = keras.Input(digits.image_shape, dtype="uint8")
    x = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(x))
    figure, (points, pictures, names) = plots.feature_map(model, digits, "Digits", count=50)
    assert len(figure.axes[0].lines) == 10
    assert figure.axes[0].get_title("left").endswith("% have a nearest neighbour of their class")
    assert len(points) == len(pictures) == len(names) == 50
    assert names.tolist() == [str(label) for label in digits.test.labels[:50]]
    plt.close(figure)
