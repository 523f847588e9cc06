"""A study of a few lines in a folder of its own: the project's `lib` and tasks.py around tiny notebooks."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from nbformat import v4

ROOT = Path(__file__).resolve().parent.parent
TRAIN = """import json, pathlib, os
from lib import project
print(f"epoch  1/{epochs} · val accuracy 61.2 %", end="\\r", flush=True)
folder = project.REPORTS / profile / "records"
folder.mkdir(parents=True, exist_ok=True)
record = {"schema": 1, "experiment": NAME, "notebook": NAME, "profile": profile, "seed": seed, "created": "",
          "commit": "", "versions": {}, "device": "", "dataset": {"name": "digits"}, "pretrained": None,
          "settings": {}, "model": {}, "metrics": {"accuracy": {"value": rate}}, "training": {}, "latency": {},
          "reported": None}
(folder / f"{NAME}.json").write_text(json.dumps(record))"""
READ = """from lib import project
print(sorted(path.name for path in (project.REPORTS / profile / "records").glob("[!.]*.json")))"""


def _hear_ctrl_c():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def clean_environment():
    """Return this process's environment without what concerns another study or a terminal."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("STUDY_", "COLUMNS"))}


class Study:
    """A toy project; `invoke` runs its commands as a user would."""

    def __init__(self, root):
        self.root = root
        shutil.copytree(ROOT / "lib", root / "lib", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "tasks.py", root)
        (root / "requirements.txt").write_text("")
        for profile in ("smoke", "quick"):
            self.parameters("common", "seed: 0\n", profile)

    def notebook(self, name, code=TRAIN, parameters="", **study):
        """Write a notebook, with what `study` says in its metadata, and its parameter files."""
        declared = 'profile = "smoke"\nseed = 0\nepochs = 1\nrate = 0.5\n' + parameters
        cells = [v4.new_markdown_cell(f"# {name}\n\n> A question."),
                 v4.new_code_cell(declared, metadata={"tags": ["parameters"]}),
                 v4.new_markdown_cell("## Training"),
                 v4.new_code_cell(f"NAME = {name!r}\n{code}", metadata={"tags": ["nbval-check-output"]})]
        path = self.root / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(v4.new_notebook(cells=cells, metadata={"study": study})))
        for profile in ("smoke", "quick"):
            self.parameters(name, "", profile)
        return path

    def parameters(self, name, text, profile="smoke"):
        """Write a parameter file."""
        path = self.root / "parameters" / profile / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def start(self, *arguments, **variables):
        """Start `invoke` in a process group of its own, with Ctrl-C as a terminal would have it."""
        return subprocess.Popen(
            [sys.executable, "-m", "invoke", *arguments], cwd=self.root, env=clean_environment() | variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            preexec_fn=_hear_ctrl_c)  # background jobs ignore SIGINT, and so would this

    def invoke(self, *arguments, seconds=300, **variables):
        """Run `invoke`; return (exit code, stdout, stderr)."""
        process = self.start(*arguments, **variables)
        out, err = process.communicate(timeout=seconds)
        return process.returncode, out, err

    def marker(self, name, profile="smoke"):
        """Return what the run left about a notebook."""
        return json.loads((self.root / "reports" / profile / "runs" / f"{name}.json").read_text())
