"""The committed notebooks: their form, their stored outputs, their links, and the numbers they quote."""

import ast
import itertools
import json
import re
import shutil
import subprocess
import sys

from lib import data, decks, parameters, pipeline, project, site

import prose
import pytest

NOTEBOOKS = sorted(project.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
PROFILES = sorted(path.name for path in project.PARAMETERS.iterdir() if path.is_dir())


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    """The path of each notebook in turn."""
    return request.param


def cells(path, kind=None):
    """Return a notebook's cells, all or of one kind, each with its source as one text."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in found if kind in (None, cell["cell_type"])]


def outputs(path):
    """Return all stored outputs."""
    return [output for cell in cells(path, "code") for output in cell["outputs"]]


def test_there_are_notebooks():
    """Or all that follows would say nothing."""
    assert len(NOTEBOOKS) >= 4
    assert {"smoke", "quick", "full"} <= set(PROFILES)


# ---------------------------------------------------------------------------------------------- form


def test_it_begins_with_title_question_and_next(path):
    """`# NN Title`, `> a sentence`, what is needed, how long it takes, what is next."""
    first = cells(path)[0]
    assert first["cell_type"] == "markdown"
    lines = first["source"].splitlines()
    assert re.match(rf"# {path.stem[:2]} \S", lines[0])
    assert lines[1] == ""
    assert re.match(r"> .*\S", lines[2])
    assert "You need" in first["source"]
    assert "takes about" in first["source"]


def test_imports_stand_in_the_second_cell_only(path):
    """And nothing else stands there."""
    second = cells(path)[1]
    imports = (ast.Import, ast.ImportFrom)
    assert second["cell_type"] == "code"
    assert all(isinstance(node, imports) for node in ast.parse(second["source"]).body)
    for cell in cells(path)[2:]:
        if cell["cell_type"] == "code":
            nodes = ast.walk(ast.parse(cell["source"]))
            assert not any(isinstance(node, imports) for node in nodes), cell["source"]


def test_the_third_cell_holds_the_parameters(path):
    """One literal per line, each with a comment; no other cell has the tag."""
    tagged = [place for place, cell in enumerate(cells(path)) if "parameters" in cell["metadata"].get("tags", [])]
    assert tagged == [2]
    lines = cells(path)[2]["source"].splitlines()
    for line in lines:
        assert re.match(r"[a-z]\w* = \S.*  # \S", line), line
        ast.literal_eval(ast.parse(line).body[0].value)
    assert lines[0].startswith('profile = "smoke"')


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_has_a_file_that_fits(path, profile):
    """Every name declared, every value of the right type."""
    assert (project.PARAMETERS / profile / f"{path.stem}.yaml").is_file()
    assert parameters.read(profile, path)["profile"] == profile


def test_smoke_is_what_the_defaults_are(path):
    """So that nbval, which knows no parameters, runs the same."""
    smoke, defaults = parameters.read("smoke", path), parameters.defaults(path)
    assert smoke == defaults


def test_code_cells_fit_a_screen(path):
    """25 lines and 120 columns at most."""
    for cell in cells(path, "code"):
        assert 1 <= len(cell["source"].splitlines()) <= 25, cell["source"]
        assert max(map(len, cell["source"].splitlines())) <= 120, cell["source"]


def test_code_names_no_backend(path):
    """So that another one can run it."""
    for cell in cells(path, "code"):
        assert not re.search(r"\btf\.|tensorflow|\btorch\b|\bjax\b", cell["source"]), cell["source"]


def test_a_number_of_epochs_follows_the_word(path):
    """Often it is 1: `epochs: {epochs}` is right for any number, `{epochs} epochs` is not."""
    for cell in cells(path, "code"):
        assert not re.search(r"epochs\} epochs", cell["source"]), cell["source"]


def test_there_is_prose_before_code(path):
    """At least one Markdown cell for two of code, and nothing left to write."""
    assert 2 * len(cells(path, "markdown")) >= len(cells(path, "code"))
    text = "\n".join(cell["source"] for cell in cells(path))
    assert not re.search(r"(?m)^\W*[A-Z]{4,}\W*$", text), "a line of capitals mostly marks what is still to be written"


def test_a_notebook_says_which_records_it_reads(path):
    """So that a run makes them before, and runs it again when they change."""
    code = "\n".join(cell["source"] for cell in cells(path, "code"))
    reads = pipeline.reads(path)
    assert "records.read_all" not in code or reads or pipeline.reads_records(path)
    known = decks.load()["experiments"] | decks.load()["own"]
    assert all(known[name]["notebook"] == notebook for notebook, names in reads.items() for name in names)


# ---------------------------------------------------------------------------------------------- outputs


def test_at_least_three_cells_are_checked(path):
    """Each was run and has something stored: nbval passes over a cell that has not."""
    checked = [cell for cell in cells(path, "code") if "nbval-check-output" in cell["metadata"].get("tags", [])]
    assert len(checked) >= 3
    for cell in checked:
        assert cell["execution_count"], cell["source"]
        assert cell["outputs"], cell["source"]
        for output in cell["outputs"]:
            assert "".join(output.get("text", "")).strip() or output.get("data"), cell["source"]


def test_all_cells_were_run_from_the_top(path):
    """Once each."""
    assert [cell["execution_count"] for cell in cells(path, "code")] == list(range(1, len(cells(path, "code")) + 1))


def test_stored_outputs_hold_no_errors_warnings_or_paths(path):
    """What a reader on a code host sees."""
    for output in outputs(path):
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", "".join(output["text"])
        data = {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")}
        text = json.dumps([data, output.get("text")])
        assert not re.search(r"/(root|home|tmp|Users)/|[Ww]arning:|Traceback", text), text


def test_stored_outputs_need_no_kernel(path):
    """A widget without the kernel that made it reads "Error displaying widget" in JupyterLab."""
    assert not [kind for output in outputs(path) for kind in output.get("data", {}) if "widget" in kind]


def test_every_picture_has_alt_text(path):
    """And shows as text where pictures do not."""
    for output in outputs(path):
        for kind in output.get("data", {}):
            if kind.startswith("image/"):
                assert output["metadata"][kind]["alt"].strip()
                assert "".join(output["data"]["text/plain"]).strip()


def test_one_result_and_one_thumbnail(path):
    """For the card in the index."""
    roles = [output.get("metadata", {}).get("study", {}).get("role") for output in outputs(path)]
    assert roles.count("result") == 1
    assert roles.count("thumbnail") == 1


def test_the_file_is_small(path):
    """Under 2 MB."""
    assert path.stat().st_size < 2_000_000


# ---------------------------------------------------------------------------------------------- links


def anchors(path):
    """Return the addresses of a notebook's headings, as JupyterLab and the site make them."""
    text = "\n".join(re.sub(r"(?ms)^```.*?^```", "", cell["source"]) for cell in cells(path, "markdown"))
    titles = re.findall(r"(?m)^#{1,6} +(.+?)\s*$", text)
    return {re.sub(r"[`*]", "", title).replace(" ", "-") for title in titles}


def test_links_lead_somewhere(path):
    """To files that are there, and in notebooks to headings that are there."""
    text = "\n".join(cell["source"] for cell in cells(path, "markdown"))
    links = re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)", text)
    assert links
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not anchor or target.suffix != ".ipynb" or anchor in anchors(target), link


def test_each_notebook_names_the_next_one():
    """In its first cell and at its end."""
    for path, following in itertools.pairwise(NOTEBOOKS):
        for cell in (cells(path)[0], cells(path, "markdown")[-1]):
            assert f"({following.name})" in cell["source"], path.stem


# ---------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("document", prose.documents(), ids=lambda path: path.name)
def test_quoted_numbers_are_those_of_the_records(document):
    """`python -m tests.prose` mends them."""
    if not document.exists():
        pytest.skip(f"there is no {document.name} yet")
    text = document.read_text(encoding="utf-8")
    assert text == prose.render(text)


def test_what_was_measured_is_quoted():
    """In every notebook that has records in reports/reference, and in the README."""
    sources = {json.loads(path.read_text(encoding="utf-8"))["notebook"]: path for path in prose.RECORDS.glob("*.json")}
    if not sources:
        pytest.skip("there are no records in reports/reference yet")
    for document in [project.NOTEBOOKS / f"{name}.ipynb" for name in sources] + [project.ROOT / "README.md"]:
        assert prose.MARK.search(document.read_text(encoding="utf-8")), document.name


@pytest.fixture
def results(tmp_path):
    """A folder with one record."""
    record = {"metrics": {"accuracy": {"value": 0.69749, "low": 0.6865}, "loss": {"value": -0.5}},
              "model": {"parameters": 315722},
              "training": {"seconds": 361.2, "history": {"loss": [2.0, 1.25]}}}  # fmt: skip
    folder = tmp_path / "reports" / "reference" / "records"
    folder.mkdir(parents=True)
    (folder / "A1-own.json").write_text(json.dumps(record))
    (folder.parent / "few_images.json").write_text(json.dumps([{"from scratch": 0.561}]))
    printed = {"output_type": "stream", "text": ["noise -0.834,\n", "blur +0.06; in all 1,234 images\n"]}
    table = {"output_type": "display_data", "data": {"text/html": "<td>A3</td><td>92.3 [91.8, 92.8]</td><td>110</td>"}}
    page = {"cells": [{"id": "12-cell", "outputs": [printed, table]}]}
    (folder.parent / "notebooks").mkdir()
    (folder.parent / "notebooks" / "12_x.ipynb").write_text(json.dumps(page))
    return folder


@pytest.mark.parametrize(("text", "expected"), [
    ("?<!--A1-own:metrics.accuracy.value:pct1--> %", "69.7 %"),
    ("?<!--A1-own:metrics.accuracy.low:pct1--> %", f"{100 * 0.6865:.1f} %"),  # as in tables
    ("64–12.34<!--A1-own:metrics.accuracy.value:pct2--> %", "64–69.75 %"),
    ("64-12.34<!--A1-own:metrics.accuracy.value:pct0--> %", "64-70 %"),
    ("1,234,567<!--A1-own:model.parameters:,d--> parameters, 17.8 <!-- a: note -->", "315,722 parameters, 17.8 "),
    ("| 9<!--A1-own:training.seconds:.1f/60--> min | 9<!--A1-own:training.seconds:,d--> s |", "| 6.0 min | 361 s |"),
    ("+3<!--A1-own:training.history.loss.0:.2f--> to 0<!--A1-own:training.history.loss.-1:.2f-->", "2.00 to 1.25"),
    ("0.1<!--A1-own:metrics.loss.value:+.1f-->", "−0.5"),
    ("?<!--A1-own:training.history.loss:d--> epochs", "2 epochs"), ("9<!--few_images:0.from scratch:pct0--> %", "56 %"),
    ("−1<!--12_x#12-cell:noise:+.2f--> and ?<!--12_x#12-cell:in all:,d-->", "−0.83 and 1,234"),
    ("9<!--12_x#12-cell:A3:.1f--> % for ?<!--12_x#12-cell:A3[^]]+]:d--> MFLOP", "92.3 % for 110 MFLOP"),
])  # fmt: skip
def test_numbers_are_rendered_from_records(results, text, expected):
    """All else stays, the marks too, and a second time nothing changes."""
    rendered = prose.render_numbers(text, results)
    assert re.sub(r"<!--.*?-->", "", rendered) == expected
    assert re.findall(r"<!--.*?-->", rendered) == re.findall(r"<!--.*?-->", text)
    assert prose.render_numbers(rendered, results) == rendered


@pytest.mark.parametrize("text", [
    "69.7 <!--A1-own:metrics.accuracy.value:pct1-->", "69.7%<!--A1-own:metrics.accuracy.value:pct1-->",
    "69.7<!--A1-own:metrics.accuracy.value:pct1:x-->", "69.7<!--A1-own:metrics.accuracy.value-->",
    "69.7<!--A1-own:metrics.acuracy.value:pct1-->", "69.7<!--A1-own:metrics.accuracy:pct1-->",
    "69.7<!--A1-own:training.history.loss.2:.2f-->", "69.7<!--A1-own:metrics.accuracy.value:percent-->",
    "69.7<!--B9:metrics.accuracy.value:pct1-->", "1<!--12_x#12-cell:JPEG:.2f-->", "1<!--12_x#13-cell:noise:.2f-->",
    "1<!--13_x#12-cell:noise:.2f-->", "1<!--12_x#12-cell:images:.2f-->",
])  # fmt: skip
def test_a_number_without_a_source_is_an_error(results, text):
    """A space before the mark, a misspelt path, an experiment that was not run."""
    with pytest.raises(ValueError, match="is not NUMBER<!--EXPERIMENT"):
        prose.render_numbers(text, results)


def test_the_table_of_results_has_a_row_for_every_experiment(tmp_path):
    """Blank where there is no record; what stands around the table stays."""
    text = "before\n<!-- results -->\nold\n<!-- end of results -->\nafter\n"
    blank, rendered = prose.render(text, tmp_path), prose.render(text)
    for result in (blank, rendered):
        assert result.startswith("before\n<!-- results -->\n| experiment | ")
        assert result.endswith(" |\n<!-- end of results -->\nafter\n")
    assert "\n| B5 | EfficientNetB0, top tenth thawed | 83.5 |  |  |  |  |  |\n" in blank
    assert "\n| mobilenetv2-own | **MobileNetV2, our recipe** |  |  |  |  |  |  |\n" in blank
    assert "\n| A1 | simple CNN | 64.0–68.0 | 6" in rendered
    assert prose.render(rendered) == rendered


def test_the_command_mends_all_documents(results, tmp_path):
    """Notebooks stay what they are but for their numbers."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "notebooks").mkdir()
    shutil.copy(prose.__file__, tmp_path / "tests")
    notebook = {"cells": [{"source": ["…\n", "?<!--A1-own:metrics.accuracy.value:pct1--> % \"x\""]}]}
    (tmp_path / "notebooks" / "02_two.ipynb").write_text(json.dumps(notebook))
    (tmp_path / "README.md").write_text("1<!--A1-own:model.parameters:,d-->")
    for said in ("notebooks/02_two.ipynb has new numbers\nREADME.md has new numbers\n", ""):
        assert subprocess.check_output([sys.executable, "-m", "tests.prose"], cwd=tmp_path, text=True) == said
    notebook["cells"][0]["source"][1] = notebook["cells"][0]["source"][1].replace("?", "69.7")
    assert json.loads((tmp_path / "notebooks" / "02_two.ipynb").read_text()) == notebook
    assert (tmp_path / "README.md").read_text() == "315,722<!--A1-own:model.parameters:,d-->"


def test_the_pages_that_come_with_the_project_are_those_of_its_records(reports, monkeypatch):
    """Each ends in the digest of what it was made from, where the photos are or where they are not."""
    shutil.copytree(project.ROOT / "reports" / "reference", reports / "reference")
    drawn = {}
    for photos in (reports, None):
        drawn[photos] = names = []
        monkeypatch.setattr(data, "find_cifar", lambda *_, photos=photos: photos)
        monkeypatch.setattr(project, "atomic_write", lambda path, _, names=names: names.append(path.name))
        site.render("reference")
    assert list(drawn.values()) == [[], []], f"draw them anew by `invoke report --profile reference`: {drawn}"
