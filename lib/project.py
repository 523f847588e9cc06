"""Where things are, how files are written, and the base of every error a user sees as one line."""

import ast
import contextlib
import functools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

# jsonschema, which nbformat imports, would build 38 grammars for addresses with it; notebooks have nothing to check so.
sys.modules.setdefault("rfc3987_syntax", None)

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PARAMETERS = ROOT / "parameters"
for _variable in ("STUDY_CACHE", "STUDY_REPORTS", "KERAS_HOME"):
    if os.environ.get(_variable):  # notebooks, which inherit it, work in a folder of their own
        os.environ[_variable] = str(Path(os.environ[_variable]).absolute())
CACHE = Path(os.environ.get("STUDY_CACHE") or ROOT / ".cache")
CACHED = ("checkpoints", "datasets", "features", "trials")  # the folders in it
REPORTS = Path(os.environ.get("STUDY_REPORTS") or ROOT / "reports")
UNFINISHED = f".{platform.node()}~"  # with a process's id, how the names of files begin that are being written
SCRATCH = f"study{UNFINISHED}"  # the same for temporary folders: a name that nobody else gives to theirs


class StudyError(Exception):
    """Something the user can mend: its message is one line that says what to do."""


def locked(path, error):
    """Return the StudyError for what may be whole, but cannot be read: nobody has to delete it."""
    return StudyError(f"{path} cannot be read ({one_line(error)}): see who owns it")


def expanded(path):
    """Return a path with the home folder for ~, or as it is where there is no such user."""
    with contextlib.suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def profiles():
    """Return the names of the folders under parameters/, sorted."""
    return sorted(path.name for path in PARAMETERS.iterdir() if path.is_dir())


def notebooks():
    """Return the paths of the notebooks, in their order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def search_path(root=None):
    """Return the PYTHONPATH on which a process that is started finds the project (at `root`, or here) first."""
    return os.pathsep.join(filter(None, (str(root or ROOT), os.environ.get("PYTHONPATH"))))


def repository():
    """Return the project's address on GitHub as "owner/name", or None where it is not there."""
    if name := os.environ.get("GITHUB_REPOSITORY"):  # as its workflows set it
        return name
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        return None
    asked = subprocess.run(["git", "-C", ROOT, "remote", "get-url", "origin"], capture_output=True, text=True)
    found = re.match(r"(https://|ssh://git@|git@)github\.com[:/]([\w.-]+/[\w.-]+?)(\.git)?/?$", asked.stdout.strip())
    return found and found[2]


class NotebookError(StudyError):
    """A notebook file that is none."""


def notebook(path):
    """Return a notebook file's content, the source of each cell as one text; raises NotebookError if it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))  # importing nbformat takes a second
        study = content["metadata"].get("study", {})
        study.get("reads_records"), [name + "" for names in study.get("reads", {}).values() for name in names]
        for cell in content["cells"]:
            cell["source"] = "".join(cell["source"])
            cell["cell_type"], "parameters" in cell["metadata"].get("tags", [])
        return content
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise NotebookError(f"{path} is not a notebook ({one_line(error)}): put back the file as it was") from error


def one_line(error):
    """Return what an exception says, in one line of limited length."""
    text = " ".join(str(error).split())
    return f"{text[:200]}…" if len(text) > 200 else text or type(error).__name__


def printable(name):
    """Return the name of a file as it can stand in a line: what cannot be shown is replaced."""
    name = os.fsencode(name).decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)


def unfinished(name):
    """Return the hidden name under which this process writes what will be called `name`."""
    return f"{UNFINISHED}{os.getpid()}-{name}"


def sweep(paths, prefix=UNFINISHED):
    """Delete, of files and folders named `prefix`, a process's id and `-…`, those whose process is gone: it was killed.

    Only processes of this machine can be told, so a prefix must name it where folders are shared.
    """
    for path in paths:
        number, dash, _ = path.name.removeprefix(prefix).partition("-")
        if path.name.startswith(prefix) and dash and number.isdecimal() and _gone(int(number)):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _gone(process):
    """Whether a process of this id has ended, or was never there."""
    import psutil  # slow to import, and only a run needs it

    try:  # in a container the first process may never ask after the dead that it has inherited
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


@contextlib.contextmanager
def replacing(path):
    """Yield a temporary path beside `path`: the file written there takes its place whole, or not at all on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(unfinished(path.name))
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # or a power cut could leave an empty file under the new name
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path, content):
    """Write `content` (str or bytes) to `path` whole or not at all; parent folders are made."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def code_of(path):
    """Return a Python file's code without comments, docstrings and layout: only what can change a result.

    All of its text where it is no Python, which who imports it will be told.
    """
    text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    try:
        return _code(text)
    except (SyntaxError, ValueError):
        return text


@functools.cache
def _code(text):
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)
