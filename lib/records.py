"""One JSON record per experiment, its test predictions beside it: the only source of numbers in tables and prose.

Introduced in notebook 02. The fields are listed in `REQUIRED`; experiments may add more.
"""

import contextlib
import json
import zipfile
from datetime import UTC, datetime

from lib import project

import numpy as np

SCHEMA = 1
NEAR_DUPLICATES = "near_duplicates.json"
PARTS = (("records", ".json"), ("predictions", ".npz"), ("models", ".keras"))  # what an experiment leaves
LARGEST = 2**30  # bytes of predictions: five times those of 100,000 images in 1,000 classes
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
    runs = {path.parent.name for path in project.REPORTS.glob("*/run.json") if "line" in peek(path)}
    return sorted(({*project.profiles()} | runs) - {"reference"})


def dataset(profile):
    """Return the name or path of the images that a run was on, or None where no run of the whole study says."""
    return peek(folder(profile) / "run.json").get("dataset")


def options(profile):
    """Return the options of `invoke run-all` that fill reports/<profile>."""
    own = "full" if profile == "reference" else profile
    return peek(folder(profile) / "run.json").get("options") or f"--profile {own}"


def write(record, probabilities, labels):
    """Write a record, the class probabilities (n, classes) of test images as float16, and their labels (n,).

    Rounding moves a probability by 0.0007 at most, and never another class to the front. Raises RecordError where a
    field is missing, and ValueError for a number that JSON has not.
    """
    content = json.dumps(checked(record, record.get("experiment")), indent=1, allow_nan=False) + "\n"
    base, name = folder(record["profile"]), record["experiment"]
    with project.replacing(base / "predictions" / f"{name}.npz") as path:
        rounded, first = np.round(probabilities, 4).astype(np.float16), probabilities.argmax(axis=1)
        rows = np.flatnonzero(rounded.argmax(axis=1) != first)
        rounded[rows, first[rows]] = np.nextafter(rounded[rows].max(axis=1), np.float16(2))
        np.savez_compressed(path, probabilities=rounded, labels=labels.astype(np.uint16))
    project.atomic_write(base / "records" / f"{name}.json", content)
    forget_failure(record["profile"], name)


@contextlib.contextmanager
def noting_failure(profile, experiment, notebook):
    """Leave a note where training fails, until the experiment succeeds; an older record stays as it is.

    Raises RuntimeError with the experiment's name in its message.
    """
    try:
        yield
    except RuntimeError as error:
        created = datetime.now(UTC).isoformat(timespec="seconds")
        note = {"experiment": experiment, "notebook": notebook, "error": str(error), "created": created}
        project.atomic_write(folder(profile) / "failed" / f"{experiment}.json", json.dumps(note, indent=1) + "\n")
        raise RuntimeError(f"{experiment}: {error}") from error


def forget_failure(profile, experiment):
    """Delete the note that an experiment's training failed, if there is one."""
    (folder(profile) / "failed" / f"{experiment}.json").unlink(missing_ok=True)


def failures(profile):
    """Return {experiment: what went wrong} of the experiments whose last training failed, sorted by name.

    Raises RecordError where a note is damaged.
    """
    return {path.stem: read_json(path).get("error", "") for path in listed(folder(profile) / "failed")}


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
    return checked(read_json(path), path)


def read_all(profile):
    """Return the profile's records as {experiment: record}, sorted by name; empty if nothing was run.

    Raises RecordError where one is damaged.
    """
    return {path.stem: read(path) for path in listed(folder(profile) / "records")}


def listed(place):
    """Return the paths of the JSON files in a folder, sorted, none where it is missing; StudyError if it is locked."""
    try:
        return sorted(path for path in place.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:  # `glob` would find nothing, and say nothing
        raise project.locked(place, error) from error


def of_seeds(folder):
    """Return the paths of the records that `invoke sweep` made with other seeds of what `folder` holds, sorted.

    Those of a notebook count where it has run to its end with that seed, as it last did with the profile's own: one
    that failed may have left older ones.
    """
    paths = []
    for marker in folder.glob("seeds/*/runs/[!.]*.json"):
        ended = [peek(path) for path in (marker, folder / "runs" / marker.name)]
        if {run.get("status") for run in ended} == {"done"} and ended[0].get("digest") == ended[1].get("digest"):
            there = marker.parents[1].glob("records/[!.]*.json")
            paths += [path for path in there if peek(path).get("notebook", marker.stem) == marker.stem]
    return sorted(paths)


def made_by(notebook, folder):
    """Return the paths of what a notebook's experiments have left in the folder of a run, sorted."""
    names = [path.stem for path in listed(folder / "records") if peek(path).get("notebook") == notebook]
    paths = [folder / part / f"{name}{ending}" for name in names for part, ending in PARTS]
    return sorted(path for path in paths if path.exists())


def over_seeds(profile):
    """Return {experiment: [record, …]} of experiments that ran with several seeds, the profile's own first.

    Raises RecordError where one is damaged.
    """
    found = {name: [record] for name, record in read_all(profile).items()}
    for record in map(read, of_seeds(folder(profile))):
        found.get(record["experiment"], []).append(record)
    return {name: runs for name, runs in found.items() if len(runs) > 1}


def energy(record, watts_per_core):
    """Return an estimate in watt-hours, {"training", "thousand_images"}, for a run on CPU cores; None for another.

    Seconds times cores times an assumed power of each: no measurement. It leaves out memory, cooling, compilation, the
    pass that fills a cache, and the pre-training of weights. On a GPU the power of a core says nothing.
    """
    cores = record.get("threads")
    if not cores or not record["device"].endswith(" cores"):
        return None
    hours = {"training": record["training"]["seconds"] / 3600,
             "thousand_images": 1000 / record["latency"]["images_per_second"] / 3600}
    return {what: watts_per_core * cores * taken for what, taken in hours.items()}


def predictions(profile, experiment):
    """Return test probabilities (n, classes) float32 and true labels (n,) of an experiment.

    Raises RecordError where they are missing or damaged.
    """
    path = folder(profile) / "predictions" / f"{experiment}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if sum(member.file_size for member in arrays.zip.infolist()) > LARGEST:
                raise ValueError("too large")
            probabilities, labels = arrays["probabilities"], arrays["labels"]
            if probabilities.dtype.kind != "f" or labels.dtype.kind not in "iu":
                raise ValueError("not numbers")
            if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
                raise ValueError("not a row of probabilities for each label")
            return probabilities.astype(np.float32), labels.astype(np.int64)
    except Exception as error:  # a damaged archive gives rise to many kinds
        raise RecordError(path, f"cannot be read ({project.one_line(error)})") from error


def checksum(saved):
    """Return the CRC of the weights in a `.keras` file, by which its record knows it, from its table of contents.

    Raises RecordError where there are none.
    """
    try:
        with zipfile.ZipFile(saved) as file:
            return file.getinfo("model.weights.h5").CRC
    except (OSError, LookupError, zipfile.BadZipFile) as error:
        raise RecordError(saved, f"cannot be read ({project.one_line(error)})") from error


def write_table(profile, name, frame):
    """Keep a notebook's table of results, a pandas DataFrame, beside the records: {name}.json is a list of its rows."""
    project.atomic_write(folder(profile) / f"{name}.json", json.dumps(frame.to_dict("records"), indent=1) + "\n")


def write_near_duplicates(profile, dataset, places):
    """Keep which test images of a `data.Dataset`, given by their rows, are near duplicates of training images."""
    indices = dataset.test.indices
    content = {"fingerprint": dataset.fingerprint, "tested": len(indices), "places": sorted(indices[places].tolist())}
    project.atomic_write(folder(profile) / NEAR_DUPLICATES, json.dumps(content) + "\n")


def near_duplicates(profile, fingerprint, indices):
    """Return for each test image, by its place (n,) in the original files, whether it is a near duplicate (n,) bool.

    None where notebook 01 has not looked at all of them. Raises RecordError where the file is damaged.
    """
    path = folder(profile) / NEAR_DUPLICATES
    if not path.exists():
        return None
    content = read_json(path)
    tested, places = content.get("tested"), content.get("places")
    if not isinstance(tested, int) or not isinstance(places, list):
        raise RecordError(path, "lacks tested or places")
    if not all(isinstance(place, int) and place >= 0 for place in places):
        raise RecordError(path, "names images that there are not")
    if content.get("fingerprint") != fingerprint or tested < len(indices):  # smaller test sets lie in larger ones
        return None
    return np.isin(indices, places)


def peek(path):
    """Return the dict in a JSON file, empty where it is damaged or missing."""
    with contextlib.suppress(project.StudyError):
        return read_json(path)
    return {}


def read_json(path):
    """Return the dict in a file of results, empty where there is something else; raises RecordError, or StudyError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=int)  # int("NaN") is a ValueError
    except PermissionError as error:
        raise project.locked(path, error) from error
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(path, f"cannot be read ({project.one_line(error)})") from error
    return content if isinstance(content, dict) else {}


def checked(fields, name):
    """Return the fields of a record as they are; raises RecordError, with its name, where one is missing or wrong."""
    wrong = [field for field, kind in REQUIRED.items() if not isinstance(fields.get(field, ...), kind)]
    if wrong or fields["schema"] != SCHEMA:
        raise RecordError(name, f"lacks {', '.join(wrong) or f'schema {SCHEMA}'}")
    if not isinstance(fields["dataset"].get("name"), str):
        raise RecordError(name, "lacks dataset.name")
    accuracy = fields["metrics"].get("accuracy")
    if not isinstance(accuracy, dict) or not isinstance(accuracy.get("value"), (int, float)):
        raise RecordError(name, "lacks metrics.accuracy.value")
    return fields
