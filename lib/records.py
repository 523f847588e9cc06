"""One JSON record per experiment, its test predictions beside it: the only source of numbers in tables and prose.

Introduced in notebook 02. The fields are listed in `REQUIRED`; experiments may add more.
"""

import io
import json

from lib import project

import numpy as np

SCHEMA = 1
REQUIRED = {"schema": int, "experiment": str, "notebook": str, "profile": str, "seed": int, "created": str,
            "commit": str, "versions": dict, "device": str, "dataset": dict, "pretrained": (str, type(None)),
            "settings": dict, "model": dict, "metrics": dict, "training": dict, "latency": dict,
            "reported": (dict, type(None))}  # fmt: skip


class RecordError(project.StudyError):
    """A record that cannot be read or lacks a field."""


def folder(profile):
    """Return reports/<profile>, where everything that a profile's run produces lies."""
    return project.REPORTS / profile


def write(record, probabilities, labels):
    """Write a record, and the class probabilities (n, classes) of its test images with their true labels (n,).

    Both appear whole or not at all; probabilities are kept as float16, a third of a per mille exact.
    """
    _check(record, record.get("experiment"))
    base = folder(record["profile"])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, probabilities=probabilities.astype(np.float16), labels=labels.astype(np.uint16))
    project.atomic_write(base / "predictions" / f"{record['experiment']}.npz", buffer.getvalue())
    content = json.dumps(record, indent=1, allow_nan=False) + "\n"
    project.atomic_write(base / "records" / f"{record['experiment']}.json", content)


def read(path):
    """Return the record in a JSON file; raises RecordError where it is not one."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path} cannot be read ({error}): delete it and run its notebook again") from error
    _check(record, path)
    return record


def read_all(profile):
    """Return the profile's records as {experiment: record}, sorted by name; empty if nothing was run."""
    return {path.stem: read(path) for path in sorted((folder(profile) / "records").glob("*.json"))}


def predictions(profile, experiment):
    """Return test probabilities (n, classes) float32 and true labels (n,) of an experiment."""
    path = folder(profile) / "predictions" / f"{experiment}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["probabilities"].astype(np.float32), arrays["labels"].astype(np.int64)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise RecordError(f"{path} cannot be read ({error}): delete it and run its notebook again") from error


def _check(record, name):
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise RecordError(f"{name} is not a record of schema {SCHEMA}: delete it and run its notebook again")
    wrong = [key for key, kind in REQUIRED.items() if key not in record or not isinstance(record[key], kind)]
    if wrong:
        raise RecordError(f"{name} lacks {', '.join(wrong)}: delete it and run its notebook again")
