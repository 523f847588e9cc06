"""What the five slide decks report, from `decks.yaml`, and how it compares with the records: the claims ledger.

Introduced in notebook 12. Nobody edits a verdict: it follows from decks.yaml and a record.
"""

import functools
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy import stats

# A number in decks.yaml: what it is called, what it is multiplied with and to how many digits it is written.
NUMBERS = {
    "accuracy": ("accuracy (%)", 100, 1), "precision": ("precision (%)", 100, 1), "recall": ("recall (%)", 100, 1),
    "f1": ("F1 (%)", 100, 1), "loss": ("loss (nats)", 1, 2), "gap": ("gap (points)", 1, 1), "epochs": ("epochs", 1, 0),
    "converged": ("best epoch", 1, 0), "ms": ("prediction (ms)", 1, 2), "seconds": ("training (s)", 1, 0),
    "parameters": ("parameters", 1, 0), "trainable": ("trainable parameters", 1, 0),
    "confused": ("images", 1000, 0),  # of the 1,000 test images of a class
}  # fmt: skip
SIGNS = {"reproduced": "✓", "exceeded": "▲", "not reached": "▼", "not checkable here": "–",
         "inconsistent in itself": "✗"}
COLUMNS = ["deck", "experiment", "number", "reported", "measured", "verdict", "note"]
SCORES = ("precision", "recall", "f1")
RESNET50_FLOPS = 7.7e9  # at 224 px, multiply and add counted as two (He et al. 2015 give 3.8e9 multiply-adds)


@functools.cache
def load():
    """Return the content of `decks.yaml`: its parts, as it names them."""
    return yaml.safe_load(Path(__file__).with_name("decks.yaml").read_text(encoding="utf-8"))


def reported(experiment):
    """Return the deck's numbers for an experiment, such as {"accuracy": 0.675, "loss": 1.1}, or None."""
    row = load()["experiments"].get(experiment, {})
    return {name: value for name, value in row.items() if name in NUMBERS} or None


def title(experiment):
    """Return the model in a few words, or the experiment's own name where `decks.yaml` has none."""
    return _known().get(experiment, {}).get("title", experiment)


def names(found=()):
    """Return all experiments of `decks.yaml` and of the records {experiment: record}, in the order of notebooks."""
    notebooks = {name: record["notebook"] for name, record in dict(found).items()}
    notebooks = {name: row["notebook"] for name, row in _known().items()} | notebooks
    return sorted(notebooks, key=notebooks.get)


def _known():
    return load()["experiments"] | load()["own"]


def measured(number, record):
    """Return a record's {"value", "low", "high"} for a number of decks.yaml, or {"value"} where it has no interval."""
    metrics, model, training = record["metrics"], record["model"], record["training"]
    if number in ("accuracy", "loss"):
        return metrics[number]
    if number in SCORES:
        return metrics[f"{number}_macro"]
    if number == "gap":
        return _gap(training["history"], record["dataset"])
    return {"value": {
        "epochs": lambda: training["epochs"], "seconds": lambda: training["seconds"],
        "converged": lambda: int(np.argmax(training["history"]["val_accuracy"])) + 1,
        "ms": lambda: record["latency"]["batch_1_ms"]["median"],
        "parameters": lambda: model["total_parameters"], "trainable": lambda: model["trainable_parameters"],
    }[number]()}  # fmt: skip


def _gap(history, images):
    """Training minus validation accuracy after the last epoch, in points; its interval is that of two proportions."""
    train, validation = history["accuracy"][-1], history["val_accuracy"][-1]
    variance = train * (1 - train) / images["train"] + validation * (1 - validation) / images["validation"]
    value, margin = 100 * (train - validation), 196 * variance**0.5
    return {"value": value, "low": value - margin, "high": value + margin}


def verdict(number, claim, metric):
    """Return "reproduced", "exceeded" or "not reached" for a deck's number, or range [low, high], and a measured one.

    Reproduced: the claim lies inside our interval or within one point of our value (gap: one point; loss: 0.01 nats,
    or half of the last digit that the deck gives; epochs: a tenth; parameter counts: equal, or within 1 % where the
    deck rounds to thousands). Otherwise exceeded, where ours is better: higher, but for losses, errors and the epoch
    of convergence lower, for a gap nearer to zero; parameter counts and the epochs trained are never better.
    """
    value = metric["value"]
    low, high = metric.get("low", value), metric.get("high", value)
    nearest = min(max(value, np.min(claim)), np.max(claim))  # of a range, the end or point that is closest to ours
    if low <= nearest <= high or round(abs(value - nearest), 9) <= _slack(number, nearest):
        return "reproduced"
    if number in ("parameters", "trainable", "epochs"):
        return "not reached"
    if number == "gap":
        value, nearest = -abs(value), -abs(nearest)
    elif number in ("loss", "converged", "confused"):
        value, nearest = -value, -nearest
    return "exceeded" if value > nearest else "not reached"


def _slack(number, claim):
    """How far from our value a claim may lie and still be reproduced."""
    if number == "loss":
        return max(0.01, 0.5 * 10.0 ** Decimal(str(claim)).as_tuple().exponent)
    if number in ("parameters", "trainable"):
        return 0 if claim % 1000 else 0.01 * claim
    return {"gap": 1, "epochs": 0.1 * claim, "converged": 0.1 * claim}.get(number, 0.01)


def comparable(record):
    """Return whether a record says anything about the decks: of CIFAR-10, their backbone, and no random weights."""
    return record is not None and _lacking(record) is None


def _lacking(record):
    """What a record would have to be of to be compared with a deck's, or None."""
    if record["dataset"]["name"] != "cifar10":
        return "CIFAR-10"
    if record["pretrained"] == "random":
        return "ImageNet weights"
    # A transfer notebook takes any network of keras.applications; a title begins with the deck's.
    backbone, known = record["settings"].get("backbone"), title(record["experiment"]).replace(",", " ").split()[0]
    return None if backbone in (None, known) else "the deck's backbone"


def needed(number, record):
    """Return what a verdict on a number would need that a record, or None, does not have; None if nothing."""
    if number in ("ms", "seconds"):
        return "the deck's device"
    if record is None:
        return "not run yet"
    if lacking := _lacking(record):
        return lacking
    images = record["dataset"]
    if images["train"] + images["validation"] < 50_000 or images["test"] < 10_000:
        return "all of CIFAR-10"
    settings = load()["experiments"].get(record["experiment"], {}).get("settings", {})
    if any(record["settings"].get(name) != value for name, value in settings.items()):
        return "the deck's settings"
    stopped = any(callback["name"] == "EarlyStopping" for callback in record["settings"].get("callbacks", ()))
    return None if number != "epochs" or stopped else "early stopping"


def ledger(found):
    """Return a DataFrame with a row for every number and every inconsistent claim of the decks.

    `found` is {experiment: record}; the columns are `COLUMNS`. A verdict is a key of `SIGNS`, where need be with what
    it takes ("not checkable here: ImageNet weights"); `note` has the reason, or the command that fills the row.
    """
    rows = []
    for experiment in load()["experiments"]:
        faults = _faults(experiment, found.get("C2"))
        for number, claim in reported(experiment).items():
            row = _row(experiment, number, claim, found.get(experiment))
            rows.append(row | next((_odd(fault) for fault in faults if number in fault["number"]), {}))
        rows += [_claim(fault) for fault in faults if not fault["number"]]
    rows += [_claim(fault) for fault in _faults(None, found.get("C2"))]
    for claim in load()["uncheckable"]:
        rows.append({"deck": claim["deck"], "experiment": claim["experiment"], "number": "claim", "measured": "",
                     "reported": claim["claim"], "verdict": f"not checkable here: {claim['needs']}", "note": ""})
    return pd.DataFrame(rows, columns=COLUMNS)


def sign(verdict_):
    """Return the sign of a verdict in the ledger, such as ✓."""
    return SIGNS[verdict_.split(":")[0]]


def details(found, predictions):
    """Return a DataFrame as `ledger` does, of the decks' class tables (B1, B2, A5) and confused pairs (E7).

    `predictions` is a function from an experiment's name to its test probabilities (n, classes) and labels (n,). What
    is compared is named "CLASS: SCORE" or "CLASS → PREDICTED CLASS"; the latter is counted in test images.
    """
    tables, confused = load()["classes"], load()["confused"]
    names = list(tables["B1"])
    ours = {name: confusion(*predictions(name)) for name in (*tables, *confused) if comparable(found.get(name))}
    rows = []
    for experiment, table in tables.items():
        for label, (name, claims) in enumerate(table.items()):
            metrics = class_scores(ours[experiment], label) if experiment in ours else {}
            for score, claim in zip(SCORES, claims, strict=True):
                row = _row(experiment, score, claim, found.get(experiment), metrics.get(score), digits=0)
                rows.append(row | {"number": f"{name}: {score}"})
    for experiment, pairs in confused.items():
        for true, predicted, images in pairs:
            label, answer = names.index(true), names.index(predicted)
            matrix = ours.get(experiment)
            metric = None if matrix is None else _share(matrix[label, answer], matrix[label].sum())
            row = _row(experiment, "confused", images / 1000, found.get(experiment), metric)
            rows.append(row | {"number": f"{true} → {predicted}"})
    return pd.DataFrame(rows, columns=COLUMNS)


def confusion(probabilities, labels):
    """Return the number of test images (classes, classes) of each true class (rows) by predicted class."""
    matrix = np.zeros((probabilities.shape[1],) * 2, int)
    np.add.at(matrix, (labels, probabilities.argmax(axis=1)), 1)
    return matrix


def class_scores(matrix, label):
    """Return {"precision", "recall", "f1"} of a class, each {"value", "low", "high"} with a 95 % Wilson interval.

    F1 is 2 J / (1 + J), where J is the share of right answers among the images that are or are called of the class.
    """
    right, actual, called = matrix[label, label], matrix[label].sum(), matrix[:, label].sum()
    jaccard = _share(right, actual + called - right)
    return {"precision": _share(right, called), "recall": _share(right, actual),
            "f1": {end: 2 * share / (1 + share) for end, share in jaccard.items()}}


def _share(hits, count):
    if not count:
        return {"value": 0.0, "low": 0.0, "high": 1.0}
    wilson = stats.binomtest(int(hits), int(count)).proportion_ci(0.95, method="wilson")
    return {"value": float(hits / count), "low": wilson.low, "high": wilson.high}


def _row(experiment, number, claim, record, metric=None, digits=None):
    """A line of the ledger for one number; `metric` is looked up in the record where it is not given."""
    deck, notebook = (load()["experiments"][experiment][name] for name in ("deck", "notebook"))
    metric = (metric or measured(number, record)) if comparable(record) else None
    lacking = needed(number, record)
    judged = f"not checkable here: {lacking}" if lacking else verdict(number, claim, metric)
    fills = lacking not in (None, "the deck's device", "early stopping")
    again = " --force" if lacking == "ImageNet weights" else ""  # nothing else tells that they can be had now
    return {"deck": deck, "experiment": experiment, "number": NUMBERS[number][0], "reported": _claimed(number, claim),
            "measured": _interval(number, metric, digits) if metric else "", "verdict": judged,
            "note": f"invoke run-all --profile full --only {notebook[:2]}{again}" if fills else ""}


def _claimed(number, claim):
    """A deck's number, or range, with the digits that it gives."""
    scale = NUMBERS[number][1]
    return "–".join(f"{scale * value:,.4f}".rstrip("0").rstrip(".") for value in np.atleast_1d(claim)).replace("-", "−")


def _interval(number, metric, digits=None):
    """A measured number as value [low, high]."""
    _, scale, usual = NUMBERS[number]
    value, *ends = (f"{scale * metric[end]:,.{usual if digits is None else digits}f}".replace("-", "−")
                    for end in ("value", "low", "high") if end in metric)
    return f"{value} [{', '.join(ends)}]" if ends else value


def _faults(experiment, resnet50):
    """The inconsistent claims about an experiment, C2's with its arithmetic: from its record, or as published."""
    row = load()["experiments"]["C2"]
    recorded = resnet50 and resnet50["settings"].get("image_size", 224) == 224  # where the claim is made
    flops = resnet50["model"]["flops"] if recorded else RESNET50_FLOPS
    per_second = row["epochs"] * 50_000 * flops / row["seconds"]
    return [fault | {"number": np.atleast_1d(fault.get("number", [])).tolist(),
                     "reason": fault["reason"].format(gigaflop=flops / 1e9, teraflops=per_second / 1e12)}
            for fault in load()["inconsistent"] if fault.get("experiment") == experiment]


def _odd(fault):
    """What a claim's inconsistency changes in a line of the ledger."""
    return {"verdict": "inconsistent in itself", "note": f"{fault['claim']}: {fault['reason']}"}


def _claim(fault):
    """A line of the ledger for a claim that is no number of a row."""
    return {"deck": fault["deck"], "experiment": fault.get("experiment", ""), "number": "claim",
            "reported": fault["claim"], "measured": ""} | _odd(fault)
