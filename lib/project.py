"""Where things are, how files are written, and the base of every error a user sees as one line."""

import ast
import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PARAMETERS = ROOT / "parameters"
CACHE = Path(os.environ.get("STUDY_CACHE", ROOT / ".cache"))
REPORTS = Path(os.environ.get("STUDY_REPORTS", ROOT / "reports"))


class StudyError(Exception):
    """Something the user can mend: its message is one line that says what to do."""


def repository():
    """Return the project's address on GitHub as "owner/name", or None where it is not there."""
    if name := os.environ.get("GITHUB_REPOSITORY"):  # as its workflows set it
        return name
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        return None
    asked = subprocess.run(["git", "-C", ROOT, "remote", "get-url", "origin"], capture_output=True, text=True)
    found = re.match(r"(https://|ssh://git@|git@)github\.com[:/]([\w.-]+/[\w.-]+?)(\.git)?/?$", asked.stdout.strip())
    return found and found[2]


@contextlib.contextmanager
def replacing(path):
    """Yield a temporary path beside `path`: the file written there takes its place whole, or not at all on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
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
    """Return a Python file's code without comments, docstrings and layout: only what can change a result."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)
