"""A new notebook from the pattern of the others, and its name wherever notebooks are listed."""

import json
import re

from lib import project

PATTERN = project.ROOT / "lib" / "templates" / "notebook.ipynb"
FIRST_LINES = {"smoke": "# The notebook's own defaults are the smoke size.\n", "quick": "train_limit: 5000\n",
               "full": "train_limit: 0\nprecision: auto\n"}  # fmt: skip


def new_notebook(name):
    """Write the next notebook, not run yet, and return its path.

    Its parameter files are written, too, and it is named in the notebook before it, in decks.yaml and in the README.
    Raises StudyError where `name` is not words in lower case joined by underscores, or is taken.
    """
    notebooks = project.notebooks()
    decks, experiment = project.ROOT / "lib" / "decks.yaml", name.replace("_", "-")
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise project.StudyError(f"{name} cannot be a notebook's name: write it like wide_resnet")
    if name in [path.stem[3:] for path in notebooks] or f"\n  {experiment}:" in decks.read_text(encoding="utf-8"):
        raise project.StudyError(f"there is a notebook or an experiment {name} already: choose another name")
    number, title = f"{int(notebooks[-1].name[:2]) + 1:02}", name.replace("_", " ").capitalize()
    path = project.NOTEBOOKS / f"{number}_{name}.ipynb"
    text = PATTERN.read_text(encoding="utf-8")
    words = {"NN_name": path.stem, "NN": number, "Title": title, "short-name": experiment}
    project.atomic_write(path, re.sub(rf"\b({'|'.join(words)})\b", lambda match: words[match[0]], text))
    for profile, line in FIRST_LINES.items():
        project.atomic_write(project.PARAMETERS / profile / f"{path.stem}.yaml", line)
    _name_next(notebooks[-1], f"[{number} {title}]({path.name})")
    _insert(decks, r"(?m)^own:\n(?:  .*\n)+", f'  {experiment}: {{title: "{title}", notebook: {path.stem}}}\n')
    row = f"| [{number} {title}](notebooks/{path.name}) | What does it answer? |\n"
    _insert(project.ROOT / "README.md", rf"(?m)^\| \[.*\(notebooks/{notebooks[-1].name}\).*\n", row)
    return path


def _name_next(path, link):
    """Let the first and the last Markdown cell of a notebook lead to the one that follows."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    first, *_, last = (cell for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    needs = next(place for place, line in enumerate(first["source"]) if line.startswith("You need"))
    first["source"][needs] = f"{first['source'][needs].rstrip()} · next: {link}\n"
    last["source"] += [f"\n\nNext: {link}"]
    project.atomic_write(path, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def _insert(path, pattern, line):
    """Put a line behind what matches a pattern."""
    text = path.read_text(encoding="utf-8")
    end = re.search(pattern, text).end()
    project.atomic_write(path, text[:end] + line + text[end:])
