"""Test metrics against scikit-learn, intervals against published values, and the clock."""

import time
import tracemalloc
from types import SimpleNamespace

from lib import corruptions, data, evaluation

import keras
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_recall_fscore_support

pytestmark = pytest.mark.usefixtures("study")
NAMES = ("accuracy", "precision_macro", "recall_macro", "f1_macro", "precision_weighted", "f1_weighted", "loss")


def predictions(count, classes=10, skill=1.0, seed=0):
    """Return random probabilities (count, classes) that lean towards random labels (count,)."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    logits = generator.normal(size=(count, classes)) + skill * np.eye(classes)[labels]
    return (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32), labels


def values(probabilities, labels):
    """Return the metrics without their intervals."""
    return {name: metric["value"] for name, metric in evaluation.metrics(probabilities, labels).items()}


def by_scikit_learn(probabilities, labels):
    """Return the same metrics from scikit-learn."""
    classes, predicted = range(probabilities.shape[1]), probabilities.argmax(axis=1)
    macro, weighted = (precision_recall_fscore_support(labels, predicted, labels=classes, average=average,
                                                       zero_division=0) for average in ("macro", "weighted"))
    exact = probabilities.astype(np.float64)  # of numbers in float32 the sum is not quite 1
    loss = log_loss(labels, exact / exact.sum(axis=1, keepdims=True), labels=classes)
    scores = (accuracy_score(labels, predicted), *macro[:3], weighted[0], weighted[2], loss)
    return dict(zip(NAMES, scores, strict=True))


def test_six_views_of_an_image_are_averaged():
    """The image and its mirror image weigh a quarter each, its two moves and theirs an eighth."""
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), np.uint8)
    inputs = keras.Input((6, 6, 3), dtype="uint8")
    model = keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(keras.layers.Flatten()(inputs)))
    model.set_weights([weight / 100 for weight in model.get_weights()])
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    views = [images] * 2 + [padded[:, :6, :6], padded[:, 2:, 2:]]
    expected = np.mean([evaluation.predict(model, view[:, :, ::step]) for view in views for step in (1, -1)], axis=0)
    np.testing.assert_allclose(evaluation.predict_views(model, images), expected, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_those_of_scikit_learn(seed):
    """All of them, to six decimals."""
    probabilities, labels = predictions(500, seed=seed)
    assert values(probabilities, labels) == pytest.approx(by_scikit_learn(probabilities, labels), abs=2e-6)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_class_that_is_never_predicted_counts_as_zero():
    """Without a division by zero."""
    probabilities, labels = predictions(300, 5)
    probabilities[:, 2] = 0
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    probabilities[labels == 2] = np.float32([0.2, 0.2, 0.2, 0.2, 0.2]) + np.float32([0.1, 0, -0.1, 0, 0])
    assert values(probabilities, labels) == pytest.approx(by_scikit_learn(probabilities, labels), abs=2e-6)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_class_without_test_images_has_no_score():
    """Who answers everything rightly has 1, although the third class was never asked for."""
    assert set(values(np.eye(3)[[0, 1, 1]] * 0.97 + 0.01, np.array([0, 1, 1])).values()) == {1.0, 0.020203}


@pytest.mark.parametrize("count", [1, 2, 10])
def test_small_classes_have_honest_intervals(count):
    """A sample of the bootstrap lacks many of a hundred classes; that is no error of the model."""
    labels = np.repeat(np.arange(100), count)
    right = evaluation.metrics(np.eye(100)[labels], labels)
    assert {tuple(right[name].values()) for name in NAMES[:-1] if name != "accuracy"} == {(1.0, 1.0, 1.0)}
    answers = np.where(np.arange(len(labels)) % 5, labels, (labels + 1) % 100)
    recall = evaluation.metrics(np.eye(100)[answers], labels)["recall_macro"]
    assert recall["value"] == pytest.approx(0.8)
    assert recall["low"] < 0.8 < recall["high"]


def test_no_loss_lies_below_zero():
    """Where one certain error among a hundred makes it and its spread."""
    loss = evaluation.metrics(np.eye(2)[[0] * 99 + [1]], np.zeros(100, int))["loss"]
    assert loss["low"] == 0 < loss["value"] < loss["high"]


def test_the_interval_of_the_loss_is_196_standard_errors_either_way():
    """Losses of 1 and 3 nats have the mean 2 and the standard error 1."""
    loss = evaluation.metrics(np.exp([[-1, -9], [-3, -0.05]]), np.zeros(2, int))["loss"]
    assert loss == {"value": 2.0, "low": 0.04, "high": 3.96}


def test_a_certain_error_has_a_finite_loss():
    """Probability 0 of the true class is clipped as Keras clips it."""
    assert values(np.eye(3)[[0, 1, 1]], np.array([0, 1, 2]))["loss"] == pytest.approx(-np.log(1e-7) / 3, rel=1e-5)


@pytest.mark.parametrize(("hits", "count", "low", "high"), [
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718),
])  # fmt: skip
def test_the_accuracys_interval_is_wilsons(hits, count, low, high):
    """Examples of Newcombe (1998), "Two-sided confidence intervals for the single proportion", method 3."""
    answers = np.where(np.arange(count) < hits, 0, 1)
    accuracy = evaluation.metrics(np.eye(2)[answers] * 0.8 + 0.1, np.zeros(count, int))["accuracy"]
    assert (round(accuracy["low"], 4), round(accuracy["high"], 4)) == (low, high)


def test_intervals_hold_their_value_and_shrink_with_the_number_of_images():
    """With four times the images to a half."""
    few, many = (evaluation.metrics(*predictions(count)) for count in (500, 2000))
    for name in NAMES:
        assert few[name]["low"] < few[name]["value"] < few[name]["high"]
        assert many[name]["low"] < many[name]["value"] < many[name]["high"]
        widths = [metric[name]["high"] - metric[name]["low"] for metric in (few, many)]
        assert widths[1] / widths[0] == pytest.approx(0.5, abs=0.08)


def test_the_bootstraps_interval_covers_the_spread_of_new_samples():
    """The middle 95 % of 300 other samples of the same skill are about as wide."""
    interval = evaluation.metrics(*predictions(1000))["f1_macro"]
    others = []
    for seed in range(1, 301):
        probabilities, labels = predictions(1000, seed=seed)
        others.append(f1_score(labels, probabilities.argmax(axis=1), average="macro"))
    low, high = np.percentile(others, [2.5, 97.5])
    assert (interval["high"] - interval["low"]) / (high - low) == pytest.approx(1, abs=0.2)


def test_a_thousand_classes_take_little_memory():
    """The bootstrap draws the filled cells of the confusion matrix: of a million, one for each image at most."""
    probabilities, labels = predictions(1000, classes=1000, skill=5)
    tracemalloc.start()
    score = evaluation.metrics(probabilities, labels)["f1_macro"]
    assert tracemalloc.get_traced_memory()[1] < 300e6
    tracemalloc.stop()
    there = np.unique(labels)
    assert score["value"] == pytest.approx(
        f1_score(labels, probabilities.argmax(axis=1), labels=there, average="macro", zero_division=0), abs=2e-6)
    assert score["low"] < score["value"] < score["high"]


def test_the_calibration_error_is_that_of_fifteen_bins():
    """0.62 and 0.78 have a bin each, 0.94 and 1 share the last: (0.62 + 0.22 + 2 · 0.47) / 4."""
    first = np.array([0.62, 0.78, 0.94, 1])
    table, error = evaluation.calibration(np.stack([first, 1 - first], axis=1), np.array([1, 0, 1, 0]))
    np.testing.assert_allclose(table, [[0.62, 0, 1], [0.78, 1, 1], [0.97, 0.5, 2]])
    assert error == pytest.approx(0.445)


@pytest.mark.parametrize("factor", [0.5, 1, 3])
def test_the_temperature_of_known_logits_is_found(factor):
    """Labels were drawn from a softmax; a model that multiplies its logits is too sure, or not sure enough."""
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(20_000, 5))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) < generator.random((20_000, 1))).sum(axis=1)
    given = np.exp(factor * logits) / np.exp(factor * logits).sum(axis=1, keepdims=True)
    found = evaluation.temperature(given, labels)
    assert found == pytest.approx(factor, rel=0.03)
    np.testing.assert_allclose(evaluation.rescaled(given, factor), true, atol=1e-6)
    losses = [log_loss(labels, evaluation.rescaled(given, found * step)) for step in (0.98, 1, 1.02)]
    assert losses[1] == min(losses)


def test_temperature_scaling_is_judged_on_other_images():
    """Fitted to validation images; numbers as `calibration` and scikit-learn have them; no answer changes."""
    (test, labels), (validation, others) = predictions(4000), predictions(2000, seed=1)
    test, validation = (evaluation.rescaled(each, 0.3) for each in (test, validation))  # far too sure
    found = evaluation.temperature_scaling(test, labels, validation, others)
    assert found["temperature"] == pytest.approx(evaluation.temperature(validation, others), abs=1e-4)
    mended = evaluation.rescaled(test, found["temperature"])
    np.testing.assert_array_equal(mended.argmax(axis=1), test.argmax(axis=1))
    assert found["ece"] == pytest.approx(evaluation.calibration(test, labels)[1], abs=1e-6)
    assert found["ece_scaled"] == pytest.approx(evaluation.calibration(mended, labels)[1], abs=1e-4)
    assert found["ece_scaled"] < 0.03 < 0.2 < found["ece"]
    assert found["loss_scaled"]["value"] == pytest.approx(log_loss(labels, mended), abs=1e-4)
    assert found["loss_scaled"]["low"] < found["loss_scaled"]["value"] < found["loss_scaled"]["high"]


def test_certain_answers_have_a_temperature():
    """All right or all wrong, with probabilities of 0 and 1 too: near an end of the range, and finite numbers."""
    labels = np.arange(40) % 4
    for answers, low, high in ((labels, 0.049, 0.1), ((labels + 1) % 4, 19, 20.1)):
        certain = np.eye(4, dtype=np.float32)[answers]
        assert low < evaluation.temperature(0.9 * certain + 0.025, labels) < high
        found = evaluation.temperature_scaling(certain, labels, certain, labels)
        assert np.isfinite([found["temperature"], found["ece_scaled"], found["loss_scaled"]["value"]]).all()


def test_robustness_is_the_accuracy_at_every_strength():
    """Counted one corruption at a time, on the part of the images that is taken."""
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (60, 8, 8, 3), np.uint8), np.arange(60) % 3
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    weights = keras.initializers.HeNormal(seed=0)  # others may give one answer to all images
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax", kernel_initializer=weights)(x))
    found = evaluation.robustness(model, data.Split(images, labels, np.arange(60)), limit=30)
    rows = np.sort(data.stratified_order(labels)[:30])
    assert np.bincount(labels[rows]).tolist() == [10, 10, 10]

    def accuracy(shown):
        return accuracy_score(labels[rows], evaluation.predict(model, shown).argmax(axis=1))

    expected = {kind: [accuracy(corruptions.corrupt(images[rows], kind, strength)) for strength in range(1, 6)]
                for kind in corruptions.STRENGTHS}
    assert (found["images"], found["clean"]) == (30, pytest.approx(accuracy(images[rows]), abs=1e-4))
    assert list(found["accuracy"]) == list(expected)
    np.testing.assert_allclose([*found["accuracy"].values()], [*expected.values()], atol=1e-4)
    assert found["mean"] == pytest.approx(np.mean([*expected.values()]), abs=1e-4)
    assert len({value for values in found["accuracy"].values() for value in values}) > 3


def run(dataset, weighted=0.5, pretrained=None):
    """Return as much of a `training.Run` as a comparison reads."""
    metrics = {name: {"value": weighted, "low": 0.4, "high": 0.6} for name in NAMES}
    record = {"metrics": metrics, "model": {"trainable_parameters": 7}, "reported": {"accuracy": 0.7},
              "dataset": {"name": dataset}, "pretrained": pretrained, "latency": {"batch_1_ms": {"median": 1.0}},
              "training": {"history": {"accuracy": [0.5], "val_accuracy": [0.4]}, "epochs": 1, "seconds": 2.0}}
    return SimpleNamespace(record=record)


@pytest.mark.parametrize(("dataset", "pretrained", "shown"), [
    ("cifar10", None, True), ("digits", None, True), ("my photos", None, False), ("cifar10", "imagenet", True),
    ("cifar10", "random", False)])  # fmt: skip
def test_the_decks_are_compared_with_their_own_images_and_weights_only(dataset, pretrained, shown):
    """Beside others, their numbers would be claims that nobody made."""
    table = evaluation.comparison({"A1": run(dataset, pretrained=pretrained)})
    assert ("deck (%)" in table) is shown
    assert table.loc[0, "weighted F1"] == "0.500"


def test_the_gap_is_what_training_images_have_ahead_of_validation_images():
    """In points of accuracy: 50 % less 40 %."""
    assert evaluation.comparison({"A1": run("cifar10")}).loc[0, "gap"] == "+10.0"


def test_metrics_are_the_same_each_time():
    """The bootstrap has a fixed seed."""
    assert evaluation.metrics(*predictions(200)) == evaluation.metrics(*predictions(200))


def test_metrics_of_certain_answers():
    """All right, all wrong: no interval leaves [0, 1]."""
    labels = np.arange(40) % 4
    for answers, value in ((labels, 1), ((labels + 1) % 4, 0)):
        metrics = evaluation.metrics(np.eye(4)[answers], labels)
        for name in NAMES[:-1]:
            assert metrics[name]["value"] == value
            assert 0 <= metrics[name]["low"] <= metrics[name]["high"] <= 1


def test_the_class_report_equals_scikit_learns():
    """Class by class, in the order of the names."""
    probabilities, labels = predictions(300, 4)
    report = evaluation.class_report(probabilities, labels, tuple("abcd"))
    scores = precision_recall_fscore_support(labels, probabilities.argmax(axis=1))
    assert list(report["class"]) == list("abcd")
    for column, expected in zip(("precision", "recall", "F1", "images"), scores, strict=True):
        np.testing.assert_allclose(report[column], expected, atol=5e-4)


def test_confused_pairs_are_counted():
    """The most frequent first, true class before predicted class."""
    labels = np.array([0] * 10 + [1] * 10 + [2] * 10)
    answers = np.array([0] * 7 + [2] * 3 + [1] * 5 + [0] * 5 + [2] * 9 + [1])
    pairs = evaluation.confused_pairs(np.eye(3)[answers], labels, ("cat", "dog", "frog"), 3)
    assert pairs.to_numpy().tolist() == [["dog", "cat", 5], ["cat", "frog", 3], ["frog", "dog", 1]]


def test_only_what_was_confused_is_a_pair():
    """Where a model makes few errors, the table is short."""
    labels = np.arange(20) % 4
    answers = np.where(np.arange(20) == 7, 0, labels)
    pairs = evaluation.confused_pairs(np.eye(4)[answers], labels, tuple("abcd"))
    assert pairs.to_numpy().tolist() == [["d", "a", 1]]


def test_predict_returns_probabilities_of_every_image_in_order():
    """Also where the last batch is smaller, and from a memory map."""
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    inputs = np.random.default_rng(0).random((10, 4), np.float32)
    probabilities = evaluation.predict(model, inputs, batch_size=4)
    assert probabilities.shape == (10, 3)
    assert probabilities.dtype == np.float32
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(np.log(probabilities) - np.log(probabilities[:, :1]),
                               (inputs @ kernel + bias) - (inputs @ kernel + bias)[:, :1], atol=1e-5)


def test_latency_is_measured_on_the_clock():
    """Milliseconds of one image, images per second in batches; fewer images than a batch are enough."""
    import keras

    class Slow(keras.layers.Layer):
        """Takes 20 ms, whatever it is given."""

        def call(self, inputs):
            import tensorflow as tf

            return tf.numpy_function(lambda x: time.sleep(0.02) or x, [inputs], tf.float32)

        def compute_output_shape(self, input_shape):
            return input_shape

    inputs = keras.Input((2, 2, 1))
    model = keras.Model(inputs, Slow()(inputs))
    latency = evaluation.latency(model, np.zeros((3, 2, 2, 1), np.float32), batch_size=8, repeats=10)
    assert sorted(latency) == ["batch_1_ms", "batch_size", "images_per_second"]
    assert 20 <= latency["batch_1_ms"]["median"] <= latency["batch_1_ms"]["p95"]
    assert latency["batch_1_ms"]["median"] < 200
    assert latency["batch_size"] == 8
    assert 8 / 0.2 < latency["images_per_second"] <= 8 / 0.02
