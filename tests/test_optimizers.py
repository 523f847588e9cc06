"""What notebook 06 adds to Keras' optimizers."""

from lib import optimizers

import keras
import numpy as np
import pytest
from keras import layers

pytestmark = pytest.mark.usefixtures("study")


def stepped(optimizer, shape, gradient=None):
    """Return a variable of ones before and after one step."""
    variable = keras.Variable(np.ones(shape, np.float32), name="kernel")
    optimizer.build([variable])
    optimizer.apply([keras.ops.ones(shape) if gradient is None else keras.ops.convert_to_tensor(gradient)], [variable])
    return np.ones(shape), keras.ops.convert_to_numpy(variable)


def test_muon_turns_a_kernel_in_an_orthogonal_direction():
    """All singular values of the step are about 1, however uneven the gradient's are."""
    shape = (3, 3, 8, 16)
    generator = np.random.default_rng(0)
    gradient = (generator.normal(size=(72, 16)) * np.geomspace(1e-2, 1, 16)).reshape(shape).astype("float32")
    before, after = stepped(optimizers.Muon(0.5, ns_steps=5), shape, gradient)
    kept = before * (16**0.5 / np.linalg.norm(before))
    step = (kept - after).reshape(72, 16) / 0.5
    singular = np.linalg.svd(step, compute_uv=False)
    assert singular.min() > 0.5
    assert singular.max() < 1.3
    assert np.linalg.cond(gradient.reshape(72, 16)) > 50


def test_muon_keeps_the_length_of_a_kernel():
    """Whatever it was before; only the last step adds to it."""
    _, after = stepped(optimizers.Muon(1e-6), (3, 3, 4, 9))
    assert np.linalg.norm(after) == pytest.approx(3, rel=1e-4)


@pytest.mark.parametrize("shape", [(8,), (8, 4)])
def test_muon_leaves_the_rest_to_adamw(shape):
    """At a rate of its own; the first step of Adam is as long as the rate."""
    before, after = stepped(optimizers.Muon(0.2, adam_lr_ratio=0.05), shape)
    np.testing.assert_allclose(before - after, 0.01, rtol=1e-3)


def test_biases_learn_faster():
    """By the factor, and kernels as in SGD."""
    for shape, factor in (((8,), 64), ((8, 4), 1), ((3, 3, 2, 2), 1)):
        before, after = stepped(optimizers.FastBiasSGD(0.001), shape)
        np.testing.assert_allclose(before - after, 0.001 * factor, rtol=1e-3)


@pytest.mark.parametrize("kind", [optimizers.Muon, optimizers.FastBiasSGD])
def test_a_network_learns_with_it(kind):
    """To tell dark images from bright ones, with a rate that warms up; its settings are enough to build it anew."""
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).uniform(-1, 1, (64, 8, 8, 1)).astype("float32")
    labels = (np.arange(64) % 2).astype("float32")
    images += labels[:, None, None, None]
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(4, 3), layers.BatchNormalization(),
                              layers.GlobalAveragePooling2D(), layers.Dense(1, activation="sigmoid")])
    optimizer = kind(optimizers.WarmUp(keras.optimizers.schedules.PolynomialDecay(0.1, 30, 0.0), 4))
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    history = model.fit(images, labels, batch_size=16, epochs=8, verbose=0).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is kind
    assert again.get_config() == optimizer.get_config()
