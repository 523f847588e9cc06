"""pyproject.toml declares, requirements.txt pins, environment.yml points to it: the three must not drift apart."""

import re
import subprocess
import sys
import tomllib

from lib import project

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((project.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRA = PROJECT["project"]["optional-dependencies"]["export"]
LOCK = (project.ROOT / "requirements.txt").read_text(encoding="utf-8")
PINS = [Requirement(line) for line in LOCK.splitlines() if line and not line.startswith(("#", "-"))]
PYTHONS = ("3.11", "3.12", "3.13")
SYSTEMS = {"linux": ("posix", "Linux", "x86_64"), "darwin": ("posix", "Darwin", "arm64"),
           "win32": ("nt", "Windows", "AMD64")}  # fmt: skip


def pinned(python, system="linux"):
    """Return {name: version} of what pip installs from the lock with a Python on a system."""
    os_name, platform_system, machine = SYSTEMS[system]
    environment = {"python_version": python, "python_full_version": f"{python}.7", "sys_platform": system, "extra": "",
                   "os_name": os_name, "platform_system": platform_system, "platform_machine": machine,
                   "implementation_name": "cpython", "platform_python_implementation": "CPython"}  # fmt: skip
    versions = {}
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate(environment):
            assert canonicalize_name(pin.name) not in versions, f"{pin.name} is pinned twice for Python {python}"
            versions[canonicalize_name(pin.name)] = next(iter(pin.specifier)).version
    return versions


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_satisfies_every_declared_dependency(python, system):
    """For every Python and system; `uv pip compile` (see the lock's first lines) mends it."""
    versions = pinned(python, system)
    for declared in map(Requirement, PROJECT["project"]["dependencies"]):
        assert canonicalize_name(declared.name) in versions, declared.name
        version = versions[canonicalize_name(declared.name)]
        assert declared.specifier.contains(version, prereleases=True), f"{declared} is locked to {version}"


def test_every_pin_is_one_exact_version():
    """Of a package index: no range, no address, no path, no option but the project itself."""
    for pin in PINS:
        assert re.fullmatch(r"==[\w.+!]+", str(pin.specifier)), str(pin)
        assert pin.url is None
    assert [line for line in LOCK.splitlines() if line.startswith("-")] == ["-e ."]
    assert not re.search(r"://|index-url|find-links|trusted-host|@ |/\w+/", LOCK)


def test_the_lock_says_how_it_was_made():
    """In a comment at its top."""
    assert "uv pip compile --universal --python-version 3.11" in "".join(LOCK.splitlines()[:3])


def test_the_three_pythons_are_those_that_are_allowed():
    """By the declaration."""
    allowed = SpecifierSet(PROJECT["project"]["requires-python"])
    assert [python for python in ("3.10", *PYTHONS, "3.14") if f"{python}.1" in allowed] == list(PYTHONS)


def test_the_environment_is_a_shell_around_the_lock():
    """A Python that is allowed, pip, and nothing that is declared elsewhere."""
    environment = yaml.safe_load((project.ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, *others = environment["dependencies"]
    assert re.fullmatch(r"python=(3\.1[123])", python)
    assert others == ["pip", {"pip": ["-r requirements.txt"]}]


def test_dependencies_are_declared_nowhere_else():
    """No other file of this kind, no second list in pyproject.toml but that of an extra, which is not locked."""
    assert list(PROJECT["project"]["optional-dependencies"]) == ["export"]
    extra = {canonicalize_name(Requirement(line).name) for line in EXTRA}
    assert not extra & {canonicalize_name(pin.name) for pin in PINS}
    assert not PROJECT.get("dependency-groups")
    others = ("setup.py", "setup.cfg", "tox.ini", "requirements-*.txt", "requirements/*", "Pipfile", "*.lock")
    assert [path for pattern in others for path in project.ROOT.glob(pattern)] == []


def test_the_build_backend_is_pinned():
    """It runs at every installation."""
    assert all(re.fullmatch(r"\w+==[\d.]+", requirement) for requirement in PROJECT["build-system"]["requires"])


def imported(path):
    """Return the names of the packages that a file imports."""
    return set(re.findall(r"(?m)^\s*(?:from|import) (\w+)", path.read_text(encoding="utf-8")))


def test_every_import_is_declared():
    """Of `lib` and the commands, under the name that the index gives it."""
    names = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml", "dask": "distributed",
             "IPython": "ipykernel", "jupyter_client": "ipykernel", "jax": "tensorflow"}  # fmt: skip
    lines = PROJECT["project"]["dependencies"] + EXTRA
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    for path in [*(project.ROOT / "lib").glob("*.py"), project.ROOT / "tasks.py"]:
        for name in imported(path) - set(sys.stdlib_module_names) - {"lib"}:
            assert canonicalize_name(names.get(name, name)) in declared, f"{path.name} imports {name}"


# ---------------------------------------------------------------------------------------------- git


@pytest.fixture
def git():
    """A function that asks git about this checkout."""
    def ask(*arguments):
        return subprocess.run(("git", *arguments), cwd=project.ROOT, capture_output=True, text=True, check=False)

    try:
        if ask("rev-parse", "--show-toplevel").stdout.strip() == str(project.ROOT):
            return ask
    except OSError:
        pass
    pytest.skip("this is not a git checkout")


def test_git_has_the_package(git):
    """A common .gitignore for Python hides folders called lib."""
    tracked = set(git("ls-files", "lib").stdout.split())
    there = {str(path.relative_to(project.ROOT)) for path in (project.ROOT / "lib").rglob("*.*")
             if path.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & {*path.parts}}
    assert "lib/data.py" in tracked
    assert there <= tracked


def test_git_ignores_what_is_made_and_nothing_else(git):
    """Runs and caches; but not the package, and not the reference."""
    for path in ("lib/new.py", "lib/templates/new.j2", "notebooks/03_new.ipynb", "reports/reference/records/A1.json"):
        assert git("check-ignore", "-q", "--no-index", path).returncode == 1, path
    for path in ("reports/smoke/run.json", ".cache/datasets/x", "lib/__pycache__/x.pyc", ".venv/pip", "x.egg-info/x"):
        assert git("check-ignore", "-q", "--no-index", path).returncode == 0, path


def test_the_hooks_take_the_locked_ruff():
    """Or a commit could pass what `invoke lint` does not."""
    hooks = yaml.safe_load((project.ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert hooks[0]["additional_dependencies"] == [f"ruff=={pinned('3.11', 'linux')['ruff']}"]
