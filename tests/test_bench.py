"""What `invoke bench` computes, keeps and shows. How fast anything is, is not tested: that is what it is for."""

import json
import sys

from lib import bench, benchpage, data, decks, project, site

import prose
import pytest
from conftest import make_noise, one_line
from matplotlib.figure import Figure


def result(median=2.0, **more):
    """Return what a measurement could return."""
    return {"median_ratio": median, "low": 0.9 * median, "high": 1.1 * median, "repeats": 3, "median_seconds": [2, 1],
            "created": "2025-01-02T03:04:05+00:00", "commit": "abc", "device": "a <device>", "versions": {"keras": "9"},
            "threads": 2, **more}  # fmt: skip


def everything():
    """Return results of all measurements, with what their part of the page shows."""
    one = bench.summary([(1, 2), (1, 3)])
    share = one | {"gflops": 90.1}
    times = {name: {"median": 1.234, "p95": 2.0} for name in ("predict_ms", "batch_1_ms", "batch_256_ms")}
    series = {"model": "A1", "values": [1000, 50_000], "seconds": [0.1, 5.0], "megabytes": [20.0, 300.0],
              "seconds_exponent": 0.987, "memory_exponent": 0.5}  # fmt: skip
    more = {"frozen_phase": {"network": "a network", "images": 2000, "epochs": 20, "epochs_run": [2, 20]},
            "data_load": {"with_every_image_read": one}, "bfloat16": {
                "networks": {"E5": one}, "parity": {"images": 5000, "epochs": 4, "accuracy": {
                    "float32": [0.5, 0.512], "mixed_bfloat16": [0.509, 0.51]}}},
            "determinism": {"networks": {"B2": one}}, "xla": {"networks": {"A1": one}},
            "pipeline_overhead": {"overhead_seconds": 6.5},
            "limit": {"product_gflops": 181.9, "precision": "float32", "models": {"A1": {
                "flops": 8_400_000, "batch_size": 256, "training": share, "inference": share}}},
            "growth": {"series": dict.fromkeys(("images", "resolution", "batch size"), series)},
            "prediction": {"models": {"A1": one | times}}}  # fmt: skip
    more["fine_tune"] = more["frozen_phase"]
    return {name: bench.judged(name, result(**more[name])) | {"took_seconds": 1.5} for name in bench.MEASUREMENTS}


# ------------------------------------------------------------------------------------------------------- arithmetic


def test_a_ratio_has_the_median_and_the_range_of_its_pairs():
    """Each pair's own ratio, not that of two medians."""
    found = bench.summary([(4, 2), (9, 3), (1, 1), (40, 8)])
    assert found == {"median_ratio": 2.5, "low": 1.0, "high": 5.0, "repeats": 4, "median_seconds": [6.5, 2.5]}
    assert bench.summary([(1.23456e-11, 1e-11)])["median_seconds"] == [1.235e-11, 1e-11]


def test_pairs_are_measured_in_turn():
    """Neither way is always the first; a pair stays (first, second)."""
    order = []
    pairs = bench.in_turn(lambda: order.append("first") or len(order), lambda: order.append("second") or -len(order), 3)
    assert order == ["first", "second", "second", "first", "first", "second"]
    assert pairs == [(1, -2), (4, -3), (5, -6)]


@pytest.mark.parametrize(("name", "ratio", "mark", "reached"), [
    ("frozen_phase", 12.0, "at least 12", True), ("frozen_phase", 11.99, "at least 12", False),
    ("pipeline_overhead", 1.1, "at most 1.1", True), ("pipeline_overhead", 1.11, "at most 1.1", False),
    ("bfloat16", 2.0, None, None),
])  # fmt: skip
def test_marks(name, ratio, mark, reached):
    """At least or at most, or none."""
    found = bench.judged(name, result(ratio))
    assert (found["mark"], found["reached"]) == (mark, reached)


def test_exponents():
    """Of values that grow with the square, and not at all."""
    sizes = [32, 64, 128]
    assert bench.exponent(sizes, [3 * size**2 for size in sizes]) == 2
    assert bench.exponent(sizes, [5, 5, 5]) == pytest.approx(0)


@pytest.mark.parametrize(("value", "text"), [(0.4121, "0.412"), (1.0764, "1.08"), (9.996, "10.0"), (14.26, "14.3"),
                                             (99.96, "100"), (151.7, "152")])  # fmt: skip
def test_digits(value, text):
    """Three of them."""
    assert bench.number(value) == text


def test_names():
    """All, or some; an unknown one is an error that lists the others."""
    assert len(bench.names()) == 10
    assert bench.names("data_load, prediction") == ["data_load", "prediction"]
    with pytest.raises(project.StudyError, match="there is no measurement speed: choose from frozen_phase") as error:
        bench.names("data_load,speed")
    one_line(error)


# --------------------------------------------------------------------------------------------------------- what is kept


def test_results_are_kept_one_by_one(reports, monkeypatch):
    """In the order of the list, beside those of earlier runs; what fails, or lacks its data, costs no other."""
    def fresh(name, **_):
        if name == "growth":
            raise project.StudyError("no luck")
        return result(13.0 if name == "frozen_phase" else 2.0)

    said = []
    monkeypatch.setattr(bench, "fresh", fresh)
    monkeypatch.setattr(data, "find_cifar", lambda: None)
    assert bench.run("reference", ["prediction"], said.append)[1] == []
    measured, failed = bench.run("reference", ["growth", "data_load", "frozen_phase"], said.append)
    assert (list(measured), failed) == (["frozen_phase"], ["growth"])
    results = json.loads((reports / "reference" / "bench.json").read_text())
    assert results == bench.read("reference")
    assert list(results) == ["frozen_phase", "prediction"]
    assert results["frozen_phase"] | result(13.0) == results["frozen_phase"]
    assert results["frozen_phase"]["reached"] is True
    assert "growth: failed: no luck" in said
    assert any(line.startswith("data_load: left out, CIFAR-10 is not in ") for line in said)


def test_bad_input_is_one_line(reports):
    """A profile that is none, and a file that is damaged."""
    with pytest.raises(project.StudyError, match="there is no profile huge: choose one of ") as error:
        bench.path("huge")
    one_line(error)
    for damaged in ("{", '{"growth": 5}', '{"growth": {}}'):
        project.atomic_write(bench.path("smoke"), damaged)
        with pytest.raises(project.StudyError, match=r"bench.json is damaged: delete it") as error:
            bench.run("smoke", ["growth"], None)  # before it measures or says anything
        one_line(error)


def test_what_an_older_version_measured_is_left_out(reports):
    """Or one renamed measurement would keep every page from being drawn."""
    project.atomic_write(bench.path("smoke"), json.dumps({"renamed": result(2.0), "growth": result(1.0)}))
    assert list(bench.read("smoke")) == ["growth"]


def test_a_process_of_its_own():
    """It knows the project and the variables that it is given; its failure is its last line."""
    code = "import os, lib.project; print(os.environ['STUDY_CACHE'], lib.project.ROOT)"
    assert bench.call([sys.executable, "-c", code], "/", STUDY_CACHE="x") == f"/x {project.ROOT}\n"
    with pytest.raises(project.StudyError, match=r"^ValueError: no luck$"):
        bench.call([sys.executable, "-c", "raise ValueError('no luck')"], "/")


# ------------------------------------------------------------------------------------------------------------ the page


def test_the_table_has_a_row_for_each_name():
    """Blank where it was not measured."""
    found = {"fine_tune": bench.judged("fine_tune", result(1.4)),
             "pipeline_overhead": bench.judged("pipeline_overhead", result(1.1013))}  # fmt: skip
    rows = bench.rows(found, ["fine_tune", "pipeline_overhead", "limit"])
    assert [len(row) for row in rows] == [len(bench.COLUMNS)] * 3
    assert rows[0][2:] == ["1.40", "1.26–1.54", "3", "at least 1.5: missed"]
    assert (rows[1][2], rows[1][-1]) == ("1.10", "at most 1.1: missed, 1.101")  # 1.10 would look like a mistake
    assert rows[2][2:] == [""] * 4


def test_the_table_of_the_readme(tmp_path):
    """From bench.json beside the records; blank without."""
    text = "before\n<!-- bench -->\nold\n<!-- end of bench -->\nafter\n"
    blank = prose.render(text, tmp_path / "records")
    project.atomic_write(tmp_path / "bench.json", json.dumps(everything()))
    rendered = prose.render(text, tmp_path / "records")
    for table in (blank, rendered):
        assert table.startswith("before\n<!-- bench -->\n| measured | ")
        assert table.endswith(" |\n<!-- end of bench -->\nafter\n")
        assert table.count("\n| ") == 2 + len(bench.MEASUREMENTS)
    assert "÷ compiled call |  |  |  |  |\n" in blank
    assert "÷ compiled call | 2.00 | 1.80–2.20 | 3 |  |\n" in rendered


def test_the_page_shows_all_that_was_measured(reports):
    """In the site of the profile, linked from its index; nothing is drawn anew where nothing has changed."""
    project.atomic_write(bench.path("smoke"), json.dumps(everything()))
    index = site.render("smoke")
    page = index.with_name("bench.html")
    text = page.read_text("utf-8")
    assert 'href="bench.html"' in index.read_text("utf-8")
    assert all(about.title in text for about in bench.MEASUREMENTS.values())
    assert "a &lt;device&gt;" in text
    assert text.count("<img") == text.count('src="data:image/webp') == text.count(' alt="') == 3
    assert "A1, simple CNN" in text and "0.99 / " in text and "1.23 / 2.00" in text and "90, 42\xa0% [33–50]" in text
    before = page.stat().st_mtime_ns
    site.render("smoke")
    assert page.stat().st_mtime_ns == before


def test_the_axes_of_growth_say_what_grows():
    """The first of each row for the whole row."""
    figure = Figure()
    benchpage._draw_growth(figure, everything()["growth"], ("C0", "C1"))
    assert [axis.get_ylabel() for axis in figure.axes] == ["time (s)", "", "", "memory (MB)", "", ""]


def test_the_page_leaves_out_what_was_not_measured(reports):
    """Without a result there is no page."""
    text = benchpage.report({"data_load": everything()["data_load"]})
    assert "## " not in text and text.count("<img") == 1
    assert not site.render("smoke").with_name("bench.html").exists()
    assert "What is saved" not in (alone := benchpage.report({"growth": everything()["growth"]}))
    assert alone.count("<img") == 1


# ---------------------------------------------------------------------------------------------------- the measurements


@pytest.fixture
def measurements(study, cache, monkeypatch):
    """The module that measures, each pair once."""
    import measurements

    monkeypatch.setattr(measurements, "REPEATS", 1)
    return measurements


def test_there_is_a_function_for_each_name(measurements):
    """Or `invoke bench` would fail after some minutes."""
    assert all(callable(getattr(measurements, name)) for name in bench.MEASUREMENTS)


def test_networks_are_those_of_the_notebooks(measurements):
    """They have as many parameters as the decks report."""
    for name in measurements.NETWORKS:
        deck, model = decks.reported(name) or {}, measurements.network(name)
        assert model.output_shape == (None, 10)
        assert model.count_params() == pytest.approx(deck.get("parameters", model.count_params()), rel=0.01)


def test_a_notebook_as_a_script(measurements):
    """Its code, with the parameters of the run instead of the defaults."""
    path = project.NOTEBOOKS / "02_baseline_cnn.ipynb"
    known = {}
    code = measurements.as_script(path, {"epochs": 123, "dataset": "x"})
    compile(code, "cells.py", "exec")
    head = code[code.index('profile = "smoke"') : code.index("study = runtime.start")]
    exec(head, known)
    assert (known["epochs"], known["dataset"], known["seed"]) == (123, "x", 0)


def test_a_real_pair(measurements, cache):
    """Both ways of a frozen phase, tiny: they train, they take time, the epochs that were not run are counted."""
    recipe = measurements.training.Recipe(epochs=3, batch_size=8)
    found = measurements.transfer_pair(recipe, make_noise(), until=None, run=3, size=32, run_plain=1)
    assert found["repeats"] == 1 and found["epochs_run"] == [1, 3]
    assert found["low"] == found["median_ratio"] == found["high"] > 0
    assert found["median_ratio"] == pytest.approx(found["median_seconds"][0] / found["median_seconds"][1], rel=0.01)
    assert list((cache / "features").glob("*/*.npy"))


def test_epochs_that_were_not_run_count_as_the_last(measurements):
    """The first one holds the compilation."""
    clock = measurements.Clock()
    clock.ends = [10.0, 15.0, 17.0]
    assert clock.whole(2) == 7.0
    assert clock.whole(10) == 23.0


def test_a_process_of_its_own_counts_its_own_memory(measurements):
    """Linux hands a process's peak on to those that it starts: this one holds more than the small training adds."""
    ballast = bytearray(500_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    found = bench.fresh("train_on_noise", {"model": "A3", "count": 16, "batch_size": 8})
    assert len(found["seconds"]) == 2 and min(found["seconds"]) > 0
    assert 1 < found["megabytes"] < 1000
