"""The site, made from real runs of two small notebooks: one that succeeds and one that fails; a third was never run."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys

from lib import data, project, publish, records, site

import nbformat
import numpy as np
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

FIRST = [
    """# 01 First <steps>

> *Does it* `work`? See [why](#Data).

Then [the second](02_second.ipynb), the [end of the third](03_third.ipynb#The-end) and [a helper](../lib/show.py).""",
    ["""import sys, warnings
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from lib import show"""],
    ["epochs = 2  # passes over <all> images\nname = 'a'  # of the data", "parameters"],
    f"""## Data

| split | images |
|---|---:|
| train | 450 |

```python
long = "{"x" * 200}"
```

    plain = {"x" * 200}

### Detail

## Data

Again.

69.7<!--A1:x:pct1--> % or 70 %, and `7 % 2`.""",
    ["for _ in range(2):\n    show.banner(f'Not CIFAR-10 but {name}')"],
    ["plt.plot([1, 2]);\nplt.show()"],
    ["fig, ax = plt.subplots()\nshow.figure(fig, 'Axes with a \"quote\" and <nothing>', thumbnail=True)"],
    ["""points, pictures = [[0.25, 0.5], [0.75, 0.5]], np.zeros((2, 32, 32, 3), np.uint8)
fig, ax = plt.subplots()
ax.plot(*zip(*points), 'o')
ax.set(xlim=(0, 1), ylim=(0, 1))
show.figure(fig, 'Two points', hover=(points, pictures, ['<b>cat', 'dog</script>']))"""],
    ["""for epoch in range(epochs):
    print(f'epoch {epoch + 1}/{epochs}', end='\\r', flush=True)
print()
print('a warning', file=sys.stderr)"""],
    ["show.table(pd.DataFrame({'model': ['A1']} | {f'column {i}': [i] for i in range(20)}), 'All models')"],
    ["HTML('<script>var x = 1</script><pre><span style=\"color: #00af00\">315,722</span></pre>')"],
    ["show.result('an early result')\nshow.result('It works in 2 epochs & more')"],
]
THIRD = [
    "# 03 Third\n\n> *Will it fail?*\n\nBack to [data](01_first.ipynb#Data).",
    ["text = 'x'  # any text", "parameters"],
    "## The end",
    ["from lib import show\nshow.banner('Not CIFAR-10 but a')\nraise ValueError('<b>no</b> luck')"],
    ["print('never reached')"],
]
INJECTED = re.compile(r"<summary>\s*Parameters of this run\s*</summary>")


def notebook(cells):
    nodes = [new_markdown_cell(cell) if isinstance(cell, str) else new_code_cell(cell[0], metadata={"tags": cell[1:]})
             for cell in cells]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=nodes, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def run(folder, name, parameters, **marker):
    source, target = folder / "notebooks" / f"{name}.ipynb", folder / "reports/smoke/notebooks" / f"{name}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(source, target, parameters, progress_bar=False)
    except papermill.PapermillExecutionError as error:
        marker |= {"status": "failed", "error": f"cell {error.exec_count}: {error.ename}: {error.evalue}"}
    marker = {"notebook": name, "status": "done", "seconds": 65.2, "error": None, "parameters": parameters,
              "created": "2025-01-02T03:04:05Z"} | marker
    project.atomic_write(folder / f"reports/smoke/runs/{name}.json", json.dumps(marker))


def build(folder):
    """A study in `folder`: three notebooks, of which two were run, and their site."""
    for name, cells in {"01_first": FIRST, "02_second": ["# 02 Second\n\n> *Why not?*"], "03_third": THIRD}.items():
        project.atomic_write(folder / f"notebooks/{name}.ipynb", nbformat.writes(notebook(cells)))
    run(folder, "01_first", {"epochs": 2, "name": "a<script>"})
    run(folder, "03_third", {"text": "x"}, device="a marker's device", versions={"python": "3.99"})
    project.atomic_write(folder / "reports/smoke/run.json", json.dumps({"line": "smoke on digits, as <asked>"}))
    with pytest.MonkeyPatch.context() as patch:
        use(folder, patch)
        write_records()
        return site.render("smoke").parent


def write_records():
    """Two models that answered the same test images, and a third whose record is not complete."""
    digits = data.load_dataset("digits")
    ours = {"profile": "smoke", "notebook": "01_first", "device": "a record's device", "versions": {"keras": "9.9"}}
    project.atomic_write(project.REPORTS / "smoke/records/A1.json", json.dumps(ours))
    for name, wrong, settings in (("A2", 90, {}), ("A2-own", 36, {"label_smoothing": 0.05})):
        record = json.loads((project.ROOT / "reports/reference/records/A1.json").read_text("utf-8"))
        record |= ours | {"experiment": name, "settings": settings}
        record["dataset"] |= {"name": "digits", "fingerprint": digits.fingerprint, "test": 360,
                              "classes": list(digits.class_names)}
        record["metrics"]["accuracy"] = {"value": 1 - wrong / 360, "low": 0.5, "high": 1.0}
        answers = np.where(np.arange(360) < wrong, (digits.test.labels + 1) % 10, digits.test.labels)
        records.write(record, np.eye(10)[answers], digits.test.labels)


def use(folder, patch):
    patch.setattr(project, "NOTEBOOKS", folder / "notebooks")
    patch.setattr(project, "REPORTS", folder / "reports")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(project.ROOT))
        folder = tmp_path_factory.mktemp("study")
        build(folder)
        use(folder, patch)
        yield folder


@pytest.fixture
def pages(study):
    site.render("smoke")
    return {path.stem: path.read_text("utf-8") for path in (study / "reports/smoke/site").glob("*.html")}


@pytest.fixture
def edit(study):
    """Change a file of the study; it is put back after the test."""
    kept = {}

    def change(name, old, new):
        path = study / name
        kept.setdefault(path, path.read_text("utf-8"))
        project.atomic_write(path, kept[path].replace(old, new))

    yield change
    for path, text in kept.items():
        project.atomic_write(path, text)


def card(pages, name):
    return re.search(rf'<li class="([^"]*)" id="{name}">.*?</li>', pages["index"], re.DOTALL)


def test_index_has_a_card_for_each_notebook(pages):
    first, second, third = (card(pages, name) for name in ("01_first", "02_second", "03_third"))
    assert "It works in 2 epochs &amp; more" in first[0] and "early" not in first[0]
    assert "1 min 5 s" in first[0] and 'href="01_first.html"' in first[0]
    assert 'alt="Axes with a &#34;quote&#34; and &lt;nothing&gt;"' in first[0]
    assert "missing" in second[1] and "Why not?" in second[0]
    assert "invoke run-all --profile smoke --only 02" in second[0] and "href" not in second[0]
    assert "failed" in third[1] and 'href="03_third.html#failed"' in third[0]
    assert "ValueError: &lt;b&gt;no&lt;/b&gt; luck" in third[0]
    assert "2 of 3 notebooks run" in pages["index"] and "smoke on digits, as &lt;asked&gt;" in pages["index"]


def test_banners_are_hoisted_once(pages):
    for name in ("01_first", "03_third"):
        head, body = pages[name].split("<article>")
        assert head.count("Not CIFAR-10 but a") == 1 and 'role="alert"' not in body
        assert card(pages, name)[0].count("Not CIFAR-10 but a") == 1
    assert "<script>" not in pages["01_first"].split("<article>")[0]
    top = pages["index"].split("<ul")[0]
    assert top.count('class="banner"') == 1 and top.count("Not CIFAR-10 but") == 2  # two notebooks, different data


def test_head_of_a_page(pages):
    first, third = pages["01_first"], pages["03_third"]
    assert "smoke on digits, as &lt;asked&gt;" in first and first.count("<h1") == 1
    assert "01 First &lt;steps&gt;" in first and "2025-01-02 03:04 UTC" in first
    assert "a&lt;script&gt;</code></td><td>of the data" in first and "passes over &lt;all&gt; images" in first
    assert "a record&#39;s device" in first and "keras 9.9" in first
    assert "a marker&#39;s device" in third and "python 3.99" in third
    assert re.search(r"1 min 5 s · \d+ min \d+ s of training · a record", first) and "of training" not in third


def test_table_of_contents_and_neighbours(pages):
    first, third = pages["01_first"], pages["03_third"]
    for anchor in ("Data", "Detail", "Data-2"):  # the second heading of that name gets an address of its own
        assert first.count(f'id="{anchor}"') == 1 and f'<a href="#{anchor}">' in first
    assert 'rel="next" href="03_third.html"' in first and 'rel="prev"' not in first  # 02 was never run
    assert 'rel="prev" href="01_first.html"' in third and 'rel="next"' not in third


def test_links_between_notebooks_lead_to_pages(pages, study):
    first = pages["01_first"]
    assert '<a href="index.html#02_second">the second</a>' in first
    assert '<a href="03_third.html#The-end">' in first and '<a href="#Data">why</a>' in first
    helper = re.search(r'<a href="([^"]+)">a helper</a>', first)[1]
    assert (study / "reports/smoke/site" / helper).resolve() == (study / "lib/show.py").resolve()
    assert ".ipynb" not in re.sub(r"<pre.*?</pre>", "", first, flags=re.DOTALL)


def test_cells(pages):
    first = pages["01_first"]
    assert first.count('<details class="code"') == 11 and "In\xa0[" not in first
    assert "Parameters and their defaults" in first and INJECTED.search(first)
    assert "epoch 2/2" in first and "epoch 1/2" not in first and 'class="wrapped stderr"' in first
    assert "<caption>All models</caption>" in first and "All models\n" not in first
    assert 'class="output result"' in first


def test_every_figure_has_alt_text(pages):
    for text in pages.values():
        images = re.findall(r"<img[^>]*>", text)
        assert all(re.search("alt=(\"[^\"]+\"|'[^']+')", image) for image in images)
        assert all('src="data:image/webp' in image for image in images)
    assert len(re.findall("<img", pages["01_first"])) == 3 and "A figure without a description" in pages["01_first"]


def test_no_line_ends_before_a_per_cent_sign(pages):
    assert "69.7<!--A1:x:pct1-->\xa0% or 70\xa0%, and <code>7 % 2</code>" in pages["01_first"]


@pytest.mark.parametrize(("cells", "aligned"), [
    (["69.7 [68.8, 70.6]", "+1", "<code>−3</code>"], True), (["64–68", "61&nbsp;% = 2 / 3", "—"], True),
    (["69.7 [68.8, 70.6]", "", "&lt;b&gt;"], False), (["23.6 (noise)", "1", "2"], False), (["", "", ""], False)])
def test_columns_of_numbers_stand_on_the_right(cells, aligned):
    rows = "".join(f'<tr style="x">\n<th>A{place}</th>\n<td>{cell}</td>\n</tr>' for place, cell in enumerate(cells))
    table = f"<table><thead><tr><th>name</th><th>number</th></tr></thead><tbody>{rows}</tbody></table>"
    marked = site.FILTERS["aligned"](f"1 {table} 2")
    assert marked.replace(' class="number"', "") == f"1 {table} 2"
    assert re.findall(r'<(t[hd]) class="number">', marked) == ["th", "td", "td", "td"] * aligned


@pytest.mark.parametrize(("width", "wide"), [(600, False), (601, True), (70_000, True)])
def test_only_a_wide_figure_is_scrolled_on_a_phone(width, wide):
    Image.new("L", (width, 2)).save(file := io.BytesIO(), "png")
    assert site.FILTERS["wide"](base64.b64encode(file.getvalue()).decode()) == wide


def test_failed_cell_is_open_and_linked(pages):
    third = pages["03_third"]
    assert third.count('id="failed"') == 1 and '<a href="#failed">' in third
    assert re.search(r'id="failed">\s*<details class="code" open', third)
    assert "\x1b" not in third and "ansi-red-fg" in third and "&lt;b&gt;no&lt;/b&gt; luck" in third
    assert "papermill" not in third and "what follows was not run" in third


def test_pages_need_no_network_and_are_small(pages):
    for text in pages.values():
        assert not re.search(r'(src|href)="(https?:)?//', text) and "@import" not in text
        assert len(text.encode()) < 1_500_000


def test_edited_text_shows_without_a_new_run(edit, study):
    edit("notebooks/01_first.ipynb", "Again.", "Mended text.")
    text = site.render_page("smoke", "01_first").read_text("utf-8")
    assert "Mended text." in text and INJECTED.search(text) and "epoch 2/2" in text
    assert "has been edited since this run" not in text


def test_edited_code_is_not_shown_as_if_it_had_run(edit, study):
    edit("notebooks/01_first.ipynb", "range(epochs)", "range(epochs + 1)")
    edit("notebooks/01_first.ipynb", "All models", "Mended")
    text = site.render_page("smoke", "01_first").read_text("utf-8")
    assert "has been edited since this run" in text and "<caption>All models</caption>" in text


def test_only_what_is_older_than_its_inputs_is_rendered(study, edit, monkeypatch):
    index = site.render("smoke")
    before = {path.name: path.stat().st_mtime_ns for path in index.parent.iterdir()}
    assert {re.sub("-.*", "", name) for name in before} == {"index.html", "01_first.html", "03_third.html",
                                                            "compare.html", "contested"}
    with monkeypatch.context() as patch:
        patch.setattr(site, "_article", None)  # rendering would fail
        assert site.render("smoke") == index
        site.render_page("smoke", "03_third")
    assert before == {path.name: path.stat().st_mtime_ns for path in index.parent.iterdir()}
    edit("reports/smoke/runs/03_third.json", "65.2", "66.2")
    site.render("smoke")
    assert {name for name, time in before.items() if (index.parent / name).stat().st_mtime_ns != time} == {
        "index.html", "03_third.html"}


def test_the_first_drawing_is_the_last(study):
    """What it makes is no input of the pages."""
    shutil.rmtree(study / "reports/smoke/site", ignore_errors=True)
    first = site.render("smoke").with_name("compare.html")
    before = first.stat().st_mtime_ns
    site.render("smoke")
    assert first.stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", [{"metrics": {}}, {"metrics": {"accuracy": 5}}, {"settings": []}, {"dataset": [1]},
                                    {"experiment": ["A1"]}])  # fmt: skip
def test_a_damaged_record_costs_no_page(study, edit, damage):
    """It takes no part in the findings, as one that lacks a field."""
    record = json.loads((study / "reports/smoke/records/A2.json").read_text())
    edit("reports/smoke/records/A2.json", json.dumps(record, indent=1), json.dumps(record | damage))
    assert "best of 2 models" not in site.render("smoke").read_text("utf-8")


def test_a_run_that_died_without_a_notebook_has_a_failed_card(study):
    marker = study / "reports/smoke/runs/02_second.json"
    project.atomic_write(marker, json.dumps({"status": "failed", "error": "the kernel died", "seconds": 3}))
    text = site.render("smoke").read_text("utf-8")
    marker.unlink()
    assert "the kernel died" in card({"index": text}, "02_second")[0] and "stopped after 3 s" in text


def test_profile_without_a_run_has_an_index_that_says_how_to_run(study):
    text = site.render("quick").read_text("utf-8")
    assert text.count("invoke run-all --profile quick --only") == 3 and "0 of 3 notebooks run" in text


def test_the_reference_has_a_page_of_what_was_not_run_too(pages, study, edit):
    shutil.copytree(study / "reports/smoke", study / "reports/reference", ignore=shutil.ignore_patterns("site"))
    second = study / "notebooks/02_second.ipynb"
    ran = (study / "reports/smoke/notebooks/01_first.ipynb").read_text("utf-8")
    edit("notebooks/02_second.ipynb", second.read_text("utf-8"), ran.replace("Not CIFAR-10 but", "Not photos but"))
    index = site.render("reference")
    shown = {path.stem: path.read_text("utf-8") for path in index.parent.glob("*.html")}
    shutil.rmtree(study / "reports/reference")
    head, body = shown["02_second"].split("<article>")
    assert head.count("Not run in full yet") == head.count("Not photos but a") == 1 and "About this run" not in head
    assert "as &lt;asked&gt;" not in head and "It works in 2 epochs" in body  # the line is that of the run
    assert 'rel="prev" href="01_first.html"' in body and 'rel="next" href="03_third.html"' in body
    assert 'href="02_second.html">the second</a>' in shown["01_first"] and "Not run" not in shown["01_first"]
    of_it = card(shown, "02_second")
    assert "missing" in of_it[1] and 'href="02_second.html"' in of_it[0] and "--only 02" in of_it[0]
    assert not re.search("<img|It works", of_it[0])
    assert "2 of 3 notebooks run" in shown["index"] and "Not photos but" not in shown["index"]


def test_index_has_findings_and_all_headings(pages):
    index = pages["index"]
    assert "<strong>90.0\N{NO-BREAK SPACE}%</strong>" in index and "best of 2 models" in index
    assert "is the prediction time of the best" in index and "more models wait for their run" in index
    headings = json.loads(re.search(r'id="headings">(.*?)</script>', index)[1])
    assert ["01 First <steps>", "01_first.html"] in headings and ["Data", "01_first.html#Data-2"] in headings
    assert ["The end", "03_third.html#The-end"] in headings and len(headings) == 6


def test_compare_has_each_answer_and_the_contested_pictures(pages, study):
    shown = json.loads(re.search(r'id="comparison">(.*?)</script>', pages["compare"])[1])
    best, other = shown["models"]
    assert (best["name"], other["name"]) == ("A2-own", "A2") and shown["classes"] == [str(digit) for digit in range(10)]
    labels, answers = (np.frombuffer(base64.b64decode(text), np.uint8) for text in (shown["labels"], best["predicted"]))
    assert (labels != answers).nonzero()[0].tolist() == list(range(36))
    assert shown["pictures"] == list(range(36, 90))  # where the two differ
    with Image.open(study / "reports/smoke/site" / shown["sprite"]) as sprite:
        assert sprite.size == (20 * 32, 3 * 32)


def test_pictures_stay_where_the_data_is_gone(pages, study, monkeypatch):
    monkeypatch.setattr(data, "load_dataset", lambda *_, **__: (_ for _ in ()).throw(data.DataError("gone")))
    (study / "reports/smoke/site/compare.html").unlink()
    site.render("smoke")
    assert (study / "reports/smoke/site/compare.html").read_text("utf-8") == pages["compare"]


def test_warming_up_leaves_nothing_slow_to_the_pages():
    code = "import sys; from lib import site; site.warm_up(); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=project.ROOT, capture_output=True, text=True, check=True)
    loaded = set(found.stdout.split())
    assert {"nbconvert", "pandas", "sklearn.datasets"} <= loaded and "keras" not in loaded


def test_only_published_pages_link_to_the_repository(pages, study, tmp_path, monkeypatch):
    monkeypatch.setattr(project, "repository", lambda: "someone/study")
    index = publish.publish("smoke", tmp_path / "public")
    text = index.with_name("01_first.html").read_text("utf-8")
    assert 'href="https://colab.research.google.com/github/someone/study/blob/HEAD/notebooks/01_first.ipynb"' in text
    assert 'href="https://mybinder.org/v2/gh/someone/study/HEAD?urlpath=lab/tree/notebooks/01_first.ipynb"' in text
    assert '<a href="https://github.com/someone/study">the project</a>' in index.read_text("utf-8")
    site.render("smoke")
    assert pages == {path.stem: path.read_text("utf-8") for path in (study / "reports/smoke/site").glob("*.html")}
    assert "colab" not in pages["01_first"] and "<code>invoke run 01 --profile smoke</code>" in pages["01_first"]


def test_bad_input_is_one_clear_line(edit, study):
    with pytest.raises(project.StudyError, match="02_second was not run with profile smoke"):
        site.render_page("smoke", "02_second")
    edit("reports/smoke/runs/01_first.json", "}", "")
    with pytest.raises(project.StudyError, match=r"01_first.json is damaged: delete it"):
        site.render("smoke")
    edit("notebooks/01_first.ipynb", "{", "")
    with pytest.raises(project.StudyError, match=r"01_first.ipynb is not a notebook .*: put back the file as it was"):
        site.render("smoke")


def test_large_pictures_are_made_small():
    noise = np.random.default_rng(0).integers(0, 255, (500, 700, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer := io.BytesIO(), "png")
    png = base64.b64encode(buffer.getvalue()).decode()
    assert len(site._picture(png)) < 0.5 * len(png)
    assert len(site._picture(png, width=200)) < 0.1 * len(png)


def test_import_is_light():
    slow = {"keras", "tensorflow", "nbconvert", "nbformat", "jinja2", "pandas", "scipy", "matplotlib", "PIL"}
    code = f"import sys, lib.site; print({slow} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=project.ROOT, capture_output=True, text=True, check=True,
                           env=os.environ | {"PYTHONPATH": str(project.ROOT)})
    assert shown.stdout.strip() == "set()"
