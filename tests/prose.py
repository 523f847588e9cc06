"""Numbers in prose: `69.7<!--A1:metrics.accuracy.value:pct1-->` is what A1's record says, and stays it.

`python -m tests.prose` writes the marked numbers of all notebooks and of the README anew, and the README's tables of
results and of speed, from the records and bench.json in reports/reference; where there is no number yet, a question
mark stands before the comment.
Where no experiment has the name, a file beside the records may, as in `few_images:0.from scratch:pct0`; a list counts
its items. What only a page shows is quoted from the outputs of a cell: `12_comparison#CELL-ID:blur:.2f` is the first
number after what matches the pattern.
The format is `pct1`, per cent with one decimal, or one of Python's (`,d`, `.3f`), with a divisor if need be: `.0f/60`
makes minutes of seconds.
"""

import json
import re
from pathlib import Path

from lib import bench, decks, project

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "reports" / "reference" / "records"
NUMBER = r"(?:(?<!\d)[+−-])?\d[\d,]*(?:\.\d+)?|\?"
MARK = re.compile(rf"({NUMBER})?<!--([^\s:>]+:[^>]+)-->")  # a comment with a space before its colon is something else


TABLE = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- end of results -->)", re.DOTALL)
BENCH = re.compile(r"(?<=<!-- bench -->\n).*?(?=<!-- end of bench -->)", re.DOTALL)
COLUMNS = """| experiment | model | decks (%) | accuracy (%) | parameters | MFLOP | training (s) | ms per image |
| --- | --- | --- | --- | ---: | ---: | ---: | ---: |
"""


def render(text, folder=RECORDS):
    """Return a text with its marked numbers and its tables as the records and bench.json beside them have them.

    Raises ValueError where a number has no source.
    """
    text = BENCH.sub(lambda _: speed(folder.parent / "bench.json"), render_numbers(text, folder))
    return TABLE.sub(lambda _: results(folder), text)


def speed(path):
    """Return a Markdown table with a row for each measurement of `invoke bench`, blank where it was not made."""
    measured = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return bench.markdown(bench.COLUMNS, bench.rows(measured, bench.MEASUREMENTS))


def results(folder):
    """Return a Markdown table with a row for each experiment of the decks and our own, blank without a record."""
    records = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    return COLUMNS + "".join(_row(name, records.get(name)) for name in decks.names(records))


def _row(name, record):
    deck = (decks.reported(name) or {}).get("accuracy", [])
    deck = "–".join(f"{100 * value:.1f}" for value in (deck if isinstance(deck, list) else [deck]))
    title = f"**{decks.title(name)}**" if name.endswith("-own") else decks.title(name)
    cells = [""] * 5
    if record:
        accuracy = [_format(record["metrics"]["accuracy"][end], "pct1") for end in ("value", "low", "high")]
        cells = [f"{accuracy[0]} [{accuracy[1]}, {accuracy[2]}]", f"{record['model']['total_parameters']:,}",
                 _format(record["model"]["flops"], ".0f/1e6"), _format(record["training"]["seconds"], ".0f"),
                 _format(record["latency"]["batch_1_ms"]["median"], ".2f")]
    return f"| {' | '.join([name, title, deck, *cells])} |\n"


def render_numbers(text, folder=RECORDS):
    """Return a text with its marked numbers as the records have them; raises ValueError where one has no source."""
    def render(mark):
        number, source = mark.groups()
        try:
            name, path, kind = source.split(":")
            value = _shown(*name.split("#"), path, folder) if "#" in name else _recorded(name, path, folder)
            if number is None:
                raise ValueError("a number goes right before it")
            return f"{_format(value, kind)}<!--{source}-->"
        except (OSError, StopIteration, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{mark[0]} is not NUMBER<!--EXPERIMENT:path.to.value:FORMAT--> ({error!r})") from error

    return MARK.sub(render, text)


def _recorded(name, path, folder):
    """The value at a path in a record, or in a file beside the records."""
    file = next(file for file in (folder / f"{name}.json", folder.parent / f"{name}.json") if file.exists())
    value = json.loads(file.read_text(encoding="utf-8"))
    for step in path.split("."):
        value = value[int(step) if isinstance(value, list) else step]
    return value


def _shown(notebook, cell, pattern, folder):
    """The first number after a pattern in what a cell of a page prints, or shows as a table."""
    page = json.loads((folder.parent / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))
    outputs = next(each["outputs"] for each in page["cells"] if each["id"] == cell)
    texts = [output.get("text") or output.get("data", {}).get("text/html", "") for output in outputs]
    plain = " ".join(re.sub(r"<[^>]+>", " ", "".join(text)) for text in texts)
    return float(re.search(rf"(?:{pattern})\s*({NUMBER})", plain)[1].replace("−", "-").replace(",", ""))


def _format(value, kind):
    value = len(value) if isinstance(value, list) else value
    if kind.startswith("pct"):
        value, kind = 100 * value, f".{int(kind[3:])}f"  # as tables have it: a division by 0.01 may round another way
    kind, _, divisor = kind.partition("/")
    value = value / float(divisor or 1)
    return format(round(value) if kind.endswith("d") else value, kind).replace("-", "−")


def documents():
    """Return the paths of the texts that quote results."""
    return [*sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")), ROOT / "README.md"]


if __name__ == "__main__":
    for document in documents():
        before = document.read_text(encoding="utf-8")
        after = render(before)  # a notebook is JSON, but nothing in a mark is escaped there
        if after != before:
            project.atomic_write(document, after)
            print(f"{document.relative_to(ROOT)} has new numbers")
