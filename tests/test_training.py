"""Training: what a batch holds, that a run can be repeated, and that a finished experiment is kept."""

import hashlib
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import replace

from lib import augmentation, data, decks, evaluation, project, records, runtime, training

import keras
import numpy as np
import pytest
from keras import layers

pytestmark = pytest.mark.usefixtures("study")


def network(dropout=0.5, size=8):
    """A small network with all that is random in training; size None takes images of any size. Names stay the same."""
    inputs = keras.Input((size, size, 3), dtype="uint8", name="image")
    flat = layers.Flatten(name="flat") if size else layers.GlobalMaxPooling2D(name="flat")
    x = layers.Rescaling(1 / 255, name="scale")(inputs)
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, activation="relu", name="conv")(x))
    x = layers.Dropout(dropout, seed=1, name="dropout")(flat(x))
    return keras.Model(inputs, layers.Dense(4, activation="softmax", name="classes")(x), name="small")


RECIPE = training.Recipe(epochs=2, batch_size=8, flip="random", shift=1)


# ---------------------------------------------------------------------------------------------- batches


def epochs(batches, count):
    """Return what `count` epochs show: a list of (images, targets) per epoch."""
    shown = []
    for _ in range(count):
        parts = [batches[index] for index in range(len(batches))]
        shown.append(tuple(np.concatenate(part) for part in zip(*parts, strict=True)))
        batches.on_epoch_end()
    return shown


def places(images, split):
    """Return for each image its place in the split and whether it is mirrored; no two images are alike."""
    known = {image.tobytes(): (place, False) for place, image in enumerate(split.images)}
    known |= {image[:, ::-1].tobytes(): (place, True) for place, image in enumerate(split.images)}
    return [known[image.tobytes()] for image in images]


def test_batches_are_the_same_for_the_same_seed_only(noise):
    """In every epoch; another epoch and another seed show something else."""
    def digest(seed):
        batches = augmentation.Batches(noise.train, 4, RECIPE, seed)
        return [hashlib.sha256(images.tobytes()).hexdigest() for images, _ in epochs(batches, 3)]

    assert digest(1) == digest(1)
    assert len(set(digest(1) + digest(2))) == 6


def test_a_batch_can_be_asked_for_twice(noise):
    """Keras looks at the first one before it trains."""
    batches = augmentation.Batches(noise.train, 4, RECIPE)
    np.testing.assert_array_equal(batches[2][0], batches[2][0])


def test_an_epoch_shows_every_image_once_with_its_label(noise):
    """The last, smaller batch is left out, other images each time."""
    split = noise.train.take(slice(37))
    shown = epochs(augmentation.Batches(split, 4, replace(RECIPE, flip="none", shift=0)), 20)
    missing = []
    for images, targets in shown:
        found = [place for place, _ in places(images, split)]
        assert len(found) == len(set(found)) == 32
        assert targets.argmax(axis=1).tolist() == [split.labels[place] for place in found]
        missing.append(frozenset(range(37)) - set(found))
    assert len(set(missing)) > 10


def test_fewer_images_than_a_batch_are_one_batch(noise):
    """Not none."""
    batches = augmentation.Batches(noise.validation, 4, replace(RECIPE, batch_size=64))
    assert len(batches) == 1
    assert batches[0][0].shape == (8, 8, 8, 3)


def test_fit_goes_through_all_batches_of_every_epoch(noise):
    """As Keras draws them, in an order of its own: none twice and none of another epoch."""
    class Watched(augmentation.Batches):
        def __getitem__(self, index):
            drawn[-1].append((self.epoch, index))
            return super().__getitem__(index)

        def on_epoch_end(self):
            drawn.append([])
            super().on_epoch_end()

    drawn, model = [[]], network()
    model.compile("sgd", "categorical_crossentropy")
    model.fit(Watched(noise.train, 4, RECIPE), epochs=3, verbose=0)
    trained_on = [sorted(epoch) for epoch in drawn if len(epoch) > 2]  # the first draws only find out the shapes
    assert len(trained_on) == 3
    for epoch in trained_on:
        assert epoch == [(epoch[0][0], index) for index in range(5)]
    assert len({epoch[0][0] for epoch in trained_on}) == 3


def test_alternate_flip_shows_each_image_as_it_is_and_mirrored_in_turn(noise):
    """Exactly; about half of them begin mirrored."""
    recipe = replace(RECIPE, flip="alternate", shift=0)
    turns = [dict(places(images, noise.train)) for images, _ in epochs(augmentation.Batches(noise.train, 4, recipe), 4)]
    for place in range(40):
        assert turns[0][place] == turns[2][place] != turns[1][place] == turns[3][place]
    assert 10 < sum(turns[0].values()) < 30


def test_random_flip_mirrors_half_of_the_images_anew_each_time(noise):
    """And "none" mirrors none."""
    recipe = replace(RECIPE, shift=0)
    shown = epochs(augmentation.Batches(noise.train, 4, recipe), 50)
    turns = [dict(places(images, noise.train)) for images, _ in shown]
    assert np.mean([list(turn.values()) for turn in turns]) == pytest.approx(0.5, abs=0.05)
    shares = np.mean([[turn[place] for place in range(40)] for turn in turns], axis=0)
    assert shares.min() > 0.2
    assert shares.max() < 0.8
    plain = augmentation.Batches(noise.train, 4, replace(recipe, flip="none"))
    assert not any(mirrored for images, _ in epochs(plain, 3) for _, mirrored in places(images, noise.train))


def test_mirrored_features_stand_in_for_mirrored_images(noise):
    """They come from the cache; the features themselves are never turned round."""
    features = np.random.default_rng(0).random((40, 2, 2, 5)).astype(np.float16)
    split = noise.train._replace(images=features, mirrored=features + 10)
    batches = augmentation.Batches(split, 4, replace(RECIPE, flip="alternate", shift=0))
    for _ in range(2):
        rows = np.sort(batches.order[:8])
        images, _ = batches[0]
        turned = images.min(axis=(1, 2, 3)) >= 10
        expected = np.where(turned[:, None, None, None], features[rows] + 10, features[rows])
        np.testing.assert_array_equal(images, expected)
        assert 0 < turned.sum() < 8
        batches.on_epoch_end()


def test_batches_leave_the_data_as_it_is(noise, tmp_path):
    """Read-only memory maps will do."""
    np.save(tmp_path / "images.npy", noise.train.images)
    split = noise.train._replace(images=np.load(tmp_path / "images.npy", mmap_mode="r"))
    before = noise.train.images.copy()
    epochs(augmentation.Batches(split, 4, replace(RECIPE, shift=2)), 2)
    epochs(augmentation.Batches(noise.train, 4, replace(RECIPE, shift=2)), 2)
    np.testing.assert_array_equal(noise.train.images, before)


@pytest.mark.parametrize("shift", [1, 2])
def test_shifted_images_stay_in_range_with_reflected_borders(shift):
    """Every move up to `shift` in both directions occurs, none beyond, and each image has its own."""
    images = np.random.default_rng(0).integers(0, 256, (400, 6, 6, 2), np.uint8)
    shifted = augmentation.shift_images(images, shift, np.random.default_rng(1))
    assert shifted.shape == images.shape
    assert shifted.dtype == images.dtype
    seen = set()
    for image, result in zip(images, shifted, strict=True):
        padded = np.pad(image, ((shift, shift), (shift, shift), (0, 0)), mode="reflect")
        moves = [(down, across) for down in range(2 * shift + 1) for across in range(2 * shift + 1)
                 if np.array_equal(padded[down : down + 6, across : across + 6], result)]
        assert len(moves) == 1
        seen.update(moves)
    assert len(seen) == (2 * shift + 1) ** 2


def test_no_shift_is_no_copy():
    """Nor a random number."""
    images = np.zeros((2, 4, 4, 3), np.uint8)
    assert augmentation.shift_images(images, 0, None) is images


def test_images_are_shrunk(noise):
    """To the size that is asked for; an image of one colour stays one."""
    flat = noise.train._replace(images=np.full_like(noise.train.images, 77))
    batches = augmentation.Batches(flat, 4, RECIPE)
    for size in (4, 6, 8, None):
        batches.shrink_to(size)
        images, _ = batches[0]
        assert images.shape[1:] == (size or 8, size or 8, 3)
        assert images.dtype == np.uint8
        assert (images == 77).all()


@pytest.mark.parametrize("change", [lambda maps: augmentation.shrink(maps, 4),
                                    lambda maps: augmentation.turn_images(maps, 10, 0.1, np.random.default_rng(0))])
def test_features_are_no_whole_numbers(change):
    """Cached ones take the place of images."""
    changed = change(np.full((2, 8, 8, 3), 0.25, np.float16))
    assert changed.dtype == np.float16
    np.testing.assert_allclose(changed, 0.25, rtol=1e-3)


def test_small_images_come_first(noise, monkeypatch):
    """An equal share of the epochs for each size, and every image is shrunk to it once."""
    seen, shrunk = [], []
    shift, shrink = augmentation.shift_images, augmentation.shrink
    monkeypatch.setattr(augmentation, "shift_images",
                        lambda images, *rest: seen.append(len(images[0])) or shift(images, *rest))
    monkeypatch.setattr(augmentation, "shrink", lambda images, size: shrunk.append(size) or shrink(images, size))
    training.fit(network(size=None), noise, replace(RECIPE, epochs=5, sizes=[4, 6, 8]))
    sizes = sorted(set(seen), key=seen.index)
    assert sizes == [4, 6, 8]
    assert seen.count(4) < seen.count(6)
    assert shrunk == [4, 6]


# ---------------------------------------------------------------------------------------------- fit


def trained(noise, recipe=RECIPE, seed=0):
    """Return a network trained from this seed, and its learning curves."""
    keras.utils.set_random_seed(seed)
    model = network()
    return model, training.fit(model, noise, recipe, seed=seed)


def digest(model):
    """Return a hash of a model's weights."""
    return hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights())).hexdigest()


def test_the_same_seed_gives_the_same_weights_in_another_process(noise):
    """To the last bit, with everything random switched on; another seed gives others."""
    code = """
        import test_training, conftest
        from lib import runtime
        runtime.start("00_test", "smoke", seed=0, threads=1)
        model, _ = test_training.trained(conftest.make_noise())
        print(test_training.digest(model))"""
    search = os.pathsep.join((str(project.ROOT / "tests"), str(project.ROOT)))
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=project.ROOT, text=True,
                             stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": search}, check=True)
    here = digest(trained(noise)[0])
    assert process.stdout.split()[-1] == here
    assert digest(trained(noise, seed=1)[0]) != here


def test_validation_images_are_never_augmented(noise):
    """The curve's last value is what an evaluation of the trained model gives, each time."""
    model, result = trained(noise, replace(RECIPE, flip="alternate", shift=3, label_smoothing=0.1))
    images, targets = noise.validation.images, keras.utils.to_categorical(noise.validation.labels, 4)
    for _ in range(2):
        loss, accuracy = model.evaluate(images, targets, verbose=0)
        assert result["history"]["val_loss"][-1] == pytest.approx(loss, abs=2e-6)
        assert result["history"]["val_accuracy"][-1] == pytest.approx(accuracy, abs=2e-6)


def test_training_reports_curves_seconds_and_a_line_per_epoch(noise, capsys):
    """Compilation apart."""
    result = trained(noise)[1]
    assert {name: len(curve) for name, curve in result["history"].items()} == dict.fromkeys(
        ("accuracy", "loss", "val_accuracy", "val_loss"), 2)
    assert result["seconds"] >= 0
    assert 0 < result["compile_seconds"] < 60
    lines = capsys.readouterr().out.replace("\n", "").split("\r")
    assert lines[0].startswith("epoch  1/2 · loss ")
    assert lines[1].startswith("epoch  2/2 · loss ")
    assert " · val accuracy " in lines[1]


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])  # which wraps the optimizer in another
def test_the_last_accuracy_is_that_of_the_weights_that_stay(noise, precision):
    """Where weights are averaged, Keras puts the averages in their place after it has judged the last epoch."""
    recipe = replace(RECIPE, optimizer="sgd", learning_rate=0.5, options={"use_ema": True, "ema_momentum": 0.9})
    keras.config.set_dtype_policy(precision)
    try:
        model, result = trained(noise, recipe)
    finally:
        keras.config.set_dtype_policy("float32")
    loss, accuracy = model.evaluate(
        noise.validation.images, keras.utils.to_categorical(noise.validation.labels, 4), verbose=0)
    assert result["history"]["val_loss"][-1] == pytest.approx(loss, abs=2e-6)
    assert result["history"]["val_accuracy"][-1] == pytest.approx(accuracy, abs=2e-6)


def test_the_key_knows_how_layers_are_connected(noise, study):
    """Two networks of the same layers with the same weights may differ in their skips alone."""
    def key(skip):
        inputs = keras.Input((8, 8, 3), name="image")
        first = layers.Conv2D(3, 3, padding="same", name="first")(inputs)
        second = layers.Conv2D(3, 3, padding="same", name="second")(first)
        outputs = layers.Add(name="sum")([second, inputs if skip else first])
        model = keras.Model(inputs, outputs)
        for layer in model.layers:
            layer.set_weights([np.ones_like(weight) for weight in layer.get_weights()])
        return training._key({}, model, noise)

    assert key(skip=True) == key(skip=True)
    assert key(skip=True) != key(skip=False)


def test_the_key_knows_no_name_that_keras_made_up(noise):
    """It counts them up in a session, also inside a model that is a layer of another."""
    def key(units=4):
        inputs = keras.Input((8, 8, 3))
        model = keras.Model(inputs, keras.Sequential([layers.Flatten(), layers.Dense(units)])(inputs))
        model.set_weights([np.ones_like(weight) for weight in model.get_weights()])
        return training._key({}, model, noise)

    assert key() == key()
    assert key() != key(units=5)


def double(x):
    return 2 * x


class Tanh(layers.Layer):
    """A layer as a reader may write one in a notebook."""

    def call(self, inputs):
        """Return the hyperbolic tangent."""
        return keras.ops.tanh(inputs)


def test_the_key_knows_what_is_no_layer_of_keras(noise):
    """Operations on tensors, layers and functions of the reader's own."""
    def key(change):
        inputs = keras.Input((8, 8, 3), name="image")
        model = keras.Model(inputs, layers.Dense(4, name="classes")(layers.Flatten(name="flat")(change(inputs))))
        model.set_weights([np.ones_like(weight) for weight in model.get_weights()])
        return training._key({}, model, noise)

    sine = type("Tanh", (layers.Layer,), {"call": lambda self, inputs: keras.ops.sin(inputs)})
    changes = [keras.ops.relu, keras.ops.silu, lambda x: 0.5 * x, lambda x: 2 * x, lambda x: x + x,
               lambda x: Tanh(name="own")(x), lambda x: sine(name="own")(x),
               lambda x: layers.Activation(double, name="act")(x), lambda x: layers.Activation(abs, name="act")(x)]
    keys = [key(change) for change in changes]
    assert len(set(keys)) == len(changes)
    assert [key(change) for change in changes] == keys


def test_the_key_knows_the_functions_that_callbacks_call(noise):
    def key(schedule):
        return training._key({}, network(), noise, [keras.callbacks.LearningRateScheduler(schedule)])

    keras.utils.set_random_seed(0)
    first = key(lambda epoch: 0.1)
    keras.utils.set_random_seed(0)
    assert key(lambda epoch: 0.2) != first


@pytest.mark.parametrize("changed", [{"min_delta": 0.1}, {"start_from_epoch": 3}, {"baseline": 0.5}, {"mode": "max"}])
def test_the_key_knows_what_the_callbacks_are_set_to(changed):
    """And not what they have seen: Keras turns the sign of min_delta at first use."""
    stop = keras.callbacks.EarlyStopping("val_loss", min_delta=0.01)
    before = training._describe([stop])
    model = network()
    model.compile(loss="mse")
    stop.set_model(model)
    stop.on_train_begin()
    stop.on_epoch_end(0, {"val_loss": 1.0})
    assert training._describe([stop]) == before
    assert training._describe([keras.callbacks.EarlyStopping("val_loss", **{"min_delta": 0.01} | changed)]) != before


def test_a_container_s_share_of_the_cores_is_named(monkeypatch):
    """Dask knows what a container or a job scheduler grants; the machine may have more."""
    monkeypatch.setattr(runtime, "_accelerators", list)
    monkeypatch.setattr("dask.system.CPU_COUNT", 3)
    assert runtime.device().endswith(", 3 cores")


@pytest.mark.parametrize(("capability", "precision"), [(7, "float32"), (8, "mixed_bfloat16"), (9.0, "mixed_bfloat16")])
def test_bfloat16_is_taken_where_a_gpu_computes_in_it(monkeypatch, capability, precision):
    """A T4 does not."""
    monkeypatch.setattr(runtime, "_accelerators", lambda: ["gpu:0"])
    monkeypatch.setattr(runtime, "_capability", lambda: capability)
    assert runtime._fastest() == precision


def test_no_fit_or_predict_waits_for_a_tuner_of_its_input(noise, monkeypatch):
    """TensorFlow's can hold up the end of each for as long as it took."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow has a tuner")
    from tensorflow.python.data.ops.iterator_ops import OwnedIterator

    tuned, create = [], OwnedIterator._create_iterator

    def noted(self, dataset):
        tuned.append(dataset.options().autotune.enabled)
        create(self, dataset)

    monkeypatch.setattr(OwnedIterator, "_create_iterator", noted)
    evaluation.predict(trained(noise)[0], noise.test.images)
    assert set(tuned) == {False}


def test_a_loss_that_is_not_a_number_stops_the_training(noise):
    """With what to do about it."""
    with pytest.raises(RuntimeError, match=r"^the loss is not a number after epoch 1: lower the learning rate$"):
        trained(noise, replace(RECIPE, optimizer="sgd", learning_rate=1e30, epochs=5))


def test_weights_that_the_last_step_spoils_are_noticed(noise, tmp_path):
    """The loss of that step was computed before it; only the validation images tell. No checkpoint keeps them."""
    once = replace(RECIPE, optimizer="sgd", learning_rate=1e30, epochs=1, batch_size=len(noise.train.labels))
    checkpoint = tmp_path / "checkpoint.npz"
    with pytest.raises(RuntimeError, match=r"^the loss is not a number after epoch 1: lower the learning rate$"):
        training.fit(network(), noise, once, checkpoint=checkpoint)
    assert not checkpoint.exists()


@pytest.mark.parametrize(("wrong", "said"), [
    ({"flip": "horizontal"}, r"^flip is 'horizontal': choose one of none, random, alternate$"),
    ({"schedule": "cosin"}, r"^schedule is 'cosin': choose one of constant, linear, cosine$"),
    ({"epochs": 0}, r"^epochs is 0: it takes at least 1$"),
    ({"batch_size": 0}, r"^batch_size is 0: it takes at least 1$"),
])  # fmt: skip
def test_a_recipe_that_makes_no_sense_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        replace(RECIPE, **wrong)


@pytest.mark.usefixtures("eager")
def test_a_size_without_an_epoch_is_skipped(noise, monkeypatch):
    """With fewer epochs than sizes the last ones are trained."""
    asked = []
    monkeypatch.setattr(augmentation.Batches, "shrink_to", lambda self, size: asked.append(size))
    training.fit(network(size=None), noise, replace(RECIPE, epochs=1, sizes=[4, 6, 8]))
    assert asked == [8]


@pytest.mark.parametrize(("schedule", "warmups"), [("linear", [0, 0.1]), ("cosine", [0, 0.1])])
def test_the_learning_rate_rises_and_falls_to_zero(schedule, warmups):
    """It rises in the first tenth of the steps, where a warm-up is asked for."""
    recipe = training.Recipe(1, schedule=schedule, learning_rate=0.5)
    for warmup in warmups:
        rate = training._optimizer(replace(recipe, warmup=warmup), 100)._learning_rate
        rates = np.array([float(rate(step)) for step in range(101)])
        top = round(warmup * 100)
        assert rates[top] == rates.max() == pytest.approx(0.5)
        assert rates[100] == pytest.approx(0, abs=1e-6)
        assert (np.diff(rates[top:]) < 0).all()
        assert (np.diff(rates[: top + 1]) > 0).all()
        assert rates[0] == pytest.approx(0 if warmup else 0.5, abs=0.06)


def test_a_constant_rate_can_warm_up_too():
    """To its value, where it stays."""
    recipe = training.Recipe(1, learning_rate=0.5, warmup=0.1)
    rates = [float(training._optimizer(recipe, 100)._learning_rate(step)) for step in (0, 5, 10, 100)]
    assert rates == [0, 0.25, 0.5, 0.5]


def test_a_recipe_reaches_the_optimizer():
    """Name, rate and options."""
    optimizer = training._optimizer(training.Recipe(1, optimizer="adamw", options={"weight_decay": 0.02}), 10)
    assert type(optimizer) is keras.optimizers.AdamW
    assert float(optimizer.learning_rate) == pytest.approx(1e-3)
    assert optimizer.weight_decay == 0.02


# ---------------------------------------------------------------------------------------------- experiment


class Counter(keras.callbacks.Callback):
    """Counts the epochs that were trained."""

    def __init__(self):
        super().__init__()
        self.epochs = 0

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1


@pytest.fixture
def eager():
    """No compilation: it takes longer than all else where many small trainings follow each other."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def lab(reports, cache, noise, study):
    """A function that runs one small experiment and returns (run, model, epochs trained)."""
    def run(recipe=RECIPE, study=study, dataset=noise, seed=0, **settings):
        counter, _ = Counter(), keras.utils.set_random_seed(seed)
        model = network()
        result = training.experiment(replace(study, seed=seed), "A1", model, dataset, recipe, [counter], **settings)
        return result, model, counter.epochs

    return run


def test_an_experiment_leaves_record_predictions_and_model(lab, noise, reports, capsys):
    """All three say the same, and every field of a record is there."""
    run, model, count = lab(note="a setting")
    assert count == 2
    assert "A1: test accuracy " in capsys.readouterr().out
    assert sorted(path.name for path in (reports / "smoke").rglob("*.*")) == ["A1.json", "A1.keras", "A1.npz"]
    record = records.read(reports / "smoke" / "records" / "A1.json")
    assert record == run.record
    assert record["dataset"] == {"name": "noise", "fingerprint": "0123", "train": 40, "validation": 8, "test": 12,
                                 "classes": ["a", "b", "c", "d"]}
    assert record["settings"]["note"] == "a setting"
    assert record["settings"]["batch_size"] == 8
    assert record["settings"]["callbacks"] == [{"name": "Counter"}]
    assert (record["notebook"], record["seed"], record["reported"]) == ("00_test", 0, decks.reported("A1"))
    assert record["model"]["total_parameters"] == model.count_params()
    assert record["training"]["epochs"] == len(run.history["loss"]) == 2
    assert record["metrics"] == evaluation.metrics(run.probabilities, noise.test.labels)
    assert set(record["metrics"]) == {"accuracy", "precision_macro", "recall_macro", "f1_macro", "precision_weighted",
                                      "f1_weighted", "loss"}
    validation = evaluation.predict(model, noise.validation.images)
    assert record["calibration"] == evaluation.temperature_scaling(run.probabilities, noise.test.labels, validation,
                                                                   noise.validation.labels)
    assert "robustness" not in record  # so few images say nothing
    probabilities, labels = records.predictions("smoke", "A1")
    np.testing.assert_allclose(probabilities, run.probabilities, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(labels, noise.test.labels)
    saved = keras.models.load_model(reports / "smoke" / "models" / "A1.keras", safe_mode=True)
    np.testing.assert_array_equal(evaluation.predict(saved, noise.test.images), run.probabilities)


def test_a_finished_experiment_is_kept(lab, capsys):
    """Its weights are loaded, nothing is trained, and what comes next starts as if it had been."""
    first, trained_model, _ = lab()
    after = keras.random.uniform((3,)), np.random.random()
    capsys.readouterr()
    second, loaded_model, count = lab()
    assert count == 0
    assert re.search(r"\(kept from \d{4}-\d\d-\d\d \d\d:\d\d UTC; retrain=True", capsys.readouterr().out)
    assert digest(loaded_model) == digest(trained_model)
    assert second.record == first.record
    np.testing.assert_allclose(second.probabilities, first.probabilities, rtol=1e-3, atol=1e-6)
    assert (np.asarray(after[0]) == np.asarray(keras.random.uniform((3,)))).all()
    assert after[1] == np.random.random()


@pytest.mark.usefixtures("eager")
def test_another_start_or_recipe_is_trained_again(lab, study, noise, reports, monkeypatch):
    """Recipe, seed, setting, precision, data, code, a missing model or answers; or because it was asked for."""
    plain = replace(RECIPE, epochs=1, batch_size=40)
    assert lab(plain)[2] == 1
    assert lab(plain)[2] == 0
    others = [noise.train.take(slice(39, None, -1)), noise.train._replace(images=255 - noise.train.images),
              noise.train._replace(labels=noise.train.labels[::-1])]
    for change in ({"recipe": replace(plain, learning_rate=0.01)}, {"seed": 1}, {"image_size": 96},
                   {"study": replace(study, precision="other")}, *({"dataset": replace(noise, train=other)}
                                                                   for other in others)):
        assert lab(**{"recipe": plain} | change)[2] == 1, change
    assert lab(plain)[2] == 1
    assert lab(plain, study=replace(study, retrain=True))[2] == 1
    assert lab(plain)[2] == 0
    for lost in ("models/A1.keras", "predictions/A1.npz"):
        (reports / "smoke" / lost).unlink()
        assert lab(plain)[2] == 1, lost
    monkeypatch.setattr(project, "code_of", lambda path: "edited while this process runs what it has loaded")
    assert lab(plain)[2] == 0
    monkeypatch.setattr(training, "OURS", [*training.OURS, "changed"])
    assert lab(plain)[2] == 1


@pytest.mark.usefixtures("eager")
def test_another_frozen_start_is_trained_again(lab, noise, reports, study):
    """Its weights decide the result as much as those that are trained."""
    def run(scale):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8, 8, 3), dtype="uint8", name="image")
        middle = layers.Rescaling(1 / 255, name="scale")(inputs)
        middle = layers.Conv2D(4, 8, kernel_initializer=keras.initializers.Constant(scale), name="conv")(middle)
        features = keras.Input((1, 1, 4), name="features")
        head = keras.Sequential([features, layers.Flatten(name="flat"), layers.Dense(4, "softmax", name="classes")],
                                name="head")
        model, prefix = keras.Model(inputs, head(middle), name="all"), keras.Model(inputs, middle)
        splits = {part: getattr(noise, part)._replace(images=evaluation.predict(prefix, getattr(noise, part).images))
                  for part in ("train", "validation", "test")}
        counter = Counter()
        training.experiment(study, "B3", model, noise, RECIPE, [counter], tail=head, inputs=replace(noise, **splits))
        return counter.epochs

    assert run(0.01) == RECIPE.epochs
    assert run(0.01) == 0
    assert run(0.02) == RECIPE.epochs


@pytest.mark.usefixtures("eager", "cache")
def test_robustness_is_that_of_the_whole_model(noise, reports, study):
    """Images are corrupted, and cached features know nothing of it; a share of the training images are enough."""
    many = replace(noise, train=data.Split(*(np.concatenate([part] * 12) for part in noise.train[:3])))
    inputs, features = keras.Input((8, 8, 3), dtype="uint8"), keras.Input((192,))
    middle = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
    head = keras.Model(features, layers.Dense(4, "softmax")(features))
    model, prefix = keras.Model(inputs, head(middle)), keras.Model(inputs, middle)
    splits = {part: getattr(many, part)._replace(images=evaluation.predict(prefix, getattr(many, part).images))
              for part in ("train", "validation", "test")}
    plain = replace(RECIPE, flip="none", shift=0)
    run = training.experiment(study, "B3", model, many, plain, tail=head, inputs=replace(many, **splits))
    assert run.record["robustness"] == evaluation.robustness(model, noise.test, 10)
    assert run.record["robustness"]["images"] == 10


@pytest.mark.usefixtures("eager")
def test_a_failed_training_leaves_a_note_and_what_was_there(lab, reports):
    """It says why, and goes with the next record."""
    why = "the loss is not a number after epoch 1: lower the learning rate"
    diverging = replace(RECIPE, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(RuntimeError, match=f"^A1: {why}$"):
        lab(diverging)
    assert records.failures("smoke") == {"A1": why}
    assert records.read_all("smoke") == {}
    run, _, _ = lab()
    assert records.failures("smoke") == {}
    with pytest.raises(RuntimeError):
        lab(diverging)
    assert records.failures("smoke") == {"A1": why}
    assert records.read_all("smoke") == {"A1": run.record}
    assert lab()[2] == 0
    assert records.failures("smoke") == {}
    (reports / "smoke" / "failed" / "A1.json").write_text("{")
    with pytest.raises(records.RecordError, match=r"A1\.json cannot be read"):
        records.failures("smoke")


@pytest.mark.usefixtures("eager")
def test_damaged_weights_are_one_line(lab, reports):
    """With their path and what to do."""
    lab()
    path = reports / "smoke" / "models" / "A1.keras"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(records.RecordError, match=r"A1\.keras cannot be read .*: delete it and run") as error:
        lab()
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("eager")
def test_a_kept_record_tells_of_todays_trials_and_deck(lab, monkeypatch):
    """Neither decides what was reached, so nothing is trained again; how long a trial took is no news."""
    first, _, _ = lab(chosen_from=[{"recipe": "plain", "accuracy": 0.5, "seconds": 3}])
    assert lab(chosen_from=[{"recipe": "plain", "accuracy": 0.5, "seconds": 4}])[0].record == first.record
    more = [{"recipe": "plain", "accuracy": 0.5, "seconds": 3}, {"recipe": "flip", "accuracy": 0.4, "seconds": 3}]
    monkeypatch.setattr(decks, "reported", lambda name: {"accuracy": 0.9})
    again, _, count = lab(chosen_from=more)
    told = {"reported": {"accuracy": 0.9}, "settings": first.record["settings"] | {"chosen_from": more}}
    assert (count, again.record) == (0, first.record | told)
    assert records.read_all("smoke") == {"A1": again.record}
    np.testing.assert_array_equal(again.probabilities, records.predictions("smoke", "A1")[0])
    assert "chosen_from" not in lab()[0].record["settings"]


@pytest.mark.usefixtures("eager")
def test_an_old_record_is_not_believed_beside_new_weights(lab, monkeypatch, capsys):
    """The process may end between the two. Nothing is lost by it, and no training is repeated."""
    first, _, _ = lab()
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        broken.setattr(records, "write", lambda *_: 1 / 0)
        lab(replace(RECIPE, learning_rate=0.01))
    assert records.read_all("smoke") == {"A1": first.record}
    assert lab()[2] == RECIPE.epochs
    capsys.readouterr()
    lab(replace(RECIPE, learning_rate=0.01))
    assert "epoch " not in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- interruption


class Stop(keras.callbacks.Callback):
    """Interrupts the training in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if self.params["epochs"] and self.model.optimizer.iterations == self.epoch * 5 + 2:
            raise KeyboardInterrupt


def callbacks():
    """What the decks use, with little patience."""
    return [keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, factor=0.5)]


LONG = replace(RECIPE, epochs=6, rotation=10, cutout=2, schedule="constant", learning_rate=0.05)
GROWING = training.Recipe(epochs=4, batch_size=8, optimizer="Muon", learning_rate=0.01, schedule="linear", warmup=0.1,
                          sizes=[4, 8], options={"use_ema": True, "ema_momentum": 0.5})


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("recipe", "epoch"), [*((LONG, epoch) for epoch in (0, 1, 2)),
                                               *((GROWING, epoch) for epoch in (1, 2))])
def test_an_interrupted_training_goes_on_to_the_same_result(noise, tmp_path, recipe, epoch):
    """To the last bit: weights, curves, what the callbacks know; also where images grow and weights are averaged."""
    def run(path, *more):
        keras.utils.set_random_seed(0)
        model = network(size=None if recipe.sizes else 8)
        watched = callbacks()[: 1 if recipe.sizes else 2]  # a schedule leaves nothing to reduce
        return model, training.fit(model, noise, recipe, [*watched, *more], checkpoint=path)

    whole, expected = run(None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "state.npz", Stop(epoch))
    assert (tmp_path / "state.npz").exists() == (epoch > 0)
    resumed, result = run(tmp_path / "state.npz")
    assert result["history"] == expected["history"]
    assert digest(resumed) == digest(whole)
    again, result = run(tmp_path / "state.npz")  # killed after the last epoch, before the record was written
    assert result["history"] == expected["history"]
    assert digest(again) == digest(whole)


@pytest.mark.usefixtures("eager")
def test_a_resumed_callback_asks_for_as_much_as_before(noise, tmp_path):
    """No epoch is better by 10, so the rate falls after each; Keras must not turn the sign of min_delta twice."""
    def run(path, *more):
        keras.utils.set_random_seed(0)
        reduce = keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, factor=0.5, min_delta=10)
        return training.fit(network(), noise, LONG, [reduce, *more], checkpoint=path)["history"]["learning_rate"]

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "state.npz", Stop(2))
    halved = [0.05 / 2 ** max(0, epoch - 1) for epoch in range(6)]
    assert run(tmp_path / "state.npz") == run(None) == pytest.approx(halved)


@pytest.mark.usefixtures("eager")
def test_an_experiment_leaves_no_checkpoint_when_it_is_finished(lab, monkeypatch, capsys):
    """And has one while it is not, from which it is finished without training."""
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        broken.setattr(evaluation, "metrics", lambda *_: 1 / 0)
        lab()
    assert len(list((project.CACHE / "checkpoints").iterdir())) == 1
    capsys.readouterr()
    lab()
    assert "epoch " not in capsys.readouterr().out
    assert not list((project.CACHE / "checkpoints").iterdir())


@pytest.mark.parametrize("content", [b"", b"no archive", "truncated", "of another network"])
def test_a_damaged_checkpoint_is_one_line(noise, tmp_path, content):
    path = tmp_path / "state.npz"
    training.fit(network(), noise, RECIPE, checkpoint=path)
    if content == "of another network":
        np.savez(path, state='{"callbacks": []}')
    else:
        path.write_bytes(path.read_bytes()[:-100] if content == "truncated" else content)
    with pytest.raises(records.RecordError) as error:
        training.fit(network(), noise, RECIPE, checkpoint=path)
    assert str(error.value).startswith(f"{path} cannot be read (")
    assert str(error.value).endswith("): delete it and run its notebook again")
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------- trials


@pytest.fixture
def attempt(cache, noise, study, monkeypatch):
    """A function that makes one trial and returns (result, whether it trained)."""
    real, fitted = training.fit, []
    monkeypatch.setattr(training, "fit", lambda *given, **named: fitted.append(given) or real(*given, **named))

    def attempt(recipe=RECIPE, dataset=noise, seed=0, **changed):
        keras.utils.set_random_seed(seed)
        fitted.clear()
        return training.trial(replace(study, seed=seed, **changed), network(), dataset, recipe), bool(fitted)

    return attempt


@pytest.mark.usefixtures("eager")
def test_a_trial_is_made_once(attempt, noise):
    """A notebook that goes on sees the same curves and seconds; what could change them makes a new one."""
    first, trained = attempt()
    assert trained
    assert (first["epochs"], len(first["history"]["val_accuracy"])) == (2, 2)
    assert attempt() == (first, False)
    assert attempt(retrain=True)[1]
    for other in ({"recipe": replace(RECIPE, shift=2)}, {"seed": 1}, {"precision": "mixed_bfloat16"},
                  {"dataset": replace(noise, train=noise.train.take(slice(32)))},
                  {"dataset": replace(noise, fingerprint="0123-4567")}):  # the outputs of another prefix
        assert attempt(**other)[1], other
    assert not attempt()[1]


@pytest.mark.usefixtures("eager")
def test_what_follows_a_trial_starts_alike_whether_it_was_made_or_kept(attempt):
    assert attempt()[1]
    made = float(keras.random.uniform(()))
    assert not attempt()[1]
    assert float(keras.random.uniform(())) == made


@pytest.mark.usefixtures("eager")
def test_a_trial_that_diverges_or_is_damaged_is_not_kept(attempt, cache):
    """The one is made again; the other is one line."""
    diverging = replace(RECIPE, optimizer="sgd", learning_rate=1e30)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not a number"):
            attempt(diverging)
    attempt()
    [path] = (cache / "trials").iterdir()
    path.write_text("{")
    with pytest.raises(records.RecordError, match=r"cannot be read .*: delete it and run its notebook again"):
        attempt()


@pytest.mark.usefixtures("eager", "cache")
def test_a_stage_is_trained_once_and_leaves_its_weights(noise, study, capsys):
    """The next stage begins from them, whether they were trained or kept; `retrain` trains again."""
    def run(rate=0.5, **changed):
        keras.utils.set_random_seed(0)
        model = network()
        recipe = replace(LONG, learning_rate=rate)
        result = training.stage(replace(study, **changed), model, noise, recipe, callbacks()[:1])
        return result, digest(model), "epoch " in capsys.readouterr().out

    *first, trained = run()
    assert trained
    assert run() == (*first, False)
    assert run(rate=0.1)[2]
    assert run(retrain=True)[2]


# ---------------------------------------------------------------------------------------------- rotation, zoom, cutout


def test_a_quarter_turn_turns_the_image():
    """About its centre; where nothing turns or scales, nothing is copied."""
    class Always:
        def uniform(self, low, high, count):
            return np.full(count, high)

    images = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3), np.uint8)
    turned = augmentation.turn_images(images, 90, 0, Always())
    assert turned.dtype == np.uint8
    assert any(np.array_equal(turned, np.rot90(images, turns, axes=(1, 2))) for turns in (1, 3))
    assert augmentation.turn_images(images, 0, 0, None) is images


@pytest.mark.parametrize(("rotation", "zoom", "extreme", "middle"), [
    (90, 0, min, [[46, 32, 18], [48, 34, 20], [50, 36, 22]]), (90, 0, max, [[22, 36, 50], [20, 34, 48], [18, 32, 46]]),
    (0, 0.5, min, [[2, 6, 10], [30, 34, 38], [58, 62, 66]]), (0, 1, max, [[26, 27, 28], [33, 34, 35], [40, 41, 42]]),
])  # fmt: skip
def test_images_turn_either_way_and_shrink_and_grow_about_their_centre(rotation, zoom, extreme, middle):
    """Also where they are wider than high: 18 20 22, 32 34 36 and 46 48 50 are the rows of the middle before."""
    class Extreme:
        def uniform(self, low, high, count):
            return np.full(count, extreme(low, high))

    images = np.arange(0, 70, 2, dtype=np.uint8).reshape(1, 5, 7, 1)
    assert augmentation.turn_images(images, rotation, zoom, Extreme())[0, 1:4, 2:5, 0].tolist() == middle


def test_cutout_blanks_one_square_in_each_image():
    """Of the mean colour; at the border a part of it."""
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), np.uint8)
    changed = (augmentation.cut_out(images, 4, np.random.default_rng(1)) != images).any(axis=3)
    sizes = changed.sum(axis=(1, 2))
    assert sizes.max() <= 16
    assert sizes.min() >= 3
    assert len({tuple(np.argwhere(each)[0]) for each in changed if each.any()}) > 10
    assert augmentation.cut_out(images, 0, None) is images
    small = np.uint8([[[[0, 8], [10, 8]], [[20, 8], [30, 12]]], [[[1, 1], [1, 1]], [[1, 1], [1, 5]]]])
    covered = augmentation.cut_out(small, 4, np.random.default_rng(1))
    assert covered.reshape(2, 4, 2).tolist() == [4 * [[15, 9]], 4 * [[1, 2]]]
