"""Runs of toy studies: real commands, worker processes, kernels and signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import toy

from lib import pipeline

ENDLESS = toy.TRAIN + """
import time
while True:
    print("epoch  1/9 · val accuracy 12.0 %", end="\\r", flush=True)
    time.sleep(0.1)"""


@pytest.fixture
def study(tmp_path):
    """A toy study that trains in one notebook and compares in another."""
    study = toy.Study(tmp_path)
    study.notebook("02_two")
    study.notebook("12_last", toy.READ, reads_records=True)
    return study


def ran(out):
    """Return the notebooks that a run has started, from its plain lines."""
    return sorted(line.split(":")[0] for line in out.splitlines() if line.endswith(": running"))


def written(study):
    """Return all of a run's files with their times of change."""
    return {path: path.stat().st_mtime_ns for path in study.root.glob("reports/**/*") if path.is_file()}


def test_what_has_not_changed_is_kept(study):
    """One story, as each run takes seconds: run, nothing to do, edit, edit, force."""
    study.notebook("01_one")
    code, out, err = study.invoke("run-all", "--profile", "smoke")
    assert (code, err) == (0, "")
    assert out.startswith("profile smoke on the embedded digits (as asked for)\n")
    assert ran(out) == ["01_one", "02_two", "12_last"]
    assert "02_two: section Training" in out
    assert "02_two: epoch  1/1 · val accuracy 61.2 %" in out
    assert [line.split()[3:] for line in out.splitlines() if line.startswith("02_two  ")] == [["50.0%", "site/02_two.html"]]
    assert out.splitlines()[-1] == f"open {study.root}/reports/smoke/site/index.html"
    marker = study.marker("02_two")
    assert marker["status"] == "done"
    assert marker["parameters"] == {"profile": "smoke", "seed": 0, "epochs": 1, "rate": 0.5}
    executed = nbformat.read(study.root / "reports" / "smoke" / "notebooks" / "12_last.ipynb", 4)
    assert "['01_one.json', '02_two.json']" in executed.cells[-1].outputs[0].text

    before = written(study)
    code, out, _ = study.invoke("run-all", "--profile", "smoke")
    assert (code, ran(out), out.count("kept")) == (0, [], 6)
    assert written(study) == before

    study.parameters("02_two", "rate: 0.75\n")
    notebook = study.root / "notebooks" / "01_one.ipynb"
    notebook.write_text(notebook.read_text().replace("A question.", "A better question."))
    code, out, _ = study.invoke("run-all", "--profile", "smoke")
    assert (code, ran(out)) == (0, ["02_two", "12_last"])
    assert "75.0%" in out

    code, out, _ = study.invoke("run-all", "--profile", "smoke", "--only", "01", "--force")
    assert (code, ran(out)) == (0, ["01_one"])
    assert "12_last" not in out


def test_a_failed_notebook_does_not_stop_the_others_and_is_tried_again(study):
    """Neither a cell that raises, nor a kernel that dies, nor a worker process that is killed."""
    study.notebook("03_raises", "raise ValueError('no such\\nthing')")
    study.notebook("04_dies", "import os; os._exit(1)")
    study.notebook("05_worker", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
    code, out, err = study.invoke("run-all", "--profile", "smoke", "--jobs", "2")
    assert (code, err) == (1, "")
    assert "03_raises failed: ValueError: no such\n" in out
    assert "04_dies failed: its kernel died" in out
    assert "05_worker failed: its worker process died" in out
    assert {name: study.marker(name)["status"] for name in ("02_two", "03_raises", "04_dies", "05_worker", "12_last")} == {
        "02_two": "done", "03_raises": "failed", "04_dies": "failed", "05_worker": "failed", "12_last": "done"}  # fmt: skip
    executed = nbformat.read(study.root / "reports" / "smoke" / "notebooks" / "03_raises.ipynb", 4)
    assert executed.cells[-1].outputs[0].ename == "ValueError"
    assert "ValueError" in (study.root / "reports" / "smoke" / "site" / "03_raises.html").read_text()

    for name in ("04_dies", "05_worker"):
        (study.root / "notebooks" / f"{name}.ipynb").unlink()
    code, out, _ = study.invoke("run-all", "--profile", "smoke")
    assert (code, ran(out)) == (1, ["03_raises"])


def alive(mark):
    """Return the processes that were started with STUDY_MARK=mark, those of ended sessions too."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"STUDY_MARK={mark}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_nothing_survives_an_interrupted_run(study, tmp_path_factory, end):
    """Ctrl-C reaches the whole process group; finished notebooks are kept. A killed run leaves no process either."""
    temporary = tmp_path_factory.mktemp("temporary", numbered=True)
    study.notebook("03_endless", ENDLESS)
    process = study.start("run-all", "--profile", "smoke", "--jobs", "1", STUDY_MARK=study.root.name, TMPDIR=str(temporary))
    for line in process.stdout:
        if line.startswith("03_endless: epoch"):
            break
    assert len(alive(study.root.name)) >= 3  # the command, a worker, a kernel
    (os.killpg if end == signal.SIGINT else os.kill)(process.pid, end)
    out, err = process.communicate(timeout=60)
    for _ in range(100):
        if not alive(study.root.name):
            break
        time.sleep(0.1)
    assert alive(study.root.name) == []
    assert study.marker("02_two")["status"] == "done"
    assert sorted(path.name for path in study.root.glob("reports/smoke/*/03_endless*")) == ["03_endless.json"]  # its record
    assert not list(study.root.glob("reports/**/.*"))
    if end == signal.SIGINT:
        assert process.returncode == 130
        assert err == "interrupted: finished notebooks are kept; run the same command again to go on\n"
        assert list(temporary.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path_factory):
    """A disk of 256 kB."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if not hasattr(os, "geteuid") or os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(study, small_disk):
    """What was finished before stays."""
    study.notebook("03_large", "print('x' * 300_000)")
    code, out, err = study.invoke("run-all", "--profile", "smoke", STUDY_REPORTS=str(small_disk))
    assert code == 1
    assert "03_large failed: no space left on device: free some" in out
    assert "Traceback" not in out + err
    assert (small_disk / "smoke" / "notebooks" / "02_two.ipynb").exists()
    assert not (small_disk / "smoke" / "notebooks" / "03_large.ipynb").exists()
    assert not list(small_disk.glob("**/.*"))


def test_a_cluster_is_taken_by_its_address(study):
    """And nothing is started here."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None, silence_logs="CRITICAL") as cluster:
        code, out, _ = study.invoke("run-all", "--profile", "smoke", "--scheduler", cluster.scheduler_address)
        assert (code, ran(out)) == (0, ["02_two", "12_last"])
        assert len(cluster.workers) == 1


@pytest.fixture
def task(study):
    """What a run would know of notebook 02."""
    (study.root / "lib" / "deep.py").write_text("x = 1\n")
    (study.root / "lib" / "middle.py").write_text("def f():\n    from lib import deep\n")
    (study.root / "lib" / "other.py").write_text("x = 1\n")
    path = study.notebook("02_two", "import numpy\nfrom lib.middle import (\n    f,\n)")
    return {"path": path, "parameters": {"rate": 0.5}, "root": study.root, "folder": study.root / "reports" / "smoke"}


def edited(path, old, new):
    """Replace text in a file."""
    path.write_text(path.read_text().replace(old, new))


def test_the_digest_covers_what_a_result_depends_on(study, task, monkeypatch):
    """Code, parameters, imported modules, the lock file, the data; not Markdown, outputs or other modules."""
    digests = [pipeline.digest(task)]
    edited(task["path"], "A question.", "Another question.")
    edited(study.root / "lib" / "other.py", "1", "2")
    (study.root / "reports" / "smoke" / "records").mkdir(parents=True)
    (study.root / "reports" / "smoke" / "records" / "A1.json").write_text("{}")
    assert pipeline.digest(task) == digests[0]
    edited(study.root / "lib" / "deep.py", "1", "2")
    digests.append(pipeline.digest(task))
    edited(study.root / "requirements.txt", "", "numpy==2\n")
    digests.append(pipeline.digest(task))
    digests.append(pipeline.digest(task | {"parameters": {"rate": 0.25}}))
    digests.append(pipeline.digest(task | {"parameters": {"rate": 0.5, "dataset": "digits"}}))
    monkeypatch.setattr(pipeline.data, "stamp", lambda name: "changed")
    digests.append(pipeline.digest(task))
    edited(task["path"], "import numpy", "import scipy")
    digests.append(pipeline.digest(task))
    assert len(set(digests)) == len(digests)


def test_a_magic_command_makes_a_notebook_depend_on_all_of_lib(study, task):
    """What it imports cannot be told."""
    task["path"] = study.notebook("02_two", "%matplotlib inline")
    before = pipeline.digest(task)
    edited(study.root / "lib" / "other.py", "1", "2")
    assert pipeline.digest(task) != before


def test_the_digest_of_a_reader_covers_the_records(study, task):
    """Their bytes."""
    task["path"] = study.root / "notebooks" / "12_last.ipynb"
    digests = {pipeline.digest(task)}
    records = study.root / "reports" / "smoke" / "records"
    records.mkdir(parents=True)
    for content in ("{}", '{"a": 1}'):
        (records / "A1.json").write_text(content)
        digests.add(pipeline.digest(task))
    assert len(digests) == 3


@pytest.mark.parametrize("module", ["parameters", "pipeline", "progress", "site", "tasks"])
def test_the_command_line_does_not_import_keras(module):
    """Nor what else is slow."""
    name = module if module == "tasks" else f"lib.{module}"
    slow = ["keras", "tensorflow", "papermill", "nbconvert", "nbformat", "distributed", "matplotlib"]
    code = f"import {name}, sys, json; print(json.dumps([m for m in {slow} if m in sys.modules]))"
    out = subprocess.run([sys.executable, "-c", code], cwd=toy.ROOT, capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == []
