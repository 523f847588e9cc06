"""Test metrics with intervals, tables over classes, and how long a prediction takes.

Introduced in notebook 02.
"""

import time

from lib import corruptions, data, runtime

import keras
import numpy as np
import pandas as pd
from scipy import optimize, sparse, special, stats
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

BOOTSTRAP_SAMPLES = 2000


def predict(model, images, batch_size=256):
    """Return class probabilities (n, classes) float32 of images (n, height, width, channels)."""
    with runtime.quiet():
        return np.asarray(model.predict(images, batch_size=batch_size, verbose=0), np.float32)


def predict_views(model, images, shift=1):
    """Return the mean of the class probabilities (n, classes) over six views of each image: test-time augmentation.

    The views are the image, with half of the weight, and the image moved diagonally by `shift` pixels either way with
    reflected borders, each also mirrored (the "multi-crop" of Jordan 2024).
    """
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="reflect")
    total = 0.0
    for start, weight in ((shift, 0.5), (0, 0.25), (2 * shift, 0.25)):
        view = padded[:, start : start + height, start : start + width]
        total += weight / 2 * (predict(model, view) + predict(model, view[:, :, ::-1]))
    return total


def metrics(probabilities, labels, seed=0):
    """Return {name: {value, low, high}} for probabilities (n, classes) and true labels (n,).

    accuracy has a Wilson interval; macro precision, recall and F1, where all classes that have test images count alike,
    and weighted precision and F1, where they count by these, a percentile bootstrap over the test images; loss
    (cross-entropy in nats) a normal interval of the mean, which ends at 0. All at 95 %.
    """
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    hits = stats.binomtest(int((predicted == labels).sum()), len(labels))
    wilson = hits.proportion_ci(0.95, method="wilson")
    result = {"accuracy": _interval(hits.statistic, wilson.low, wilson.high)}

    # Resampling test images is resampling the cells of their confusion matrix; empty ones stay empty.
    matrix = confusion_matrix(labels, predicted, labels=range(classes))
    cells = np.nonzero(matrix)
    samples = np.random.default_rng(seed).multinomial(len(labels), matrix[cells] / len(labels), BOOTSTRAP_SAMPLES)
    resampled = _averages(samples, cells, classes)
    for name, value in _averages(matrix[cells][None], cells, classes).items():
        result[name] = _interval(value[0], *np.percentile(resampled[name], [2.5, 97.5]))

    return result | {"loss": _loss(probabilities, labels)}


def _loss(probabilities, labels):
    true_class = np.clip(probabilities[np.arange(len(labels)), labels], keras.config.epsilon(), 1).astype(np.float64)
    losses = -np.log(true_class)
    margin = 1.96 * losses.std(ddof=min(1, len(losses) - 1)) / np.sqrt(len(losses))  # one image has no spread
    return _interval(losses.mean(), max(0.0, losses.mean() - margin), losses.mean() + margin)


def _averages(counts, cells, classes):
    """Macro and weighted scores (k,) of confusion matrices, given by counts (k, n) of the cells (true, predicted).

    A class without images, which a small one can be in a bootstrap sample, has no score. Weighted recall is the
    accuracy, so it is left out.
    """
    true, predicted = cells
    rows, columns = (sparse.csr_array((np.ones(len(each)), (np.arange(len(each)), each)), (len(each), classes))
                     for each in cells)
    hits, actual, answered = counts * (true == predicted) @ rows, counts @ rows, counts @ columns
    precision, recall = hits / np.maximum(answered, 1), hits / np.maximum(actual, 1)
    f1 = 2 * hits / np.maximum(actual + answered, 1)
    alike, share = (weights / weights.sum(axis=1, keepdims=True) for weights in (actual > 0, actual))
    return {"precision_macro": (alike * precision).sum(1), "recall_macro": (alike * recall).sum(1),
            "f1_macro": (alike * f1).sum(1), "precision_weighted": (share * precision).sum(1),
            "f1_weighted": (share * f1).sum(1)}


def _interval(value, low, high):
    return {"value": round(float(value), 6), "low": round(float(low), 6), "high": round(float(high), 6)}


def class_report(probabilities, labels, class_names):
    """Return a DataFrame with precision, recall, F1 and number of test images per class."""
    scores = precision_recall_fscore_support(labels, probabilities.argmax(axis=1), labels=range(len(class_names)),
                                             zero_division=0)
    columns = dict(zip(("precision", "recall", "F1", "images"), scores, strict=True))
    return pd.DataFrame({"class": class_names, **columns}).round(3)


def confused_pairs(probabilities, labels, class_names, count=10):
    """Return a DataFrame of the most frequent errors: true class, predicted class, number of test images."""
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(len(class_names)))
    np.fill_diagonal(matrix, 0)
    top = np.argsort(-matrix, axis=None, kind="stable")[: min(count, np.count_nonzero(matrix))]
    true, predicted = np.unravel_index(top, matrix.shape)
    names = np.asarray(class_names)
    return pd.DataFrame({"true": names[true], "predicted": names[predicted], "images": matrix.ravel()[top]})


def calibration(probabilities, labels, bins=15):
    """Return (DataFrame of confidence, accuracy and images per bin, expected calibration error as a share).

    Bins are of equal width in the confidence of the predicted class (Guo et al. 2017); empty ones are left out.
    """
    frame = pd.DataFrame({"confidence": probabilities.max(axis=1), "accuracy": probabilities.argmax(axis=1) == labels})
    groups = frame.groupby(np.minimum((frame["confidence"] * bins).astype(int), bins - 1))
    table = groups.mean().assign(images=groups.size()).reset_index(drop=True)
    error = (table["images"] * (table["confidence"] - table["accuracy"]).abs()).sum() / len(labels)
    return table, float(error)


def temperature(probabilities, labels):
    """Return what to divide the logits by for the least cross-entropy (Guo et al. 2017), between 0.05 and 20.

    It is fitted to probabilities (n, classes) and labels (n,) of validation images. Above 1, the model was too sure.
    """
    logits, places = _logits(probabilities), np.arange(len(labels))

    def loss(power):
        return -special.log_softmax(logits / np.exp(power), axis=1)[places, labels].mean()

    return float(np.exp(optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def rescaled(probabilities, temperature):
    """Return the probabilities (n, classes) that a model would give with its logits divided by a temperature."""
    return special.softmax(_logits(probabilities) / temperature, axis=1)


def _logits(probabilities):
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))


def temperature_scaling(probabilities, labels, validation_probabilities, validation_labels):
    """Return {"temperature", "ece", "ece_scaled", "loss_scaled"}: fitted to validation images, judged on test images.

    "ece" is the expected calibration error as a share, "loss_scaled" the cross-entropy as in `metrics`; neither
    accuracy nor the order of the classes changes.
    """
    fitted = temperature(validation_probabilities, validation_labels)
    mended = rescaled(probabilities, fitted)
    errors = [round(calibration(each, labels)[1], 6) for each in (probabilities, mended)]
    return {"temperature": round(fitted, 4), "ece": errors[0], "ece_scaled": errors[1],
            "loss_scaled": _loss(mended, labels)}


def robustness(model, split, limit):
    """Return the accuracy of a model on corrupted images of a `data.Split`; see `corruptions`.

    {"images": how many, "clean": accuracy without corruption, "accuracy": {kind: [at strength 1, …, 5]}, "mean": over
    all of these}. Of more images than `limit` it takes a stratified part, always the same.
    """
    rows = np.sort(data.stratified_order(split.labels)[:limit])
    images, labels = np.asarray(split.images[rows]), np.asarray(split.labels[rows])

    def accuracies(shown):
        hits = predict(model, np.concatenate(shown), batch_size=64).argmax(axis=1).reshape(len(shown), -1) == labels
        return hits.mean(axis=1).round(4).tolist()

    found = {kind: accuracies([corruptions.corrupt(images, kind, strength + 1) for strength in range(len(values))])
             for kind, values in corruptions.STRENGTHS.items()}
    return {"images": len(rows), "clean": accuracies([images])[0], "accuracy": found,
            "mean": round(float(np.mean([*found.values()])), 4)}


def comparison(runs):
    """Return a DataFrame with a row for each of {experiment: `training.Run`}: what was reached, at what cost.

    The decks' numbers stand beside those of CIFAR-10, and of the digits in its place: not of other images, nor of
    random weights where the deck has ImageNet's.
    """
    rows, others = [], False
    for name, run in runs.items():
        metrics, model, training = (run.record[part] for part in ("metrics", "model", "training"))
        deck = (run.record["reported"] or {}).get("accuracy")
        others |= run.record["dataset"]["name"] not in ("cifar10", "digits") or run.record["pretrained"] == "random"
        rows.append({
            "experiment": name, "accuracy (%)": f"{100 * metrics['accuracy']['value']:.1f}",
            "95 % interval": f"{100 * metrics['accuracy']['low']:.1f}–{100 * metrics['accuracy']['high']:.1f}",
            "deck (%)": deck and "–".join(f"{100 * value:.1f}" for value in np.atleast_1d(deck)),
            "macro F1": f"{metrics['f1_macro']['value']:.3f}",
            "weighted F1": f"{metrics['f1_weighted']['value']:.3f}", "loss": f"{metrics['loss']['value']:.2f}",
            "gap": f"{100 * (training['history']['accuracy'][-1] - training['history']['val_accuracy'][-1]):+.1f}",
            "trained": f"{model['trainable_parameters']:,}", "epochs": training["epochs"],
            "seconds": round(training["seconds"]), "ms": run.record["latency"]["batch_1_ms"]["median"]})
    return pd.DataFrame(rows).drop(columns="deck (%)" if others else [])


def latency(model, images, batch_size=64, repeats=30):
    """Return {"batch_1_ms": {"median", "p95"}, "batch_size", "images_per_second"} of the compiled prediction.

    The clock stops when the result is on the host, after ten warm-up calls for batch 1 and two for the large batch
    (deck D timed `model.predict` on one image, which is mostly Python).
    """
    model = keras.Model(model.inputs, model.outputs)  # a predict function of its own, without callbacks
    single = _milliseconds(model, np.asarray(images[:1]), repeats, warm_ups=10)
    batch = np.resize(images[:batch_size], (batch_size, *images.shape[1:]))
    many = _milliseconds(model, batch, repeats=3, warm_ups=2)
    return {"batch_1_ms": {"median": round(float(np.median(single)), 3),
                           "p95": round(float(np.percentile(single, 95)), 3)},
            "batch_size": batch_size, "images_per_second": round(1000 * batch_size / float(np.median(many)), 1)}


def _milliseconds(model, batch, repeats, warm_ups):
    times = []
    for _ in range(warm_ups + repeats):
        start = time.perf_counter()
        model.predict_on_batch(batch)
        times.append(1000 * (time.perf_counter() - start))
    return times[warm_ups:]
