"""Records: what is written comes back, and what is damaged is named, not believed."""

import copy
import json

from lib import project, records

import numpy as np
import pandas as pd
import pytest
from conftest import one_line

RECORD = {
    "schema": 1, "experiment": "A1", "notebook": "02_baseline_cnn", "profile": "smoke", "seed": 0,
    "created": "2026-01-01T00:00:00+00:00", "commit": "unknown", "versions": {"python": "3.12.1"}, "device": "a CPU",
    "dataset": {"name": "digits", "fingerprint": "0123", "train": 500, "validation": 56, "test": 360},
    "pretrained": None, "settings": {"epochs": 2},
    "model": {"total_parameters": 315722, "trainable_parameters": 315722, "flops": 8},
    "metrics": {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}}, "training": {"epochs": 2, "seconds": 1.5},
    "latency": {"batch_1_ms": {"median": 1.0, "p95": 2.0}, "images_per_second": 100.0}, "reported": None,
}  # fmt: skip
PROBABILITIES = np.random.default_rng(0).dirichlet(np.ones(10), 30).astype(np.float32)
LABELS = np.arange(30) % 10


def changed(**changes):
    """Return the record with some fields changed."""
    return copy.deepcopy(RECORD) | changes


@pytest.fixture
def path(reports):
    """The path of a written record."""
    records.write(RECORD, PROBABILITIES, LABELS)
    return reports / "smoke" / "records" / "A1.json"


def refusal(path):
    """Return the one line, with its path, with which a record is refused."""
    with pytest.raises(records.RecordError) as error:
        records.read(path)
    assert str(path) in one_line(error)
    assert "run its notebook again" in str(error.value)
    return str(error.value)


def test_what_is_written_comes_back(path):
    """The record exactly, probabilities to four decimals in float16, labels exactly."""
    assert records.read(path) == RECORD
    probabilities, labels = records.predictions("smoke", "A1")
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, PROBABILITIES, rtol=2**-11, atol=5e-5)
    np.testing.assert_array_equal(labels, LABELS)


def test_all_records_of_a_profile(path):
    """By name; other profiles do not show."""
    records.write(changed(experiment="B3"), PROBABILITIES, LABELS)
    records.write(changed(experiment="C1", profile="full"), PROBABILITIES, LABELS)
    assert list(records.read_all("smoke")) == ["A1", "B3"]
    assert records.read_all("smoke")["B3"]["experiment"] == "B3"
    assert records.read_all("quick") == {}


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(path, monkeypatch):
    """Of another user, say: nothing in it has to be deleted."""
    def locked(self, *_, **__):
        raise PermissionError(13, "Permission denied")

    for method in ("iterdir", "read_text"):
        with monkeypatch.context() as patch, pytest.raises(project.StudyError, match=r"denied.*who owns it") as error:
            patch.setattr(type(path), method, locked)
            records.read_all("smoke")
        assert not isinstance(error.value, records.RecordError)


def test_a_record_counts_in_the_stages_before_its_last():
    """Epochs, seconds and curves of all, once: a record that was kept has them already."""
    before, last = ({"epochs": len(curve), "history": {"loss": curve}, "seconds": 1.25, "compile_seconds": 0.5}
                    for curve in ([3.0, 2.0], [1.0]))  # fmt: skip
    record = records.with_stages(changed(training=last), [before])
    assert record["training"] == {"epochs": 3, "history": {"loss": [3.0, 2.0, 1.0]}, "seconds": 2.5,
                                  "compile_seconds": 1.0, "stages": [2, 1]}  # fmt: skip
    assert record | {"training": last} == changed(training=last)
    assert records.with_stages(record, [before]) == record


def test_a_failed_write_leaves_the_old_record(path, full_disk):
    """And no temporary file."""
    before = path.read_bytes()
    longer = changed(settings={"text": "x" * 50_000})
    with full_disk(20_000), pytest.raises(OSError):
        records.write(longer, PROBABILITIES, LABELS)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["A1.json"]
    records.write(longer, PROBABILITIES, LABELS)
    assert records.read(path) == longer


def test_failed_predictions_leave_the_old_ones(path, full_disk, reports):
    """And the old record: the two belong together."""
    many = np.random.default_rng(0).random((5000, 10))
    with full_disk(20_000), pytest.raises(OSError):
        records.write(changed(seed=1), many, np.zeros(5000))
    assert len(records.predictions("smoke", "A1")[1]) == 30
    assert records.read(path)["seed"] == 0
    assert [file.name for file in (reports / "smoke" / "predictions").iterdir()] == ["A1.npz"]


@pytest.mark.parametrize("field", sorted(records.REQUIRED))
def test_every_required_field_is_missed(reports, path, field):
    """When it is written, and when it is read; and so is one of the wrong type."""
    for wrong in ({key: value for key, value in RECORD.items() if key != field}, changed(**{field: [1]})):
        path.write_text(json.dumps(wrong))
        assert field in refusal(path)
        if field not in ("experiment", "profile"):
            with pytest.raises(records.RecordError, match=field):
                records.write(wrong, PROBABILITIES, LABELS)


@pytest.mark.parametrize("content", [
    b"", b"{", b"null", b"[]", b"7", b'"text"', b"\xff\xfe", json.dumps(RECORD)[:300].encode(),
    b"[" * 100_000, json.dumps(RECORD | {"schema": 2}).encode(),
    json.dumps(RECORD | {"metrics": {"accuracy": {"value": float("nan")}}}).encode(),
])  # fmt: skip
def test_a_malformed_record_is_refused(path, content):
    """In one line with its path."""
    path.write_bytes(content)
    refusal(path)


def test_a_record_that_is_a_folder_or_missing_is_refused(path, tmp_path):
    """As are other things that are no files."""
    refusal(tmp_path)
    path.unlink()
    refusal(path)


def test_not_a_number_is_never_written(path, reports):
    """The old record and predictions stay."""
    before = (reports / "smoke" / "predictions" / "A1.npz").read_bytes()
    with pytest.raises((records.RecordError, ValueError)):
        records.write(changed(metrics={"loss": {"value": float("nan")}}), 1 - PROBABILITIES, LABELS)
    assert records.read(path) == RECORD
    assert (reports / "smoke" / "predictions" / "A1.npz").read_bytes() == before


def test_random_damage_to_predictions_is_refused_or_harmless(path, reports):
    """200 files with a few bytes changed or the end cut off."""
    file, generator, bad = reports / "smoke" / "predictions" / "A1.npz", np.random.default_rng(0), 0
    original = file.read_bytes()
    for round in range(200):
        content = bytearray(original)
        for _ in range(generator.integers(1, 4)):
            content[generator.integers(len(content))] = generator.integers(256)
        if round % 5 == 0:
            del content[generator.integers(len(content)) :]
        file.write_bytes(content)
        try:
            records.predictions("smoke", "A1")
        except records.RecordError as error:
            assert str(file) in str(error)
            bad += 1
    assert bad > 100


def test_missing_predictions_are_refused(path, reports):
    """With their path."""
    with pytest.raises(records.RecordError) as error:
        records.predictions("smoke", "B3")
    assert str(reports / "smoke" / "predictions" / "B3.npz") in one_line(error)


def test_atomic_write_makes_folders_and_files_that_others_can_read(tmp_path):
    """Text and bytes."""
    for content in ("é", b"\xff"):
        project.atomic_write(tmp_path / "a" / "b", content)
        assert (tmp_path / "a" / "b").read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o644


def test_a_file_that_is_not_finished_leaves_the_old_one(tmp_path):
    """Whoever writes it; the temporary name ends alike, for writers that go by the ending."""
    path = tmp_path / "a.npy"
    project.atomic_write(path, "old")
    with pytest.raises(ZeroDivisionError), project.replacing(path) as temporary:
        temporary.write_text("half")
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".npy")
        raise ZeroDivisionError
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_a_file_is_replaced_not_overwritten(path):
    """Who is reading it reads the old one to its end."""
    before = path.read_text()
    with path.open() as reader:
        records.write(changed(seed=1), PROBABILITIES, LABELS)
        assert reader.read() == before
    assert records.read(path)["seed"] == 1


def test_code_without_comments(tmp_path):
    """Layout, comments and docstrings do not count; a number does."""
    def code(text):
        (tmp_path / "a.py").write_text(text)
        return project.code_of(tmp_path / "a.py")

    plain = code("def f(x):\n    return x + 1\n")
    assert code('"""Of the module."""\ndef f(x):  # why\n    """Doc."""\n\n    return (x +\n        1)\n') == plain
    assert code("def f(x):\n    return x + 2\n") != plain
    assert code("def f(:") != code("def f(;")  # no Python, which who imports it will be told


def test_rounding_brings_no_other_class_to_the_front(reports):
    """Neither in a near tie, nor where two numbers are the same in float16."""
    close = np.array([[0.40001, 0.40004, 0.19995], [0.10004, 0.44997, 0.44999], [0.2, 0.2, 0.6],
                      [0.49985181, 0.49985293, 0.00029526]])  # fmt: skip
    records.write(changed(), close, np.zeros(4, int))
    kept, _ = records.predictions("smoke", "A1")
    assert kept.argmax(axis=1).tolist() == [1, 2, 2, 1]
    np.testing.assert_allclose(kept, close, atol=7e-4)


def test_a_table_is_kept_as_its_rows(reports):
    """As plain numbers, whatever pandas makes of them."""
    records.write_table("smoke", "curve", pd.DataFrame({"images": [500, 2000], "share": [0.5, 0.75]}))
    rows = json.loads((reports / "smoke" / "curve.json").read_text())
    assert rows == [{"images": 500, "share": 0.5}, {"images": 2000, "share": 0.75}]


def test_near_duplicates_are_known_for_the_images_that_were_looked_at(reports, noise):
    """By their places in the original files; not for other images, nor for more of them; a damaged list is named."""
    fingerprint, indices = noise.fingerprint, noise.test.indices
    assert records.near_duplicates("smoke", fingerprint, indices) is None
    records.write_near_duplicates("smoke", noise, np.array([7, 2]))
    assert np.flatnonzero(records.near_duplicates("smoke", fingerprint, indices)).tolist() == [2, 7]
    assert records.near_duplicates("smoke", fingerprint, indices[[1, 7, 9]]).tolist() == [False, True, False]
    assert records.near_duplicates("smoke", "other", indices) is None
    assert records.near_duplicates("smoke", fingerprint, np.arange(13)) is None


DUPLICATES = {"fingerprint": "0123", "tested": 12, "places": [2, 7]}


@pytest.mark.parametrize("wrong", [
    {"places": [-1]}, {"places": [[]]}, {"places": 3}, {"tested": "x"}])  # fmt: skip
def test_a_damaged_list_of_near_duplicates_is_refused(reports, wrong):
    """In one line, with its path."""
    path = reports / "smoke" / "near_duplicates.json"
    project.atomic_write(path, json.dumps(DUPLICATES | wrong))
    with pytest.raises(records.RecordError) as error:
        records.near_duplicates("smoke", "0123", np.arange(12))
    assert str(path) in one_line(error)


def test_energy_is_seconds_times_the_power_of_the_cores():
    """Two cores of 12 W train for 150 s: 1 Wh; a thousand images at 100 per second take them 10 s."""
    record = changed(device="a CPU, 8 cores", threads=2, training={"seconds": 150.0})
    found = records.energy(record, 12.0)
    assert found == {"training": pytest.approx(1), "thousand_images": pytest.approx(24 * 10 / 3600)}
    assert records.energy(record, 6.0)["training"] == pytest.approx(0.5)


@pytest.mark.parametrize("changes", [{"device": "NVIDIA H200", "threads": 2}, {"device": "a CPU, 8 cores"}])
def test_energy_is_unknown_without_cores(changes):
    assert records.energy(changed(**changes), 12.0) is None
