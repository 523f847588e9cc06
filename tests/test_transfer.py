"""Transfer: pre-processing inside the model, what is frozen, and that the cached start changes nothing."""

import math
import os
import shutil
import time
import urllib.request
from dataclasses import replace

from lib import data, evaluation, gradcam, project, training, transfer

import keras
import numpy as np
import pytest
from conftest import one_line
from keras import layers

pytestmark = pytest.mark.usefixtures("study")
WEIGHTS = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"


@pytest.fixture(scope="module")
def mobilenet():
    """A random MobileNetV2 for 32×32 images."""
    trunk, pretrained = transfer.trunk("MobileNetV2", (32, 32, 3), 32, weights="random")
    assert pretrained == "random"
    return trunk


def pictures(count=4, size=32):
    """Return random 8-bit colour images."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def small(first_frozen=True):
    """Return a small model in the manner of MobileNetV2, for 8×8 images: BatchNorm, and a residual in the middle."""
    inputs = keras.Input((8, 8, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1, name="scale")(inputs)
    for block in "abc":
        y = layers.Conv2D(6, 3, padding="same", use_bias=False, name=f"{block}_conv")(x)
        y = layers.BatchNormalization(momentum=0.9, name=f"{block}_norm")(y)
        y = layers.ReLU(name=f"{block}_relu")(y)
        x = layers.Add(name=f"{block}_add")([x, y]) if block == "b" else y
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, layers.Dense(4, activation="softmax", name="classes")(x))
    transfer.freeze(model, until=[layer.name for layer in model.layers].index("c_conv") if first_frozen else None)
    if not first_frozen:
        model.layers[-1].trainable = True
    return model


# ---------------------------------------------------------------------------------------------- the trunk


def test_raw_pixels_are_pre_processed_as_in_pre_training(mobilenet):
    """Equal to keras.applications' own function, which expects floats and changes them in place."""
    before = keras.Model(mobilenet.input, mobilenet.get_layer("Conv1").input)
    expected = keras.applications.mobilenet_v2.preprocess_input(pictures().astype(np.float32))
    np.testing.assert_allclose(before.predict(pictures(), verbose=0), expected, atol=1e-6)


@pytest.mark.parametrize(("name", "module"), [
    ("VGG16", "vgg16"), ("ResNet50", "resnet50"), ("ResNet50V2", "resnet_v2"), ("DenseNet121", "densenet"),
    ("EfficientNetB0", "efficientnet"), ("EfficientNetV2B0", "efficientnet_v2"), ("ConvNeXtTiny", "convnext"),
    ("MobileNetV3Small", "mobilenet_v3"), ("Xception", "xception"), ("InceptionV3", "inception_v3"),
])  # fmt: skip
def test_every_backbone_gets_its_own_pre_processing(name, module):
    """Equal to keras.applications' own functions."""
    x = pictures().astype(np.float32)
    for layer in transfer.preprocessing(name):
        x = layer(x)
    expected = getattr(keras.applications, module).preprocess_input(pictures().astype(np.float32))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(x), expected, atol=1e-4)


def test_an_unknown_backbone_lists_the_known_ones():
    """In one line."""
    with pytest.raises(data.DataError) as error:
        transfer.trunk("MobileNetV22", (32, 32, 3), 32)
    message = str(error.value)
    assert message.startswith("there is no backbone MobileNetV22: choose one of ConvNeXtBase, ")
    assert "EfficientNetB7" in message
    assert "\n" not in message


@pytest.mark.parametrize(("name", "first", "thawed"), [
    ("VGG16", "block4_conv3", 6), ("MobileNetV2", "block_15_expand", 20)])
def test_the_upper_half_holds_half_of_the_weights(name, first, thawed, mobilenet):
    """And begins where one tensor carries everything, so that what lies below can be cached."""
    trunk = mobilenet if name == "MobileNetV2" else transfer.trunk(name, (32, 32, 3), 32, weights="random")[0]
    index = transfer.upper_half(trunk)
    assert (trunk.layers[index].name, len(trunk.layers) - index) == (first, thawed)
    assert index in [count for count, _ in transfer.cuts(trunk)]
    weights = [layer.count_params() for layer in trunk.layers]
    assert sum(weights[index:]) >= sum(weights) / 2


@pytest.mark.parametrize(("wanted", "count"), [(2, 2), (0, 6), (54, 6), (18, 6)])
def test_so_many_layers_are_thawed_as_leave_a_frozen_start(wanted, count):
    """Or the upper half of the weights: VGG16 has 22 layers here, and the first with weights is the fifth."""
    trunk, _ = transfer.trunk("VGG16", (32, 32, 3), 32, weights="random")
    assert transfer.last_layers(trunk, wanted) == count
    transfer.freeze(trunk, until=-transfer.last_layers(trunk, 17))
    assert len(transfer.split(trunk)[0].layers) == 5


def test_a_size_too_small_for_a_backbone_is_one_line():
    """It halves the image until nothing is left; Keras says so."""
    with pytest.raises(data.DataError, match="InceptionV3 cannot be built for 32 pixels: Comp") as error:
        transfer.trunk("InceptionV3", (32, 32, 3), 32, weights="random")
    one_line(error)


def test_images_are_enlarged_inside_the_model():
    """To the size that was asked for, bilinearly; a constant image stays constant."""
    trunk, _ = transfer.trunk("MobileNetV2", (32, 32, 3), 64, weights="random")
    resized = keras.Model(trunk.input, trunk.get_layer("resize").output)
    assert resized.output_shape == (None, 64, 64, 3)
    assert trunk.output_shape == (None, 2, 2, 1280)
    result = resized.predict(np.full((1, 32, 32, 3), 77, np.uint8), verbose=0)
    np.testing.assert_array_equal(result, np.full((1, 64, 64, 3), 77))


def test_the_trunk_is_mobilenet_v2(mobilenet):
    """2,257,984 parameters; index 100 of keras.applications, with its one layer before Conv1, is index 102 here."""
    published = keras.applications.MobileNetV2(input_shape=(32, 32, 3), include_top=False, weights=None)
    assert mobilenet.count_params() == published.count_params() == 2_257_984
    ours, theirs = [layer.name for layer in mobilenet.layers], [layer.name for layer in published.layers]
    assert len(theirs) == 154
    assert ours[3:] == theirs[1:]
    assert ours[102] == theirs[100]


@pytest.mark.parametrize(("batch_norm", "count"), [(False, 1_861_440), (True, 1_839_616)])
def test_thawing_from_index_100_gives_the_counted_parameters(mobilenet, batch_norm, count):
    """With and without scale and shift of 18 BatchNorm layers."""
    transfer.freeze(mobilenet, until=102, batch_norm=batch_norm)
    assert sum(math.prod(weight.shape) for weight in mobilenet.trainable_weights) == count
    thawed = [layer for layer in mobilenet.layers if isinstance(layer, layers.BatchNormalization) and layer.trainable]
    assert len(thawed) == (0 if batch_norm else 18)
    transfer.freeze(mobilenet, until=-54, batch_norm=batch_norm)
    assert sum(math.prod(weight.shape) for weight in mobilenet.trainable_weights) == count
    transfer.freeze(mobilenet)
    assert mobilenet.trainable_weights == []


def test_thawing_reaches_layers_of_a_model_that_counts_as_trainable():
    """`model.trainable = True` would not, where it is true already."""
    model = small()
    model.get_layer("c_conv").trainable = False
    transfer.freeze(model, until=0)
    assert all(layer.trainable for layer in model.layers)
    assert len(model.trainable_weights) == 3 * 3 + 2


def test_a_random_trunk_has_outputs_that_tell_images_apart(mobilenet):
    """With the statistics that BatchNorm starts with they would fade to nothing; the momentum is Keras' again."""
    outputs = mobilenet.predict(pictures(8), verbose=0)
    assert outputs.std(axis=0).mean() > 0.1
    assert {layer.momentum for layer in mobilenet.layers if isinstance(layer, layers.BatchNormalization)} == {0.999}


# ---------------------------------------------------------------------------------------------- the split


def check_split(model, images):
    """Assert that prefix and tail make the model: outputs and gradients of all that is trained; return both."""
    import tensorflow as tf

    prefix, tail = transfer.split(model)
    assert prefix.trainable_weights == []
    assert {weight.path for weight in tail.trainable_weights} == {weight.path for weight in model.trainable_weights}
    whole = model.predict(images, verbose=0)
    np.testing.assert_array_equal(tail.predict(prefix.predict(images, verbose=0), verbose=0), whole)
    gradients = []
    for part, inputs in ((model, images), (tail, prefix(images))):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(part(inputs, training=True) - 0.3))
        gradients.append({weight.path: gradient.numpy() for weight, gradient in zip(
            part.trainable_weights, tape.gradient(loss, part.trainable_weights), strict=True)})
    assert any(abs(gradient).max() > 0 for gradient in gradients[0].values())
    for path, gradient in gradients[0].items():
        np.testing.assert_allclose(gradients[1][path], gradient, 1e-5, 1e-6 * abs(gradient).max(), err_msg=path)
    return prefix, tail


def test_the_split_mobilenet_equals_the_whole(mobilenet):
    """In float32, with frozen BatchNorm; cut where a single tensor carries everything."""
    x = layers.GlobalAveragePooling2D()(mobilenet.output)
    model = keras.Model(mobilenet.input, layers.Dense(10, activation="softmax")(x))
    transfer.freeze(mobilenet, until=102, batch_norm=True)
    prefix, _ = check_split(model, pictures())
    assert prefix.layers[-1].name == "block_10_project_BN"
    assert prefix.output_shape == (None, 2, 2, 96)


@pytest.mark.parametrize(("first", "cut"), [
    ("c_conv", "b_add"), ("b_norm", "a_relu"), ("b_conv", "a_relu"), ("a_norm", "a_conv"), ("classes", "pool"),
    ("b_add", "b_add"),  # an addition has nothing to train: c_conv is next
])  # fmt: skip
def test_the_cut_is_never_inside_a_residual(first, cut):
    """The tensor that skips a layer would be lost."""
    model = small()
    transfer.freeze(model, until=[layer.name for layer in model.layers].index(first))
    prefix, _ = check_split(model, pictures(5, 8))
    assert prefix.layers[-1].name == cut


def test_blocks_that_add_without_a_layer_are_not_cut_either():
    """ConvNeXt's `+` is no layer, and its stem and its halvings are models of their own."""
    trunk, _ = transfer.trunk("ConvNeXtTiny", (32, 32, 3), 32, weights="random")
    x = layers.GlobalAveragePooling2D()(trunk.output)
    model = keras.Model(trunk.input, layers.Dense(10, activation="softmax")(x))
    for last in (48, 54, 0):
        transfer.freeze(trunk, until=-transfer.last_layers(trunk, last))
        prefix, tail = transfer.split(model)
        assert prefix.trainable_weights == []
        np.testing.assert_allclose(tail.predict(prefix.predict(pictures(), verbose=0), verbose=0),
                                   model.predict(pictures(), verbose=0), rtol=1e-5)
    assert gradcam.heatmaps(model, pictures(), np.arange(4), rows=2).shape == (4, 2, 2)


def test_a_model_without_a_frozen_start_cannot_be_split():
    """Nor one without anything to train."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    with pytest.raises(ValueError, match="a frozen start"):
        transfer.split(model)
    transfer.freeze(model)
    with pytest.raises(ValueError):
        transfer.split(model)
    dropped = keras.Model(inputs, layers.Dropout(0.5)(model(inputs)))
    with pytest.raises(ValueError):
        transfer.split(dropped)


def test_dropout_in_front_of_the_head_is_trained_with():
    """In the frozen prefix it would do nothing."""
    inputs = keras.Input((4,))
    trunk = keras.Model(inputs, layers.Dropout(0.1, name="of the trunk")(layers.Dense(3)(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(layers.Dropout(0.5, name="of the head")(trunk.output)))
    transfer.freeze(trunk)
    prefix, tail = transfer.split(model)
    assert [layer.name for layer in prefix.layers][-1] == "of the trunk"
    assert [layer.name for layer in tail.layers][1] == "of the head"


# ---------------------------------------------------------------------------------------------- BatchNorm


def statistics(model):
    """Return the moving mean and variance of all BatchNorm layers."""
    return {weight.path: weight.numpy() for weight in model.non_trainable_weights if "moving" in weight.path}


@pytest.mark.parametrize("batch_norm", [False, True])
def test_only_thawed_statistics_move(noise, cache, batch_norm):
    """In `fit` of the tail; those of the frozen start never do."""
    model = small()
    names = [layer.name for layer in model.layers]
    transfer.freeze(model, until=names.index("c_conv"), batch_norm=batch_norm)
    prefix, tail = transfer.split(model)
    before, weights = statistics(model), model.get_layer("c_conv").kernel.numpy()
    training.fit(tail, transfer.cache(prefix, noise), training.Recipe(epochs=1, batch_size=8))
    moved = {path.split("/")[0] for path, value in statistics(model).items() if not np.array_equal(value, before[path])}
    assert moved == (set() if batch_norm else {"c_norm"})
    assert not np.array_equal(model.get_layer("c_conv").kernel.numpy(), weights)


# ---------------------------------------------------------------------------------------------- the cache


@pytest.fixture(scope="module")
def prefix():
    """The frozen start of the small model."""
    keras.utils.set_random_seed(0)
    return transfer.split(small())[0]


def files(cache):
    """Return the cache's files with their numbers on the disk, which a file written anew does not share."""
    return {path.relative_to(cache): path.stat().st_ino for path in cache.rglob("*.npy")}


def test_the_cache_holds_what_the_prefix_gives(prefix, noise, cache):
    """To within the rounding of float16, for every image, as memory maps; labels and places stay."""
    features = transfer.cache(prefix, noise, batch_size=7)
    for part in ("train", "validation", "test"):
        split, cached = getattr(noise, part), getattr(features, part)
        assert isinstance(cached.images, np.memmap)
        assert cached.images.dtype == np.float16
        expected = prefix.predict(split.images, verbose=0)
        assert abs(expected).max() > 0.5
        np.testing.assert_allclose(cached.images, expected, rtol=5e-4, atol=1e-5)
        np.testing.assert_array_equal(cached.labels, split.labels)
        np.testing.assert_array_equal(cached.indices, split.indices)
    assert features.train.mirrored is None
    assert features.name == noise.name
    assert features.fingerprint.startswith(f"{noise.fingerprint}-")  # and goes on with what the prefix computes


def test_the_cache_tells_the_tail_nothing_else(noise, cache):
    """Probabilities differ by no more than float16 can explain."""
    model = small()
    prefix, tail = transfer.split(model)
    whole = evaluation.predict(model, noise.test.images)
    np.testing.assert_allclose(evaluation.predict(tail, transfer.cache(prefix, noise).test.images), whole, atol=2e-3)


def test_the_mirrored_branch_holds_the_features_of_mirror_images(prefix, noise, cache):
    """Of the training images only."""
    features = transfer.cache(prefix, noise, mirrored=True)
    expected = prefix.predict(np.ascontiguousarray(noise.train.images[:, :, ::-1]), verbose=0)
    np.testing.assert_allclose(features.train.mirrored, expected, rtol=5e-4, atol=1e-5)
    assert abs(features.train.mirrored - features.train.images).max() > 0.1
    assert features.validation.mirrored is features.test.mirrored is None


def test_test_images_can_be_left_out(prefix, noise, cache):
    """Where a choice is made, they stay images."""
    features = transfer.cache(prefix, noise, parts=("train", "validation"))
    assert features.test.images is noise.test.images
    assert features.train.images.shape == (40, 8, 8, 6)


def test_the_cache_is_computed_once(prefix, noise, cache):
    """For the same weights and images; anew for others, and beside the old one."""
    transfer.cache(prefix, noise)
    once = files(cache)
    transfer.cache(prefix, noise)
    assert files(cache) == once
    keras.utils.set_random_seed(1)
    other = transfer.split(small())[0]
    renamed, shorter = replace(noise, fingerprint="4567"), replace(noise, test=noise.test.take(slice(5)))
    for start, images in ((other, noise), (prefix, renamed), (prefix, shorter)):
        known = files(cache)
        features = transfer.cache(start, images)
        assert len(files(cache)) > len(known)
        assert files(cache).items() >= known.items()
        expected = start.predict(images.test.images, verbose=0)
        np.testing.assert_allclose(features.test.images, expected, rtol=5e-4, atol=1e-5)


def test_other_images_are_not_mistaken_for_cached_ones(prefix, noise, cache):
    """Though they be as many."""
    transfer.cache(prefix, noise)
    for test in (noise.test.take(slice(11, None, -1)), noise.test._replace(images=255 - noise.test.images)):
        expected = prefix.predict(test.images, verbose=0)
        found = transfer.cache(prefix, replace(noise, test=test)).test.images
        np.testing.assert_allclose(found, expected, rtol=5e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_the_cache_takes_other_precisions(noise, cache, precision):
    """Their numbers have an eighth or all of float16's digits."""
    keras.utils.set_random_seed(0)
    exact = transfer.split(small())[0]
    keras.config.set_dtype_policy(precision)
    try:
        keras.utils.set_random_seed(0)
        rough = transfer.split(small())[0]
        features = transfer.cache(rough, noise, parts=("train",))
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(features.train.images, exact.predict(noise.train.images, verbose=0), atol=0.05)


def refusal(prefix, noise, cache):
    """Return the one line with which the cache refuses, after making sure that nothing is left behind."""
    with pytest.raises(data.DataError) as error:
        transfer.cache(prefix, noise)
    assert not cache.is_dir() or not [path for path in cache.rglob("*") if path.is_file()]
    assert str(cache) in one_line(error)
    assert "None" not in str(error.value)
    return str(error.value)


def test_too_little_space_is_noticed_before_anything_is_computed(prefix, noise, cache, monkeypatch):
    """40 maps of 8×8×6 numbers of two bytes are the largest of three files."""
    free, usage = 40 * 8 * 8 * 6 * 2, shutil.disk_usage(os.sep)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    transfer.cache(prefix, noise)
    shutil.rmtree(cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free - 1))
    assert "it needs 0.0 GB" in refusal(prefix, noise, cache)


def test_what_was_used_longest_ago_makes_room(prefix, noise, cache, monkeypatch):
    """What a killed process left counts, and goes first here; a deleted file can still be read where it is mapped."""
    first = transfer.cache(prefix, noise)
    size = sum(path.stat().st_size for path in cache.rglob("*.npy"))
    leftover = cache / "features" / "other" / f"{project.UNFINISHED}{2**30}-train-0.npy"  # of no process there is
    leftover.parent.mkdir()
    leftover.write_bytes(bytes(1000))
    abandoned = cache / "checkpoints" / "0123.npz"  # of a training that nobody goes on with
    abandoned.parent.mkdir()
    abandoned.write_bytes(bytes(10))
    for age, path in enumerate([abandoned, leftover, *cache.rglob("train-*")]):
        os.utime(path, (age, age))
    monkeypatch.setenv("STUDY_CACHE_GB", str((size + 1005) / 1e9))
    transfer.cache(prefix, noise, parts=("validation",))
    assert abandoned.exists()  # nothing new, so nothing needs room
    monkeypatch.setenv("STUDY_CACHE_GB", str((size + 500) / 1e9))
    written = leftover.with_name(project.unfinished("train-0.npy"))  # by this process, so it is not touched
    written.write_bytes(b"")
    os.utime(written, (0, 0))
    transfer.cache(prefix, noise, parts=("validation",))
    assert leftover.exists()
    transfer.cache(prefix, replace(noise, fingerprint="4567"), parts=("validation",))
    assert written.exists() and not leftover.exists() and not abandoned.exists()
    written.unlink()
    assert sorted(path.name.split("-")[0] for path in cache.rglob("*.npy")) == ["test", "validation", "validation"]
    np.testing.assert_allclose(first.train.images, prefix.predict(noise.train.images, verbose=0), rtol=5e-4, atol=1e-5)


@pytest.mark.parametrize("limit", ["much", "nan", "-1", ""])
def test_a_limit_that_is_no_number_is_one_line(prefix, noise, cache, monkeypatch, limit):
    monkeypatch.setenv("STUDY_CACHE_GB", limit)
    with pytest.raises(data.DataError, match=f"^STUDY_CACHE_GB is {limit!r}: set it to a number of gigabytes$"):
        transfer.cache(prefix, noise)


def test_features_beyond_the_limit_delete_nothing(prefix, noise, cache, monkeypatch):
    """No room that could be made would do."""
    transfer.cache(prefix, noise, parts=("test",))
    before = files(cache)
    monkeypatch.setenv("STUDY_CACHE_GB", "0.00001")
    with pytest.raises(data.DataError, match=r"^features of 0\.0 GB are more than the cache may hold: "):
        transfer.cache(prefix, noise, parts=("train",))
    assert files(cache) == before


def test_a_disk_that_fills_up_is_one_line(prefix, noise, cache, full_disk):
    """And leaves nothing behind."""
    with full_disk(2000):
        assert refusal(prefix, noise, cache).startswith("cannot write the feature cache in")


def test_a_cache_folder_that_cannot_be_made_is_one_line(prefix, noise, cache):
    """Here a file stands where the folder should be."""
    cache.write_text("")
    refusal(prefix, noise, cache)


# ---------------------------------------------------------------------------------------------- ImageNet weights


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty Keras home on a machine without a network; Keras reads KERAS_HOME only when it is imported."""
    from keras.src.backend import config

    monkeypatch.setattr(config, "_KERAS_DIR", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "_opener", None)  # it would keep these proxies for all tests to come
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_without_weights_and_network_the_trunk_is_random_and_says_so(home, capfd):
    """At once, and silently: the notebook's banner is what tells."""
    start = time.perf_counter()
    trunk, pretrained = transfer.trunk("MobileNetV2", (32, 32, 3), 32)
    assert pretrained == "random"
    assert trunk.count_params() == 2_257_984
    assert time.perf_counter() - start < 20
    assert "Traceback" not in "".join(capfd.readouterr())
    assert not list(home.rglob("*.h5"))


@pytest.mark.parametrize("content", [b"", b"not a weights file", b"\x89HDF\r\n\x1a\n" + bytes(1000)])
def test_a_damaged_weights_file_is_one_line(home, content):
    """It never passes for random weights."""
    (home / "models").mkdir()
    (home / "models" / WEIGHTS).write_bytes(content)
    with pytest.raises(data.DataError) as error:
        transfer.trunk("MobileNetV2", (32, 32, 3), 32)
    assert "the ImageNet weights of MobileNetV2" in one_line(error)
    assert "delete the file" in str(error.value)


def test_a_damaged_weights_file_that_keras_deletes_is_one_line(home):
    """It knows the hash of this one, and fetches it anew, which fails here."""
    (home / "models").mkdir()
    path = home / "models" / "efficientnetb0_notop.h5"
    path.write_bytes(b"not a weights file")
    with pytest.raises(data.DataError, match="was damaged and could not be downloaded again") as error:
        transfer.trunk("EfficientNetB0", (32, 32, 3), 32)
    assert str(path) in one_line(error)


def test_misspelt_weights_are_not_taken_for_random_ones():
    with pytest.raises(data.DataError, match=r"^weights is 'imagnet': choose imagenet or random$"):
        transfer.trunk("MobileNetV2", (32, 32, 3), 32, "imagnet")


def test_an_output_beyond_float16_is_refused(noise):
    """It would become infinite in the cache."""
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    prefix = keras.Model(inputs, layers.Rescaling(1000.0)(inputs))
    with pytest.raises(data.DataError, match="does not fit in float16"):
        transfer.cache(prefix, noise)


SHORT = Exception("URL fetch failure on https://host: None -- retrieval incomplete: got only 5 out of 10 bytes")


@pytest.mark.parametrize("error", [
    ConnectionResetError(104, "Connection reset by peer"), TimeoutError("timed out"), SHORT])  # fmt: skip
def test_a_download_that_breaks_off_says_so(error):
    """There is no file to delete: Keras has done that."""
    def build(**settings):
        raise error

    with pytest.raises(data.DataError, match=r"broke off \(.*\): run again$"):
        transfer._pretrained("MobileNetV2", build, None)


@pytest.fixture
def real_weights():
    """Skips where the published weights are not in the Keras home."""
    if not (data.keras_home() / "models" / WEIGHTS).exists():
        pytest.skip(f"{WEIGHTS} is not in {data.keras_home() / 'models'} (KERAS_HOME)")


@pytest.mark.real_data
def test_real_weights_are_loaded_whatever_the_size(real_weights, mobilenet):
    """The first filters are those of the published network, and the outputs are not a random trunk's."""
    published = keras.applications.MobileNetV2(input_shape=(224, 224, 3), include_top=False)
    trunk, pretrained = transfer.trunk("MobileNetV2", (32, 32, 3), 32)
    assert pretrained == "imagenet"
    for ours, theirs in zip(trunk.get_weights(), published.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    outputs = [model.predict(pictures(), verbose=0) for model in (trunk, mobilenet)]
    assert abs(outputs[0] - outputs[1]).max() > 0.1


@pytest.mark.real_data
def test_real_weights_know_what_they_see(real_weights):
    """The network with its pre-processing inside tells a smooth image from noise, in the range of ReLU6."""
    trunk, _ = transfer.trunk("MobileNetV2", (32, 32, 3), 96)
    ramp = np.broadcast_to(np.arange(0, 256, 8, np.uint8)[:, None, None], (32, 32, 3))
    outputs = trunk.predict(np.stack([ramp, pictures(1)[0]]), verbose=0).mean(axis=(1, 2))
    assert 0 <= outputs.min() < outputs.max() <= 6
    assert abs(outputs[0] - outputs[1]).max() > 0.5
