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
    One that is there and has never run is what an earlier call left; its path is returned.
    Raises StudyError where `name` is not words in lower case joined by underscores, or is taken, and where one of
    those files has no place for it.
    """
    notebooks, experiment = project.notebooks(), name.replace("_", "-")
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise project.StudyError(f"{name} cannot be a notebook's name: write it like wide_resnet")
    if notebooks[-1].stem[3:] == name and not _has_run(notebooks[-1]):  # its first run was cut short
        return notebooks[-1]
    number, title = f"{int(notebooks[-1].name[:2]) + 1:02}", name.replace("_", " ").capitalize()
    path = project.NOTEBOOKS / f"{number}_{name}.ipynb"
    decks, line = project.ROOT / "lib" / "decks.yaml", f'  {experiment}: {{title: "{title}", notebook: {path.stem}}}\n'
    taken = f"\n  {experiment}:" in decks.read_text(encoding="utf-8").replace(line, "")
    if taken or name in [path.stem[3:] for path in notebooks]:
        raise project.StudyError(f"there is a notebook or an experiment {name} already: choose another name")
    words = {"NN_name": path.stem, "NN": number, "Title": title, "short-name": experiment}
    text = re.sub(rf"\b({'|'.join(words)})\b", lambda match: words[match[0]], PATTERN.read_text(encoding="utf-8"))
    readme, row = project.ROOT / "README.md", f"| [{number} {title}](notebooks/{path.name}) | What does it answer? |\n"
    files = {
        **{project.PARAMETERS / profile / f"{path.stem}.yaml": FIRST_LINES.get(profile, "")
           for profile in project.profiles()},
        decks: _inserted(decks, r"(?m)^own:\n(?:  .*\n)+", line),
        readme: _inserted(readme, rf"(?m)^\| \[.*\(notebooks/{notebooks[-1].name}\).*\n", row),
        notebooks[-1]: _naming_next(notebooks[-1], f"[{number} {title}]({path.name})"),
        path: text}  # last, for where it is, the name is taken: what was cut short can be called again  # fmt: skip
    for place, content in files.items():
        project.atomic_write(place, content)
    return path


def _has_run(path):
    return any(cell.get("execution_count") for cell in project.notebook(path)["cells"])


def _naming_next(path, link):
    """The text of a notebook whose first and last Markdown cells lead to the one that follows."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    first, *_, last = (cell for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    if link not in "".join(last["source"]):
        first["source"] = [f"{line.rstrip()} · next: {link}\n" if line.startswith("You need") else line
                           for line in first["source"]]
        last["source"] += [f"\n\nNext: {link}"]
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _inserted(path, pattern, line):
    """The text of a file with a line behind what matches a pattern, unless it is there."""
    text = path.read_text(encoding="utf-8")
    place = re.search(pattern, text)
    if not place:
        raise project.StudyError(f"{path} does not name the notebook before this one: put back the line that did")
    return text if line in text else text[:place.end()] + line + text[place.end():]
