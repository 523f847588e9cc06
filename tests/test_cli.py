"""The commands as a user types them: what they say, where they stop, with which exit code."""

import json
import re
import signal
import urllib.error
import urllib.request

from lib import pipeline

import pytest
import toy
from PIL import Image

COMMANDS = ("bench", "clean", "export", "lab", "lint", "new-notebook", "predict", "publish", "report", "run",
            "run-all", "serve", "sweep", "test", "validate")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A toy study that was run once."""
    study = toy.Study(tmp_path_factory.mktemp("study"))
    study.notebook("02_two")
    study.notebook("12_last", toy.READ, reads_records=True)
    assert study.invoke("run-all", "--profile", "smoke")[0] == 0
    return study


@pytest.fixture
def fresh(tmp_path):
    """A toy study that was not run."""
    study = toy.Study(tmp_path)
    study.notebook("02_two")
    return study


def test_list_explains_each_command_in_a_line(fresh):
    """In a terminal of 80 columns."""
    code, out, err = fresh.invoke("--list")
    lines = [line for line in out.splitlines()[1:] if line]
    assert (code, err) == (0, "")
    assert tuple(line.split()[0] for line in lines) == COMMANDS
    assert all(len(line.split()) > 3 for line in lines)


def refused(study, *arguments):
    """Return the one line on stderr with which a command refuses to start."""
    code, out, err = study.invoke(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (study.root / "reports").exists()
    return err


@pytest.mark.parametrize(("arguments", "says"), [
    ("run-all --profile huge", "there is no profile huge: choose one of quick, smoke"),
    ("run-all --only 99,02", "there is no notebook 99: choose from 02_two"),
    ("run 99 --profile smoke", "there is no notebook 99: choose from 02_two"),
    ("run x --profile smoke", "there is no notebook x: choose from 02_two"),
    ("run-all --only= --profile smoke", "there is no notebook without a name: choose from 02_two"),
    ("run-all --profile smoke --jobs 0", "--jobs must be 1 or more, not 0"),
    ("run-all --profile smoke --jobs two", "--jobs must be 1 or more, not two"),
    ("run-all --dataset nowhere", "nowhere: choose one of cifar10, cifar100, digits, or give the path of a folder"),
    ("run-all --dataset ~nobody.here/x", "~nobody.here/x: choose one of cifar10, cifar100, digits"),
    ("run 02 --profile smoke --dataset tasks.py", "tasks.py is a file: give the folder whose subfolders hold"),
    ("run-all --profile smoke --dataset .", "has too few images that can be read"),
    ("sweep --profile smoke --seeds 0", "--seeds must be 1 or more, not 0"),
    ("sweep --profile smoke --only 02", "none of these notebooks trains: choose others with --only"),
    ("report", "nothing was run yet: start with `invoke run-all`"),
    ("serve --no-browser", "nothing was run yet: start with `invoke run-all`"),
    ("validate --profile quick", "nothing was run yet: start with `invoke run-all --profile quick`"),
    ("publish --profile quick", "nothing was run yet: start with `invoke run-all --profile quick`"),
    ("report --profile huge", "there is no profile huge: choose one of quick, smoke, reference"),
    ("predict no.jpg", "the photo no.jpg is not there: check the path"),
    ("predict tasks.py", "tasks.py is not an image that can be read here: save it as JPEG or PNG"),
    ("export --format onnx", "no model was trained yet: `invoke run-all` trains them"),
    ("export --format onnx --profile huge", "there is no profile huge: choose one of quick, smoke"),
    ("export --format pdf", "there is no format pdf: choose one of onnx, litert"),
    ("bench --only speed", "there is no measurement speed: choose from frozen_phase, fine_tune"),
    ("bench --profile huge", "there is no profile huge: choose one of quick, reference, smoke"),
    ("serve --port 99999", "--port must be a number up to 65535, not 99999"),
])  # fmt: skip
def test_bad_input_is_one_line(fresh, arguments, says):
    """On stderr, saying what to do."""
    assert says in refused(fresh, *arguments.split())


def test_all_parameters_are_checked_before_anything_starts(fresh):
    """A mistake in the last notebook's file does not show after an hour."""
    fresh.notebook("03_three")
    fresh.parameters("03_three", "epoch: 3\n")
    error = refused(fresh, "run-all", "--profile", "smoke")
    assert error == "error: parameters/smoke/03_three.yaml: unknown parameter epoch: write epochs\n"
    (fresh.root / "parameters" / "smoke" / "02_two.yaml").unlink()
    assert "02_two.yaml is missing" in refused(fresh, "run-all", "--profile", "smoke")


@pytest.mark.parametrize("value", ["", "2024"])
def test_a_data_set_that_is_no_text_is_one_line(fresh, value):
    """In a parameter file, where YAML reads numbers and nothing."""
    fresh.parameters("common", f"dataset: {value}\n")
    assert "dataset must be" in refused(fresh, "run-all", "--profile", "smoke")


def test_a_damaged_notebook_is_one_line(fresh):
    """Even one that a run would skip to."""
    (fresh.root / "notebooks" / "02_two.ipynb").write_text("{")
    assert "02_two.ipynb is not a notebook" in refused(fresh, "run-all", "--profile", "smoke")


def test_a_scheduler_that_does_not_answer_is_one_line(fresh):
    """After the first line of the run."""
    for address in ("tcp://127.0.0.1:9", "tls://127.0.0.1:9"):
        code, _, err = fresh.invoke("run-all", "--profile", "smoke", "--scheduler", address)
        assert (code, err) == (2, f"error: no Dask scheduler answers at {address}: check --scheduler\n")


def test_a_folder_that_cannot_be_written_is_one_line(fresh):
    """Here a file stands where the folder should be."""
    (fresh.root / "reports").write_text("")
    code, _, err = fresh.invoke("run-all", "--profile", "smoke")
    assert (code, err.count("\n")) == (2, 1)
    assert "mend this and run the same command again" in err


def test_nothing_is_started_or_written_when_nothing_has_changed(study):
    """Better words and removed outputs change no result, only the page."""
    before = {path: path.stat().st_mtime_ns for path in study.root.glob("reports/**/*") if path.is_file()}
    notebook = study.root / "notebooks" / "02_two.ipynb"
    notebook.write_text(notebook.read_text().replace("A question.", "A better question."))
    code, out, err = study.invoke("run-all", "--profile", "smoke")
    assert (code, err) == (0, "")
    assert "running" not in out
    assert sum(line.endswith(".html") and "kept" in line for line in map(str.strip, out.splitlines())) == 2
    after = {path: path.stat().st_mtime_ns for path in study.root.glob("reports/**/*") if path.is_file()}
    touched = {path for path in after if after[path] != before.get(path)}
    assert {path.parent.name for path in touched if path.name != "run.lock"} == {"site"}


def test_a_damaged_record_is_one_line_after_the_table(fresh):
    """It costs the run its accuracies, not its end."""
    fresh.notebook("03_three", "print(1)")
    record = fresh.root / "reports" / "smoke" / "records" / "A1.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    code, out, err = fresh.invoke("run", "03", "--profile", "smoke")
    assert (code, err) == (0, "")
    assert out.splitlines()[-2].startswith(f"{record} lacks schema, experiment")
    assert out.splitlines()[-1].startswith("open ")


def test_run_runs_even_what_has_not_changed(study):
    """By number or name, and nothing else."""
    before = study.marker("02_two")["run"]
    code, out, _ = study.invoke("run", "2", "--profile", "smoke")
    assert code == 0
    assert "02_two: done" in out
    assert "12_last" not in out
    assert study.marker("02_two")["run"] != before


def test_only_force_trains_again(fresh):
    """`run` runs the notebook, which keeps what it has trained; an interrupted one would begin anew otherwise."""
    fresh.notebook("03_three", "print(retrain)", "retrain = False\n")
    for command, trains in ((("run", "03"), False), (("run-all", "--only", "03", "--force"), True)):
        code, _, err = fresh.invoke(*command, "--profile", "smoke")
        assert (code, err) == (0, "")
        assert fresh.marker("03_three")["parameters"]["retrain"] is trains


def test_report_draws_the_run_that_is_newest(study):
    """And prints where."""
    index = study.root / "reports" / "smoke" / "site" / "index.html"
    index.unlink()
    assert study.invoke("report") == (0, f"{index}\n", "")
    assert index.exists()


def photos(folder):
    """Write five images of each of two classes."""
    for label, name in enumerate(("cats", "dogs")):
        (folder / name).mkdir(parents=True)
        for index in range(5):
            Image.new("RGB", (40 + index, 40), (100 * label, 90, 9)).save(folder / name / f"{index}.png")
    (folder / "cats" / "notes.txt").write_text("no image")


def test_ones_own_images_have_reports_of_their_own(fresh):
    """All commands find them by the name of the folder; what was run on other images stays as it was."""
    fresh.notebook("02_two", f"from lib import data\nprint(data.load_dataset(dataset))\n{toy.TRAIN}",
                   'dataset = "digits"\n')
    photos(fresh.root / "my photos")
    assert fresh.invoke("run-all", "--profile", "smoke")[0] == 0
    before = {path: path.read_bytes() for path in fresh.root.glob("reports/smoke/**/*") if path.is_file()}
    code, out, _ = fresh.invoke("run-all", "--profile", "smoke", "--dataset", "my photos")
    assert code == 0
    assert out.startswith("profile smoke on my photos: 6 / 2 / 2 images for training / validation / test, from ")
    assert "1 of 11 files cannot be read as images and are left out: cats/notes.txt" in out.splitlines()[0]
    assert {path: path.read_bytes() for path in fresh.root.glob("reports/smoke/**/*") if path.is_file()} == before
    assert fresh.marker("02_two", "my-photos-smoke")["parameters"]["dataset"] == str(fresh.root / "my photos")
    assert (fresh.root / "reports" / "my-photos-smoke" / "records" / "02_two.json").exists()
    assert json.loads((fresh.root / "reports" / "my-photos-smoke" / "run.json").read_text())["options"] == (
        f"--profile smoke --dataset '{fresh.root}/my photos'")
    code, out, _ = fresh.invoke("run-all", "--profile", "smoke", "--dataset", f"{fresh.root}/my photos/")
    assert "02_two: kept" in out
    assert fresh.invoke("report", "--profile", "my-photos-smoke")[1].endswith("my-photos-smoke/site/index.html\n")
    assert fresh.invoke("validate", "--profile", "my-photos-smoke")[0] == 0
    (fresh.root / "my photos" / "cats" / "0.png").unlink()
    assert "02_two: running" in fresh.invoke("run-all", "--profile", "smoke", "--dataset", "my photos")[1]
    photos(fresh.root / "others" / "my photos")
    code, _, err = fresh.invoke("run-all", "--profile", "smoke", "--dataset", "others/my photos")
    assert (code, err.splitlines()[-1].endswith("rename it, or the folder of images")) == (2, True)
    assert fresh.invoke("clean")[0] == 0
    assert list((fresh.root / "reports").iterdir()) == []


def test_serve_shows_the_site_on_this_machine_only(study):
    """Nothing outside the site's folder, and Ctrl-C ends it."""
    process = study.start("serve", "--no-browser", "--port", "0", PYTHONUNBUFFERED="1")
    url = re.match(r"(http://127\.0\.0\.1:\d+/) ", process.stdout.readline())[1]
    with urllib.request.urlopen(url) as answer:
        assert b"<html" in answer.read()
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{url}../run.json")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_validate_compares_without_touching_the_run(study):
    """A changed output is found; records and markers stay as they were."""
    records = study.root / "reports" / "smoke" / "records"
    before = {path: path.read_bytes() for path in records.iterdir()}
    notebook = study.root / "reports" / "smoke" / "notebooks" / "12_last.ipynb"
    notebook.write_text(notebook.read_text().replace("02_two.json", "99_other.json"))
    code, out, _ = study.invoke("validate")
    assert code == 1
    assert re.search(r"12_last.ipynb::Cell \d", out), out
    assert "02_two.ipynb::" not in out
    assert {path: path.read_bytes() for path in records.iterdir()} == before


def test_test_runs_tests_and_notebooks_without_touching_a_run(fresh):
    """A notebook that fails is enough to fail."""
    (fresh.root / "tests").mkdir()
    (fresh.root / "tests" / "test_true.py").write_text("def test_true():\n    pass\n")
    fresh.notebook("03_raises", "1 / 0")
    code, out, _ = fresh.invoke("test")
    assert code == 1
    assert "1 passed" in out
    assert re.search(r"FAILED .*03_raises\.ipynb::Cell", out), out
    assert "02_two.ipynb::" not in out
    assert not (fresh.root / "reports").exists()


def test_clean_deletes_runs_but_not_the_reference(fresh):
    """The cache only if asked, and nothing that is somebody else's."""
    for folder in ("reports/smoke/runs", "reports/reference/site", "reports/other", ".cache/datasets"):
        (fresh.root / folder).mkdir(parents=True)
    (fresh.root / "reports" / "other" / "run.json").write_text("{}")
    (fresh.root / ".cache" / "mine").touch()
    assert fresh.invoke("clean")[0] == 0
    assert sorted(path.name for path in (fresh.root / "reports").iterdir()) == ["other", "reference"]
    assert (fresh.root / ".cache" / "datasets").exists()
    assert fresh.invoke("clean", "--cache")[0] == 0
    assert [path.name for path in (fresh.root / ".cache").iterdir()] == ["mine"]


def test_clean_takes_nothing_from_a_run_that_goes_on(fresh):
    """Nor does it take anything from another profile then: the cache is everybody's."""
    for name in ("quick", "smoke"):
        (fresh.root / "reports" / name / "records").mkdir(parents=True)
    with pipeline.alone(fresh.root / "reports" / "smoke"):
        code, out, err = fresh.invoke("clean", "--cache")
    assert (code, out) == (2, "")
    assert "smoke is in use by a run of process" in err and err.count("\n") == 1
    assert len(list(fresh.root.glob("reports/*/records"))) == 2


@pytest.mark.parametrize("command", ["validate", "report", "serve"])
def test_the_reference_is_not_a_run_of_ones_own(fresh, command):
    """Its notebooks would train for hours."""
    for part in ("notebooks", "runs", "site"):
        (fresh.root / "reports" / "reference" / part).mkdir(parents=True)
        (fresh.root / "reports" / "reference" / part / "02_two").touch()
    code, out, err = fresh.invoke(command)
    assert (code, out, err) == (2, "", "error: nothing was run yet: start with `invoke run-all`\n")
