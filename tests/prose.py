"""Numbers in prose: `69.7<!--A1:metrics.accuracy.value:pct1-->` is what A1's record says, and stays it.

`python -m tests.prose` writes the marked numbers of all notebooks and of the README anew, from the records in
reports/reference; where there is no number yet, a question mark stands before the comment. The format is `pct1`, per
cent with one decimal, or one of Python's (`,d`, `.3f`), with a divisor if need be: `.0f/60` makes minutes of seconds.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "reports" / "reference" / "records"
NUMBER = r"(?:(?<!\d)[+−-])?\d[\d,]*(?:\.\d+)?|\?"
MARK = re.compile(rf"({NUMBER})?<!--([^\s:>]+:[^>]+)-->")  # a comment with a space before its colon is something else


def render_numbers(text, folder=RECORDS):
    """Return a text with its marked numbers as the records have them; raises ValueError where one has no source."""
    def render(mark):
        number, source = mark.groups()
        try:
            experiment, path, kind = source.split(":")
            value = json.loads((folder / f"{experiment}.json").read_text(encoding="utf-8"))
            for step in path.split("."):
                value = value[int(step) if isinstance(value, list) else step]
            if number is None:
                raise ValueError("a number goes right before it")
            return f"{_format(value, kind)}<!--{source}-->"
        except (OSError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{mark[0]} is not NUMBER<!--EXPERIMENT:path.to.value:FORMAT--> ({error!r})") from error

    return MARK.sub(render, text)


def _format(value, kind):
    if kind.startswith("pct"):
        kind = f".{int(kind[3:])}f/0.01"
    kind, _, divisor = kind.partition("/")
    value = value / float(divisor or 1)
    return format(round(value) if kind.endswith("d") else value, kind).replace("-", "−")


def documents():
    """Return the paths of the texts that quote results."""
    return [*sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")), ROOT / "README.md"]


if __name__ == "__main__":
    for document in documents():
        before = document.read_text(encoding="utf-8")
        after = render_numbers(before)  # a notebook is JSON, but nothing in a mark is escaped there
        if after != before:
            document.write_text(after, encoding="utf-8")
            print(f"{document.relative_to(ROOT)} has new numbers")
