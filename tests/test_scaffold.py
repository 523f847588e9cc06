"""`invoke new-notebook`: what it writes passes every check of a notebook at once."""

import os
import shutil
import subprocess
import sys

from lib import parameters, project, scaffold

import pytest
from conftest import one_line


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the project, on which `scaffold` works."""
    kept = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "smoke", "quick", "full")
    for name in ("lib", "notebooks", "tests", "reports"):
        shutil.copytree(project.ROOT / name, tmp_path / name, ignore=kept)
    shutil.copytree(project.PARAMETERS, tmp_path / "parameters")
    for name in ("README.md", "tasks.py", "pyproject.toml"):
        shutil.copy(project.ROOT / name, tmp_path)
    monkeypatch.setattr(project, "ROOT", tmp_path)
    for name in ("NOTEBOOKS", "PARAMETERS"):
        monkeypatch.setattr(project, name, tmp_path / name.lower())
    return tmp_path


def test_a_new_notebook_passes_all_checks_at_once(copy):
    """Its form, its links, its numbers, lint, and nbval; and every profile has parameters for it."""
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_HOME"}
    environment |= {"PYTHONPATH": str(copy), "STUDY_REPORTS": str(copy / "elsewhere")}

    def run(*command):
        done = subprocess.run([sys.executable, "-m", *command], cwd=copy, env=environment, capture_output=True,
                              text=True)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "14_my_idea.ipynb" in run("invoke", "new-notebook", "my_idea")
    path = copy / "notebooks" / "14_my_idea.ipynb"
    run("pytest", "-q", "tests/test_notebooks.py", "-k", "14_my_idea or 13_your or each_notebook or quoted_numbers")
    run("ruff", "check", ".")
    assert "passed" in run("pytest", "-q", "--nbval-lax", "--nbval-current-env", str(path))
    assert "You need [02 Baseline CNN]" in path.read_text(encoding="utf-8")
    assert [parameters.read(profile, path)["train_limit"] for profile in ("smoke", "quick", "full")] == [500, 5000, 0]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("cut", range(7))
def test_what_was_cut_short_can_be_called_again(copy, monkeypatch, cut):
    """It ends as if nothing had happened."""
    place, last = copy / "before", project.notebooks()[-1]
    last.write_text(last.read_text(encoding="utf-8").replace('"You need', '"You do need'), encoding="utf-8")
    project.atomic_write(copy / "parameters" / "photos" / "common.yaml", "")  # a profile of one's own
    shutil.copytree(copy, place, ignore=shutil.ignore_patterns("before"))
    made = scaffold.new_notebook("my_idea")
    assert scaffold.new_notebook("my_idea") == made  # which has not run
    assert (copy / "parameters" / "photos" / "14_my_idea.yaml").read_text() == ""
    whole = {path.relative_to(copy): text for path, text in contents(copy).items() if place not in path.parents}
    for name in ("ROOT", "NOTEBOOKS", "PARAMETERS"):
        monkeypatch.setattr(project, name, place / ("" if name == "ROOT" else name.lower()))
    written = []

    def full(path, content, write=project.atomic_write):
        if len(written) == cut:
            raise OSError(28, "No space left on device")
        written.append(path)
        write(path, content)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(project, "atomic_write", full)
        scaffold.new_notebook("my_idea")
    scaffold.new_notebook("my_idea")
    assert {path.relative_to(place): text for path, text in contents(place).items()} == whole


@pytest.mark.parametrize(("name", "says"), [
    ("Wide ResNet", "write it like wide_resnet"), ("../x", "write it like wide_resnet"), ("14", "write it like"),
    ("resnet", "already"), ("modern_small", "already"), ("your_own_photo", "already"),
])  # fmt: skip
def test_a_bad_name_is_one_line_and_writes_nothing(copy, name, says):
    """Nor does a name that is taken by a notebook or an experiment."""
    before = contents(copy)
    with pytest.raises(project.StudyError, match=says) as error:
        scaffold.new_notebook(name)
    one_line(error)
    assert contents(copy) == before
