"""What a run is set to: a notebook's own defaults, over them its profile's common.yaml, over that its own file."""

import ast
import difflib
import re
import reprlib
from os.path import relpath

from lib import data, project

import yaml

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list"}


class ParameterError(project.StudyError):
    """A profile, a parameter file or a parameter that does not fit."""


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):  # ten lines of them can stand for billions of values
            raise yaml.YAMLError("it refers to another value (*name): write that value itself")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        names = [str(key.value) for key, _ in node.value]
        if len(set(names)) < len(names):  # YAML itself would silently take the last
            raise yaml.YAMLError(f"a name is given twice: {max(names, key=names.count)}")
        return super().construct_mapping(node, deep)


# YAML 1.1 takes 1e-3 for text because it has no point.
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+\.?\d*[eE][-+]?\d+$"), "-+0123456789")


def defaults(notebook_path):
    """Return {name: value} of the first cell tagged `parameters`, which is parsed, never run.

    Raises ParameterError where it is not lines of `name = literal`, and NotebookError where the file is no notebook.
    """
    cells = project.notebook(notebook_path)["cells"]
    source = next((cell["source"] for cell in cells if "parameters" in cell["metadata"].get("tags", [])), "")
    try:
        found = {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(source).body}
        return {name: _fit(name, value, None) for name, value in found.items()}
    except (ParameterError, ValueError, TypeError, AttributeError, SyntaxError, RecursionError, MemoryError) as error:
        what = f"needs a parameters cell of lines `name = literal` ({project.one_line(error)})"
        raise ParameterError(f"{relpath(notebook_path, project.ROOT)} {what}") from error


def results(profile, dataset=None):
    """Return the name of the folder under reports/: the profile's, or one of its own for another data set."""
    if dataset in (None, parse(project.PARAMETERS / profile / "common.yaml").get("dataset")):
        return profile
    return f"{data.slug(dataset)}-{profile}"


def read(profile, notebook_path, dataset=None):
    """Return all parameters of one run, on another `dataset` if one is given.

    Raises ParameterError where a name or a value does not fit the notebook.
    """
    declared = defaults(notebook_path)
    merged = dict(declared)
    for stem, sharing in (("common", "[0-9][0-9]_*.ipynb"), (notebook_path.stem, notebook_path.name)):
        path = project.PARAMETERS / profile / f"{stem}.yaml"
        for name, value in parse(path).items():
            if name in declared:
                merged[name] = _fit(f"{relpath(path, project.ROOT)}: {name}", value, declared[name])
            elif not any(name in defaults(other) for other in notebook_path.parent.glob(sharing)):
                near = difflib.get_close_matches(name, declared, 1) or [f"one of {', '.join(declared) or 'none'}"]
                raise ParameterError(f"{relpath(path, project.ROOT)}: unknown parameter {name}: write {near[0]}")
    given = {"profile": results(profile, dataset)} | ({"dataset": dataset} if dataset else {})
    return merged | {name: value for name, value in given.items() if name in declared}


def parse(path):
    """Return {name: value} of a parameter file; raises ParameterError where it is missing or holds anything else."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        content = {} if content is None else content
        if isinstance(content, dict) and all(isinstance(name, str) and name.isidentifier() for name in content):
            return content
        why = "must hold one `name: value` a line, nothing else"
    except Exception as error:  # PyYAML raises many kinds: KeyError for `!!bool x`, say
        missing = isinstance(error, FileNotFoundError)
        why = "is missing: create it, it may be empty" if missing else f"is not YAML: {project.one_line(error)}"
    raise ParameterError(f"{relpath(path, project.ROOT)} {why}")


def _fit(where, value, default):
    """Return the value in the default's type: a whole number is a float, too, true is no number."""
    if isinstance(value, list) and isinstance(default, (list, type(None))):
        return [_fit(f"{where}, item {place}", item, (default or [None])[0]) for place, item in enumerate(value, 1)]
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) in ((type(default),) if default is not None else (*KINDS, type(None))):
        return value
    raise ParameterError(f"{where} must be {KINDS.get(type(default), 'a plain value')}, not {reprlib.repr(value)}")
