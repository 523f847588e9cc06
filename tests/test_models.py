"""Models: the layers they share, their size, and that a saved model answers as it did."""

import subprocess
import sys

from lib import models, project

import keras
import numpy as np
import pytest
from keras import layers

pytestmark = pytest.mark.usefixtures("study")


def simple_cnn(greyscale=False):
    """A1 of the study, layer by layer as on deck A's slide; D1 is the same on greyscale."""
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(inputs)
    x = models.Grayscale()(x) if greyscale else x
    x = layers.MaxPooling2D()(layers.Conv2D(32, 3, activation="relu")(x))
    x = layers.MaxPooling2D()(layers.Conv2D(64, 3, activation="relu")(x))
    x = layers.Dense(128, activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def pictures(count=4, size=32):
    """Return random 8-bit colour images."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def test_greyscale_is_the_luminance_of_itu_r_601():
    """0.299 red + 0.587 green + 0.114 blue, in the range of the input."""
    images = pictures().astype(np.float32)
    grey = keras.ops.convert_to_numpy(models.Grayscale()(images))
    assert grey.shape == (4, 32, 32, 1)
    np.testing.assert_allclose(grey[..., 0], images @ np.float32([0.299, 0.587, 0.114]), atol=0.05)
    assert models.Grayscale().compute_output_shape((None, 8, 9, 3)) == (None, 8, 9, 1)


@pytest.mark.parametrize("settings", [{}, {"scale": False, "momentum": 0.6}, {"center": False, "epsilon": 1e-5}])
def test_batch_norm_is_that_of_keras(settings):
    """Outputs, gradients and moving statistics of three training steps, the prediction after them, and frozen."""
    import tensorflow as tf

    maps = np.random.default_rng(0).normal(1, 2, (3, 16, 5, 5, 4)).astype(np.float32)
    ours, theirs = models.BatchNorm(**settings), layers.BatchNormalization(**settings)
    results = []
    for layer in (ours, theirs):
        layer.build((None, 5, 5, 4))
        found = []
        for batch in map(tf.constant, maps):
            with tf.GradientTape() as tape:
                tape.watch(batch)
                outputs = layer(batch, training=True)
                loss = tf.reduce_sum(outputs**3)
            found += [outputs, *tape.gradient(loss, [batch, *layer.trainable_variables])]
        found += [*layer.variables, layer(maps[0])]
        layer.trainable = False
        results.append([*found, layer(maps[0], training=True)])
    for mine, reference in zip(*results, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-4, atol=1e-4)


def test_parameters_are_the_decks():
    """A1's 315,722; D1 has one input channel instead of three."""
    assert models.count_parameters(simple_cnn())["total_parameters"] == 315_722
    assert models.count_parameters(simple_cnn(greyscale=True))["total_parameters"] == 315_146


def test_only_what_is_trained_counts_as_trainable():
    """Frozen layers and BatchNorm statistics are not."""
    inputs = keras.Input((4,))
    frozen = layers.Dense(5)
    model = keras.Model(inputs, layers.Dense(2)(layers.BatchNormalization()(frozen(inputs))))
    assert models.count_parameters(model) == {"total_parameters": 25 + 20 + 12, "trainable_parameters": 25 + 10 + 12}
    frozen.trainable = False
    assert models.count_parameters(model) == {"total_parameters": 25 + 20 + 12, "trainable_parameters": 10 + 12}


@pytest.mark.parametrize(("layer", "shape", "flops"), [
    (lambda: layers.Conv2D(8, 3), (32, 32, 3), 2 * 30 * 30 * 8 * 3 * 3 * 3),
    (lambda: layers.Conv2D(8, 3, strides=2, padding="same"), (32, 32, 3), 2 * 16 * 16 * 8 * 3 * 3 * 3),
    (lambda: layers.Conv2D(8, 1, groups=2), (5, 7, 4), 2 * 5 * 7 * 8 * 2),
    (lambda: layers.DepthwiseConv2D(3), (32, 32, 6), 2 * 30 * 30 * 6 * 3 * 3),
    (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), (8, 8, 6), 2 * 8 * 8 * 12 * 3 * 3),
    (lambda: layers.Dense(10), (128,), 2 * 128 * 10),
    (lambda: layers.Dense(10), (5, 128), 2 * 5 * 128 * 10),
    (lambda: layers.ReLU(), (8, 8, 3), 0),
])  # fmt: skip
def test_operations_are_those_counted_by_hand(layer, shape, flops):
    """Multiply and add are two."""
    inputs = keras.Input(shape)
    assert models.count_flops(keras.Model(inputs, layer()(inputs))) == flops


def test_operations_of_a_whole_model_and_of_one_inside_another():
    """A1: two convolutions and two dense layers."""
    expected = 2 * (30 * 30 * 32 * 27 + 13 * 13 * 64 * 288 + 2304 * 128 + 128 * 10)
    model, inputs = simple_cnn(), keras.Input((32, 32, 3), dtype="uint8")
    assert models.count_flops(model) == expected
    assert models.count_flops(keras.Model(inputs, model(inputs))) == expected


@pytest.mark.parametrize("greyscale", [False, True])
def test_a_saved_model_gives_the_same_outputs(tmp_path, greyscale):
    """From raw pixels, loaded in safe mode: no code comes with it."""
    model, path = simple_cnn(greyscale), tmp_path / "folder" / "model.keras"
    models.save(model, path)
    loaded = keras.models.load_model(path, safe_mode=True)
    np.testing.assert_array_equal(loaded.predict(pictures(), verbose=0), model.predict(pictures(), verbose=0))
    assert [file.name for file in path.parent.iterdir()] == ["model.keras"]


def caffe_cnn():
    """The beginning of a network that was trained by Caffe: blue first, minus the mean."""
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    x = layers.Rescaling(1.0, offset=[-103.9, -116.8, -123.7])(models.ReverseChannels()(inputs))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def test_saved_models_answer_alike_in_another_process(tmp_path):
    """In safe mode, with nothing but our layers imported."""
    saved = {"simple": simple_cnn(), "greyscale": simple_cnn(greyscale=True), "caffe": caffe_cnn()}
    for name, model in saved.items():
        models.save(model, tmp_path / f"{name}.keras")
    np.save(tmp_path / "pictures.npy", pictures())
    code = ("import sys, pathlib; from lib import models, runtime; import keras, numpy as np\n"
            "runtime.start('00_test'); folder = pathlib.Path(sys.argv[1])\n"
            "for path in folder.glob('*.keras'):\n"
            "    model = keras.models.load_model(path, compile=False, safe_mode=True)\n"
            "    np.save(path.with_suffix('.npy'), model.predict(np.load(folder / 'pictures.npy'), verbose=0))")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=project.ROOT, check=True)
    for name, model in saved.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), model.predict(pictures(), verbose=0))


def test_a_failed_save_leaves_the_old_model(tmp_path, full_disk):
    """And no temporary file."""
    path, model = tmp_path / "model.keras", simple_cnn()
    models.save(model, path)
    before = path.read_bytes()
    with full_disk(100_000), pytest.raises(OSError):
        models.save(model, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]
