"""The same seed gives the same records: a real notebook, run by the command alone and beside another."""

import shutil
import zipfile

from lib import project, records

import numpy as np
import toy

SMALL = """train_limit: 100
test_limit: 60
epochs: 1
max_epochs: 1
candidate_limit: 60
candidate_epochs: 1
own_epochs: 1
"""
BUSY = """import pathlib, time
import numpy as np
from lib import project
last, end = project.REPORTS / profile / "records" / "A1-own.json", time.monotonic() + 600
while not last.exists() and time.monotonic() < end:
    np.ones((99, 99)) @ np.ones((99, 99))"""
TIMES = {"created", "seconds", "compile_seconds", "latency"}


def without_times(value):
    """Return nested dicts and lists without what a clock says."""
    if isinstance(value, dict):
        return {name: without_times(inner) for name, inner in value.items() if name not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def results(folder, monkeypatch):
    """Return what a run left: {experiment: (record without times, bytes of predictions, bytes of weights)}."""
    monkeypatch.setattr(project, "REPORTS", folder)
    found = {}
    for name, record in records.read_all("smoke").items():
        with zipfile.ZipFile(folder / "smoke" / "models" / f"{name}.keras") as model:
            weights = model.read("model.weights.h5")
        with np.load(folder / "smoke" / "predictions" / f"{name}.npz") as arrays:
            found[name] = without_times(record), arrays["probabilities"].tobytes(), weights
    return found


def test_a_run_can_be_repeated_bit_for_bit(tmp_path, monkeypatch):
    """Once alone, once with `--jobs 2` beside a notebook that keeps a core busy; each with an empty cache."""
    study = toy.Study(tmp_path / "study")
    study.notebook("03_busy", BUSY)
    shutil.copy(project.NOTEBOOKS / "02_baseline_cnn.ipynb", study.root / "notebooks")
    study.parameters("02_baseline_cnn", SMALL)
    for name, choice in (("alone", "--only=02"), ("beside", "--jobs=2")):
        variables = {"STUDY_REPORTS": str(tmp_path / name), "STUDY_CACHE": str(tmp_path / f"cache-{name}")}
        code, out, err = study.invoke("run-all", "--profile", "smoke", choice, seconds=400, **variables)
        assert (code, err) == (0, ""), out
    assert "03_busy: done" in out
    alone, beside = (results(tmp_path / name, monkeypatch) for name in ("alone", "beside"))
    assert sorted(alone) == ["A1", "A1-own", "D1", "D2", "E1"]
    assert beside == alone
