"""Parameter files: what is merged, and that nothing that does not fit gets through."""

import tasks
from lib import data, parameters, project

import pytest
from toy import Study


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A toy study that `lib` in this process takes for the project."""
    study = Study(tmp_path)
    monkeypatch.setattr(project, "ROOT", tmp_path)
    monkeypatch.setattr(project, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(project, "PARAMETERS", tmp_path / "parameters")
    study.path = study.notebook("02_two", parameters='names = ["a"]\nflag = True\nlimit = None\nsizes = []\nshift = -1')
    return study


def refusal(study, file, text):
    """Return the one line with which a parameter file is refused."""
    study.parameters(file, text)
    with pytest.raises(parameters.ParameterError) as caught:
        parameters.read("smoke", study.path)
    message = str(caught.value)
    assert message.startswith(f"parameters/smoke/{file}.yaml")
    assert "\n" not in message
    return message


def test_defaults_are_read_not_run(study):
    """Every literal is there, negative numbers too."""
    assert parameters.defaults(study.path) == {
        "profile": "smoke", "seed": 0, "epochs": 1, "rate": 0.5, "names": ["a"], "flag": True, "limit": None,
        "sizes": [], "shift": -1}  # fmt: skip


def test_the_notebooks_file_wins_over_common_and_common_over_defaults(study):
    """The profile is the folder's name, whatever a file says; whole numbers become floats where the default is one."""
    study.parameters("common", "seed: 1\nepochs: 2\nprofile: full\n", "quick")
    study.parameters("02_two", "epochs: 3\nrate: 1\nlimit: [1, x]\nsizes: [8, 16]\nflag: false\n", "quick")
    values = parameters.read("quick", study.path)
    assert (values["seed"], values["epochs"], values["profile"], values["flag"]) == (1, 3, "quick", False)
    assert (values["rate"], type(values["rate"]), values["limit"], values["sizes"]) == (1.0, float, [1, "x"], [8, 16])


def test_numbers_with_an_exponent_need_no_point(study):
    """YAML 1.1 alone would read text."""
    study.parameters("02_two", "rate: 1e-3\n")
    assert parameters.read("smoke", study.path)["rate"] == 0.001


@pytest.mark.parametrize(("line", "says"), [
    ("epoch: 3", "unknown parameter epoch: write epochs"),
    ("zzz: 3", "unknown parameter zzz: write one of profile, seed"),
    ("epochs: 2.5", "epochs must be a whole number, not 2.5"),
    ("epochs: true", "epochs must be a whole number, not True"),
    ("epochs: '2'", "epochs must be a whole number, not '2'"),
    ("epochs: null", "epochs must be a whole number, not None"),
    ("rate: fast", "rate must be a number, not 'fast'"),
    ("rate: yes", "rate must be a number, not True"),
    ("flag: 1", "flag must be true or false, not 1"),
    ("profile: 3", "profile must be text, not 3"),
    ("names: a", "names must be a list, not 'a'"),
    ("names: [a, 1]", "names, item 2 must be text, not 1"),
    ("limit: {a: 1}", "limit must be a plain value"),
    ("limit: [{a: 1}]", "limit, item 1 must be a plain value"),
    ("limit: 2024-01-01", "limit must be a plain value"),
    ("epochs: {value: 1}", "epochs must be a whole number"),
    ("epochs: 1\nepochs: 2", "given twice: epochs"),
    ("epochs: [1", "is not YAML"),
    ("!!python/object/apply:os.system [ls]", "is not YAML"),
    ("\x00", "is not YAML"),
    ("- epochs", "one `name: value` a line"),
    ("3: 4", "one `name: value` a line"),
    ("[]: 4", "one `name: value` a line|is not YAML"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(study, line, says):
    """In one line that names the file and says what would fit."""
    message = refusal(study, "02_two", line)
    assert any(part in message for part in says.split("|"))


def test_common_may_name_what_another_notebook_declares(study):
    """But not what none does."""
    study.notebook("03_three", parameters="width = 8")
    study.parameters("common", "seed: 0\nwidth: 16\n")
    assert "width" not in parameters.read("smoke", study.path)
    refusal(study, "common", "width: 16\nwitdh: 16\n")


@pytest.mark.parametrize("file", ["02_two", "common"])
def test_a_missing_file_is_an_error(study, file):
    """An empty file says that the defaults are meant."""
    (study.root / "parameters" / "smoke" / f"{file}.yaml").unlink()
    with pytest.raises(parameters.ParameterError, match=f"parameters/smoke/{file}.yaml is missing: create it"):
        parameters.read("smoke", study.path)


@pytest.mark.parametrize("cell", ["epochs = max(1, 2)", "import os", "epochs =", "a.b = 1", "a, b = 1, 2"])
def test_a_parameters_cell_holds_literals_only(study, cell):
    """Anything else could not be read without running it."""
    with pytest.raises(parameters.ParameterError, match=r"02_two\.ipynb needs a parameters cell"):
        parameters.defaults(study.notebook("02_two", parameters=cell))


def test_a_damaged_notebook_is_one_line(study):
    """Not a traceback of the JSON parser."""
    study.path.write_text('{"cells": [')
    with pytest.raises(project.NotebookError, match=r"02_two\.ipynb is not a notebook"):
        parameters.defaults(study.path)


def offline(name):
    """Stand in for a machine without data and network."""
    raise data.DataError("cifar-10 is not here: put it there")


def test_without_a_profile_real_data_is_preferred(study, monkeypatch):
    """And the line says which, and why."""
    study.parameters("common", "dataset: cifar10\n", "quick")
    monkeypatch.setattr(data, "find_or_download_cifar", lambda name: (study.root, "found in the Keras home"))
    assert tasks.choose_profile() == ("quick", "profile quick on CIFAR-10 (found in the Keras home)")
    monkeypatch.setattr(data, "find_or_download_cifar", offline)
    assert tasks.choose_profile() == ("smoke", "profile smoke on the embedded digits (cifar-10 is not here)")


def test_a_named_profile_never_falls_back(study, monkeypatch):
    """It stops, or runs on what it names."""
    study.parameters("common", "dataset: cifar10\n", "quick")
    monkeypatch.setattr(data, "find_or_download_cifar", offline)
    with pytest.raises(data.DataError, match="put it there"):
        tasks.choose_profile("quick")
    assert tasks.choose_profile("smoke") == ("smoke", "profile smoke on the embedded digits (as asked for)")
    with pytest.raises(parameters.ParameterError, match="there is no profile huge: choose one of quick, smoke"):
        tasks.choose_profile("huge")
