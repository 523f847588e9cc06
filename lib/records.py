"""One JSON record per experiment, its test predictions beside it: the only source of numbers in tables and prose.

Introduced in notebook 02. The fields are listed in `REQUIRED`; experiments may add more.
"""

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

    def __init__(self, name, why):
        super().__init__(f"{name} {why}: delete it and run its notebook again")


def folder(profile):
    """Return reports/<profile>, where everything that a profile's run produces lies."""
    return project.REPORTS / profile


def profiles():
    """Return the names under which runs are kept: the profiles, and folders such as flowers-quick, of other images."""
    named = {path.name for path in project.PARAMETERS.iterdir() if path.is_dir()}
    return sorted(named | {path.parent.name for path in project.REPORTS.glob("*/run.json")} - {"reference"})


def dataset(profile):
    """Return the name or path of the images that a run was on, or None where no run of the whole study says."""
    try:
        return json.loads((folder(profile) / "run.json").read_text(encoding="utf-8")).get("dataset")
    except (OSError, ValueError, AttributeError):
        return None


def write(record, probabilities, labels):
    """Write a record, the class probabilities (n, classes) of test images to four decimals, and their labels (n,)."""
    content = json.dumps(_checked(record, record.get("experiment")), indent=1, allow_nan=False) + "\n"
    base, name = folder(record["profile"]), record["experiment"]
    with project.replacing(base / "predictions" / f"{name}.npz") as path:
        rounded = np.round(probabilities, 4).astype(np.float16)
        np.savez_compressed(path, probabilities=rounded, labels=labels.astype(np.uint16))
    project.atomic_write(base / "records" / f"{name}.json", content)


def with_stages(record, earlier):
    """Return a record whose `training` counts in the stages that came before, as `training.fit` returned them.

    A record that does so already comes back as it is: one that was kept from an earlier run.
    """
    last = record["training"]
    if "stages" in last:
        return record
    parts = [*earlier, last]
    whole = {name: round(sum(part[name] for part in parts), 2) for name in ("epochs", "seconds", "compile_seconds")}
    history = {curve: [value for part in parts for value in part["history"][curve]] for curve in last["history"]}
    return record | {"training": whole | {"history": history, "stages": [part["epochs"] for part in parts]}}


def read(path):
    """Return the record in a JSON file; raises RecordError where it is not one."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=int)  # int("NaN") is a ValueError
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(path, f"cannot be read ({error})") from error
    return _checked(record, path)


def read_all(profile):
    """Return the profile's records as {experiment: record}, sorted by name; empty if nothing was run."""
    return {path.stem: read(path) for path in sorted((folder(profile) / "records").glob("*.json"))}


def predictions(profile, experiment):
    """Return test probabilities (n, classes) float32 and true labels (n,) of an experiment."""
    path = folder(profile) / "predictions" / f"{experiment}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["probabilities"].astype(np.float32), arrays["labels"].astype(np.int64)
    except Exception as error:  # a damaged archive gives rise to many kinds
        raise RecordError(path, f"cannot be read ({error})") from error


def _checked(record, name):
    fields = record if isinstance(record, dict) else {}
    wrong = [field for field, kind in REQUIRED.items() if not isinstance(fields.get(field, ...), kind)]
    if wrong or fields["schema"] != SCHEMA:
        raise RecordError(name, f"lacks {', '.join(wrong) or f'schema {SCHEMA}'}")
    return record
