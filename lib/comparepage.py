"""What the page needs that puts two models side by side: their answers and curves, and the most contested pictures."""

import base64
import hashlib
from itertools import combinations

from lib import data, decks, pictures, project, records

import numpy as np

PICTURES = 400  # of the sprite


def content(profile, group, folder):
    """Return what the page reads of the models {experiment: record}, ready for JSON; the sprite is put into `folder`.

    Answers are one byte per test image. Where the sprite is missing and the data is not here, it is left out.
    """
    answers = {name: records.predictions(profile, name) for name in group}
    labels = next(labels for _, labels in answers.values())
    predicted = np.stack([probabilities.argmax(axis=1) for probabilities, _ in answers.values()])
    places, recorded = contested(predicted), next(iter(group.values()))["dataset"]
    dataset = _data(profile, recorded)
    classes = recorded.get("classes", data.CIFAR10_CLASSES)  # the first records were all of CIFAR-10, and did not say
    return {"models": [_model(name, record, row) for (name, record), row in zip(group.items(), predicted, strict=True)],
            "labels": _packed(labels), "classes": list(classes), "pictures": places.tolist(),
            "sprite": _sprite(folder, recorded, dataset, places), "columns": pictures.COLUMNS}


def contested(predicted):
    """Return the indices of the test images on which most pairs of models differ, at most `PICTURES`, in their order.

    `predicted` (models, n) are classes.
    """
    disputes = sum(first != second for first, second in combinations(predicted, 2))
    order = np.argsort(-disputes, kind="stable")[:PICTURES]
    return np.sort(order[disputes[order] > 0])


def _data(profile, recorded):
    """The data of a record, or None where it is not here any more, or not the same; nothing is downloaded."""
    name = records.dataset(profile) or recorded["name"]
    if name in ("cifar10", "cifar100") and not data.find_cifar(name):
        return None
    try:
        found = data.load_dataset(name, test_limit=recorded["test"])
    except data.DataError:
        return None
    return found if found.fingerprint == recorded["fingerprint"] else None


def _model(name, record, predicted):
    history = {curve: np.round(values, 3).tolist() for curve, values in record["training"]["history"].items()}
    return {"name": name, "title": decks.title(name), "pretrained": record["pretrained"], "history": history,
            "smoothing": record["settings"].get("label_smoothing", 0), "accuracy": record["metrics"]["accuracy"],
            "costs": _costs(record), "predicted": _packed(predicted)}


def _costs(record):
    """What the table of costs says of a model, as pairs of a name and a text."""
    images, training = record["dataset"], record["training"]
    return [("parameters", f"{record['model']['total_parameters']:,}"),
            ("MFLOP", f"{record['model']['flops'] / 1e6:,.1f}"),
            ("prediction (ms)", f"{record['latency']['batch_1_ms']['median']:.2f}"),
            ("training (s)", f"{training['seconds']:,.0f}"), ("epochs", f"{training['epochs']:,}"),
            ("training images", f"{images['train']:,}"), ("validation images", f"{images['validation']:,}"),
            ("device", record["device"])]


def _packed(classes):
    """Classes as one byte each, in base64."""
    return base64.b64encode(np.asarray(classes, np.uint8).tobytes()).decode()


def _sprite(folder, recorded, dataset, places):
    """The name of the WebP in `folder` with these test images, row by row; it is made where it is missing; or None."""
    digest = hashlib.sha256(f"{recorded['fingerprint']} {places.tolist()}".encode()).hexdigest()
    path = folder / f"contested-{digest[:12]}.webp"
    if not path.exists():
        for outdated in folder.glob("contested-*.webp"):
            outdated.unlink()
        if not dataset or not len(places):
            return None
        project.atomic_write(path, pictures.sheet(dataset.test.images[places], quality=85))
    return path.name
