"""Publishes what was run: a page per notebook and an index of cards, to be read offline, on a phone, in the dark."""

import base64
import contextlib
import functools
import gc
import hashlib
import html
import importlib
import io
import json
import os
import re
from pathlib import Path

from lib import bench, data, project, records

TEMPLATES = Path(__file__).with_name("templates")
PHONE = 600  # pixels of a figure that is still legible on a screen of 390
NUMBER = re.compile(r"[\W\d_]*\d[\W\d_]*|[—-]?")  # a cell without letters, such as 69.7 [68.8, 70.6], or a blank one
OFFLINE = ("text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain")  # need no network


class SiteError(project.StudyError):
    """A file of a run that is damaged, or a run that there is not."""


def render(profile, folder=None, repository=None):
    """Render what is older than its inputs, of the pages of `profile` and their index; return the index's path.

    They lie with the run; or in `folder`, with links to the `repository` "owner/name" on GitHub: the pages that come
    with the project must be the same in every clone. Those of "reference" are to be read by others, so there a notebook
    that was not run has its page too, which shows the small run that is kept in it.
    """
    study = _study(profile) | ({"site": folder, "repository": repository} if folder else {})
    for card in study["pages"]:
        _page(study, card)
    if study["bench"]:
        _bench(study)
    study["compare"] = _compare(study) is not None
    study["headings"] = [heading for card in study["pages"] for heading in _headings(study, card)]
    code = _code("findings.py", "waterfall.py", "data.py", "decks.py", "decks.yaml")
    inputs = [code, study | {"site": "the same wherever it lies"}]
    return _publish("index.html.j2", study["site"] / "index.html", study, inputs, lambda: _overview(study))


def render_page(profile, name):
    """Render the page of one notebook that was run, if it is older than its inputs; return its path.

    Raises SiteError where it was not run, or a file of the run is damaged.
    """
    study = _study(profile)
    for card in study["runs"]:
        if card["name"] == name:
            return _page(study, card)
    raise SiteError(f"{name} was not run with profile {profile}: `invoke run-all --profile {profile}` does it")


def warm_up():
    """Make ready what drawing pages takes, which is slow: a run does it while its notebooks are under way."""
    import nbformat

    for module in ("sklearn.datasets", "matplotlib.figure", "lib.comparepage", "lib.findings", "lib.waterfall"):
        importlib.import_module(module)
    not_found()
    _exporter().from_notebook_node(nbformat.v4.new_notebook())
    gc.freeze()  # or this process, as it ends, would look for garbage in all that it has imported


def not_found():
    """Return the page that a web server shows for an address which is not there."""
    return _render("404.html.j2", {})


def _study(profile):
    folder = project.REPORTS / profile
    found = [_read(path) for path in records.listed(folder / "records")]
    cards = [_card(folder, path, found) for path in project.notebooks()]
    runs, pages = ([card for card in cards if card[key]] for key in ("run", "shown"))
    return _read(folder / "run.json") | {"profile": profile, "site": folder / "site", "records": found,
                                         "cards": cards, "runs": runs, "pages": pages, "bench": bench.read(profile),
                                         "options": records.options(profile)}


def _read(path):
    """A JSON file, or {} where there is none; a notebook's texts are joined, and its outputs know their role."""
    try:
        content = json.loads(path.read_bytes()) if path.exists() else {}
        for cell in content.get("cells", []):
            cell["source"], cell["tags"] = "".join(cell["source"]), list(cell["metadata"].get("tags", []))
            for output in cell.get("outputs", []):
                output["role"] = output.get("metadata", {}).get("study", {}).get("role", "")
                output["text"] = "".join(output.get("text", ""))
                found = output.get("data", {})
                output["data"] = {kind: "".join(found[kind]) for kind in OFFLINE if kind in found}
        return content
    except PermissionError as error:
        raise project.locked(path, error) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise SiteError(f"{path} is damaged: delete it and run its notebook again") from None


def _card(folder, path, records):
    """What the pages say of one notebook, from its source, what is `shown` of it, its marker and its records."""
    project.notebook(path)  # which, unlike `_read`, tells nobody to delete a source
    source, run = _read(path), _read(folder / "notebooks" / path.name)
    shown = run or (source if folder.name == "reference" else {})
    outputs = [output for cell in shown.get("cells", []) for output in cell.get("outputs", [])]
    figures = [output for output in outputs if "image/png" in output["data"]]
    opening = next((cell["source"] for cell in source["cells"] if cell["cell_type"] == "markdown"), "")
    opening = re.sub(r"\[([^]]*)\]\([^)]*\)|[*`]", r"\1", opening)  # plain text: no links, no emphasis
    declared = "\n".join(cell["source"] for cell in source["cells"] if "parameters" in cell["tags"])
    return {
        "name": path.stem, "source": source, "shown": shown, "run": bool(run),
        "marker": _read(folder / "runs" / f"{path.stem}.json"),
        "records": [record for record in records if Path(str(record.get("notebook"))).stem == path.stem],
        "title": (re.findall(r"(?m)^#\s+(.+?)\s*$", opening) or [path.stem.replace("_", " ")])[0],
        "lead": " ".join(re.findall(r"(?m)^>[ \t]?(.*)$", opening)),
        **{role: [output["data"]["text/plain"].removeprefix("⚠ ") for output in outputs if output["role"] == role]
           for role in ("banner", "result")},
        "figures": [output for output in figures if output["role"] == "thumbnail"][-1:] or figures[:1],
        "meanings": dict(re.findall(r"(?m)^(\w+)\s*=.*?#\s*(.+)$", declared)),
    }


def _overview(study):
    """What stands above the cards: the steps to the best model, the findings, and the figure that compares all."""
    from lib import findings, waterfall

    comparing = [card for card in study["runs"] if card["source"]["metadata"].get("study", {}).get("reads_records")]
    found = _complete(study)
    story, pictures = waterfall.story(found) or ("", [])
    return {"findings": findings.sentences(study["profile"], found),
            "story": story, "steps": [(base64.b64encode(png).decode(), alt) for png, alt in pictures],
            "plots": [(card, figure) for card in comparing for figure in card["figures"]
                      if figure["role"] == "thumbnail"][:1]}


def _complete(study):
    """The records that say all that a record must, {experiment: record}."""
    found = {}
    for record in study["records"]:
        with contextlib.suppress(records.RecordError):
            found[record.get("experiment")] = records.checked(record, "a record")
    return found


def _compare(study):
    """The page with two models side by side; None where there are no two that answered the same test images.

    Nor for more classes than a byte can tell apart: the page would be a matrix of them.
    """
    from lib import findings

    group = findings.models(_complete(study))
    if len(group) < 2 or len(next(iter(group.values()))["dataset"].get("classes", ())) > 256:
        return None

    def values():
        from lib import comparepage

        return {"comparison": comparepage.content(study["profile"], group, study["site"])}

    name = records.dataset(study["profile"]) or next(iter(group.values()))["dataset"]["name"]
    here = name == "digits" or data.find_cifar(name) or Path(name).is_dir()
    there = bool(here) or any(study["site"].glob("contested-*.webp"))  # or the page has no photos
    inputs = [_code("comparepage.py", "findings.py", "pictures.py", "decks.yaml"), study.get("line"), group, there]
    return _publish("compare.html.j2", study["site"] / "compare.html", study, inputs, values)


def _headings(study, card):
    """What a search finds of a page that was rendered: (title, address) of it and of its sections."""
    text = (study["site"] / f"{card['name']}.html").read_text("utf-8")
    sections = re.findall(r'<h[2-4] id="([^"]+)">(.*?)<a class="anchor"', text)
    return [(card["title"], f"{card['name']}.html"), *(
        (html.unescape(re.sub(r"<[^>]+>", "", title)), f"{card['name']}.html#{html.unescape(anchor)}")
        for anchor, title in sections)]


def _page(study, card):
    others = [(other["name"], other["title"], bool(other["shown"])) for other in study["cards"]]
    path, inputs = study["site"] / f"{card['name']}.html", [study.get("line"), study.get("repository"), card, others]
    return _publish("page.html.j2", path, study, inputs, lambda: _article(study, card))


def _bench(study):
    """The page of what `invoke bench` measured: Markdown alone, in the frame of a notebook's page."""
    from lib import benchpage

    results = list(study["bench"].values())
    marker = {"created": max(result["created"] for result in results),
              "seconds": sum(result["took_seconds"] for result in results)}
    card = {"name": "bench", "title": "How fast", "records": results, "run": True, "marker": marker, "banner": [],
            "meanings": {}}

    def article():
        cells = [{"cell_type": "markdown", "metadata": {}, "tags": [], "source": benchpage.report(study["bench"])}]
        card["source"] = card["shown"] = {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": cells}
        values = _article(study, card)
        body = re.sub(r"data:image/png;base64,([^\"]+)", lambda png: _picture(png[1]), values["body"])
        return values | {"body": body, "pages": [*study["pages"], card]}

    before = [(other["name"], other["title"]) for other in study["pages"][-1:]]
    inputs = [_code("bench.py", "benchpage.py", "decks.yaml"), study.get("line"), study["bench"], before]
    return _publish("page.html.j2", study["site"] / "bench.html", study, inputs, article)


def _code(*names):
    """The text of modules and files of `lib` that a page depends on."""
    return [Path(__file__).with_name(name).read_text("utf-8") for name in names]


def _publish(template, path, study, inputs, values=dict):
    """Write a page to `path`, unless the file there ends in the digest of the same inputs; `values` are made late."""
    code = [file.read_text("utf-8") for file in (Path(__file__), *sorted(TEMPLATES.glob("*.*")))]
    stamp = f"<!-- {hashlib.sha256(json.dumps([code, inputs], default=str).encode()).hexdigest()} -->\n".encode()
    if not path.exists() or not path.read_bytes().endswith(stamp):
        project.atomic_write(path, _render(template, study | values()).encode(errors="replace") + stamp)
    return path


def _render(template, values):
    return _templates().get_template(template).render(values)


@functools.cache
def _templates():
    """The frames of all pages, compiled once."""
    import jinja2  # slow to import, as nbconvert is, and not needed where nothing has changed

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    environment.filters |= FILTERS
    return environment


@functools.cache
def _exporter():
    """What makes HTML of a notebook's cells; its templates are compiled once."""
    from nbconvert import HTMLExporter

    return HTMLExporter(template_file=str(TEMPLATES / "cells.html.j2"), filters=FILTERS,
                        preprocessors=["nbconvert.preprocessors.CoalesceStreamsPreprocessor"], embed_images=True)


def _picture(png, width=None):
    """A PNG in base64 as the address of a smaller WebP, without loss unless that would be large."""
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    image.thumbnail((width or image.width, image.height))
    small = len(png) < 150_000
    image.save(buffer := io.BytesIO(), "webp", lossless=small, quality=20 if small else 90, method=2)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _wide(png):
    """Whether a PNG in base64 has too many pixels in a row to be read when it is shrunk to the width of a phone."""
    return int.from_bytes(base64.b64decode(png[:32])[16:20], "big") > PHONE  # where a PNG says it


def _unbroken(text):
    """HTML in which no line ends between a number and its per cent sign; code stays as it is."""
    pattern = r"(?s)(<code.*?</code>)|(\d(?:<!--[^>]*-->)?) %"
    return re.sub(pattern, lambda found: found[1] or f"{found[2]}\N{NO-BREAK SPACE}%", text)


def _aligned(text):
    """HTML whose tables have the class `number` on each cell of a column of numbers, and on its head."""

    def mark(table):
        rows = [re.split(r"(?=<t[hd]\b)", row) for row in re.split(r"(?=<tr\b)", table[0])]
        texts = [[html.unescape(re.sub("<[^>]*>", "", cell)).strip() for cell in row[1:]]
                 for row in rows if any(cell.startswith("<td") for cell in row)]
        numbers = {place for place, column in enumerate(zip(*texts, strict=False), start=1)
                   if any(column) and all(map(NUMBER.fullmatch, column)) and "span=" not in table[0]}
        return "".join(f'{cell[:3]} class="number"{cell[3:]}' if place in numbers else cell
                       for row in rows for place, cell in enumerate(row))

    return re.sub(r"(?s)<table\b.*?</table>", mark, text)


FILTERS = {"picture": _picture, "wide": _wide, "unbroken": _unbroken, "aligned": _aligned}


def _cells(source, ran):
    """The cells that ran, with the text of the notebook as it reads now if its code is still the code that ran."""
    ran = [cell for cell in ran if "papermill-error-cell-tag" not in cell["tags"]]
    code = [cell for cell in ran if cell["cell_type"] == "code"]
    kept = [cell["source"] for cell in code if "injected-parameters" not in cell["tags"]]
    if kept != [cell["source"] for cell in source if cell["cell_type"] == "code"]:
        return ran, False
    cells, code = [], iter(code)
    for cell in source:
        cells.append(next(code) if cell["cell_type"] == "code" else cell)
        while "injected-parameters" in cells[-1]["tags"]:
            cells.append(next(code))
    return cells + list(code), True


def _article(study, card):
    """A notebook's cells as HTML whose links lead somewhere, and its table of contents: (level, id, title)."""
    import nbformat

    cells, current = _cells(card["source"]["cells"], card["shown"]["cells"])
    notebook = nbformat.from_dict(card["shown"] | {"cells": cells})
    body, _ = _exporter().from_notebook_node(notebook, {"metadata": {"path": str(project.NOTEBOOKS)}})
    pages, contents = {other["name"]: bool(other["shown"]) for other in study["cards"]}, {}

    def heading(match):
        level, anchor, title = match.groups()
        anchor += f"-{len(contents)}" if anchor in contents else ""
        contents[anchor] = (level, anchor, title)
        return f'<h{level} id="{anchor}">{title}<a class="anchor" href="#{anchor}" aria-label="Link to this section">'

    def address(match):
        path, section, name = match[1], match[2] or "", Path(match[1]).stem
        if path.endswith(".ipynb") and name in pages:
            return f'<a href="{name}.html{section}"' if pages[name] else f'<a href="index.html#{name}"'
        return f'<a href="{os.path.relpath(project.NOTEBOOKS / path, study["site"])}{section}"'

    body = re.sub(r"<h1[ >].*?</h1>", "", body, count=1)  # the page shows the title above its banners
    body = re.sub(r'<h([2-6]) id="([^"]+)">(.*?)<a class="anchor-link"[^>]*>', heading, body)
    body = re.sub(r'<a href="(?![a-z]+:|[#/])([^"#]+)(#[^"]*)?"', address, body)
    return {"card": card, "current": current, "body": body, "contents": contents.values()}
