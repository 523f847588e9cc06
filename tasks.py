"""The commands of the project: `invoke --list` names them. What is slow to import waits inside the functions."""

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from lib import project

from invoke import Exit, task

PROFILE = "smoke, quick, full or another folder under parameters/"
DEFAULT_PROFILE = " (default: quick if CIFAR-10 can be had, else smoke)"
JOBS = "notebooks to run at a time (default: as many as cores allow)"
SCHEDULER = "address of a Dask cluster to run on"
COLOURS = {"waiting": "dim", "running": "cyan", "done": "green", "kept": "blue", "failed": "bold red"}
RUN = "smoke, quick, full, or the name of a folder under reports/, such as flowers-quick"
DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "digits": "the embedded digits"}
DATASET = "a folder of class subfolders, or cifar10, cifar100, digits (default: the profile's)"
NBVAL = (sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-q")


def command(**settings):
    """Make a task: errors that the user can mend end in one line on stderr and code 2, Ctrl-C in code 130."""

    def decorate(function):
        @functools.wraps(function)
        def guarded(*arguments, **options):
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as cleanly as at Ctrl-C
            try:
                code = function(*arguments, **options)
            except KeyboardInterrupt:
                raise Exit("interrupted", 130) from None
            except project.StudyError as error:
                raise Exit(f"error: {error}", 2) from None
            except OSError as error:  # no space, no permission
                raise Exit(f"error: {error}; mend this and run the same command again", 2) from None
            if code:
                raise Exit(code=code)

        return task(help=settings)(guarded)

    return decorate


@command(profile=PROFILE + DEFAULT_PROFILE, only="numbers or names: 02,07", jobs=JOBS,
         force="run and train what has not changed, too", scheduler=SCHEDULER, dataset=DATASET)
def run_all(_, profile=None, only=None, force=False, jobs=None, scheduler=None, dataset=None):
    """Run the notebooks that have changed and build the web site."""
    return _run(_chosen(only), profile, jobs, scheduler, dataset, force=force, retrain=force)


@command(seeds="how many: the profile's own and the next ones", only="names: 02,05 (default: all that train)",
         profile=PROFILE + DEFAULT_PROFILE, jobs=JOBS, scheduler=SCHEDULER, dataset=DATASET)
def sweep(_, seeds="5", only=None, profile=None, jobs=None, scheduler=None, dataset=None):
    """Train with several seeds, and compare over them."""
    from lib import pipeline

    seeds, chosen = _number("seeds", seeds), [path for path in _chosen(only) if pipeline.trains(path)]
    if not chosen:
        raise project.StudyError("none of these notebooks trains: choose others with --only")
    comparing = [path for path in _chosen(None) if pipeline.reads_records(path)]
    return _run(chosen + comparing, profile, jobs, scheduler, dataset, seeds=seeds)


def _run(paths, profile, jobs, scheduler, dataset, **options):
    """Run notebooks, say what became of them and build the web site; return the exit code."""
    from lib import parameters, pipeline, site

    jobs, dataset = jobs and _number("jobs", jobs), dataset and _dataset(dataset)  # complain before a download begins
    profile, line = choose_profile(profile, dataset)
    show, name = Progress(), parameters.results(profile, dataset)
    try:
        with show.live:
            pipeline.run(profile, line, paths, show, jobs=jobs, scheduler=scheduler, dataset=dataset, **options)
    except KeyboardInterrupt:
        again = "run the same command again to go on"
        if options.get("retrain"):
            again = "without --force the same command ends what was broken off, with it all begins anew"
        raise Exit(f"interrupted: finished notebooks are kept; {again}", 130) from None
    show.summary(name)
    for place in sorted({Path(row).parent for row in show.rows} - {Path()}):
        site.render(f"{name}/{place.as_posix()}")
    show.say(f"open {site.render(name)}")
    return int(any(row["state"] == "failed" for row in show.rows.values()))


def _number(option, text):
    if not text.isdecimal() or int(text) < 1:
        raise project.StudyError(f"--{option} must be 1 or more, not {text}")
    return int(text)


@command(notebook="its number or name", profile=PROFILE, dataset=DATASET)
def run(_, notebook, profile=None, dataset=None):
    """Run one notebook, changed or not: invoke run 02."""
    return _run(_chosen(notebook), profile, None, None, dataset, force=True)


TRAINED = RUN + " (default: the one trained last)"


@command(photo="the path of a picture", model="one experiment, such as A1 (default: all)", profile=TRAINED)
def predict(_, photo, model=None, profile=None):
    """Ask the trained models what a photo shows."""
    import lib.photo

    lib.photo.predict(photo, model, profile)


@command(format="onnx or litert", model="one experiment, such as A1 (default: all)", profile=TRAINED)
def export(_, format, model=None, profile=None):
    """Write the trained models for another runtime, and compare."""
    import lib.export

    lib.export.export(format, model, profile)


@command(profile=PROFILE + ", or reference: where the results go (default: quick)", only="names: data_load,prediction")
def bench(_, profile="quick", only=None):
    """Measure how fast it is, in pairs, in under half an hour."""
    from lib import bench, site

    from rich.console import Console
    from rich.table import Table

    chosen, path = bench.names(only), bench.path(profile)
    try:
        measured, failed = bench.run(profile, chosen, lambda text: print(text, flush=True))
    except KeyboardInterrupt:
        raise Exit("interrupted: what was measured is kept", 130) from None
    table = Table("name", *bench.COLUMNS, box=None, pad_edge=False)
    for name, cells in zip(measured, bench.rows(measured, measured), strict=True):
        table.add_row(name, *(cell.replace("`", "") for cell in cells))
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table)
    if path.exists():
        site.render(profile)
        print(f"open {path.parent / 'site' / 'bench.html'}")
    return int(bool(failed))


@command()
def lab(_):
    """Open JupyterLab with the first notebook."""
    signal.signal(signal.SIGINT, lambda *_: None)  # Jupyter itself asks whether to stop
    arguments = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # as in a container
    return _call(sys.executable, "-m", "jupyterlab", project.NOTEBOOKS / "01_data_exploration.ipynb", *arguments)


@command(profile=RUN + " (default: the one run last)")
def report(_, profile=None):
    """Build the web site from what was run."""
    from lib import site

    print(site.render(_newest(profile, "runs").parent.relative_to(project.REPORTS).as_posix()))


@command(profile=RUN + ", or reference (default: reference)", folder="where to (default: public)")
def publish(_, profile="reference", folder="public"):
    """Put the web site into a folder, ready for any host."""
    from lib import publish

    _newest(profile, "runs")  # says what to do where nothing was run
    print(publish.publish(profile, project.ROOT / project.expanded(folder)))


@command(profile=RUN + ", or reference (default: the one run last)", port="of this machine", browser="open it")
def serve(_, profile=None, port="8000", browser=True):
    """Show the web site in the browser."""
    import http.server
    import webbrowser

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):  # one line per file says nothing
            pass

    if not port.isdecimal() or int(port) > 65535:
        raise project.StudyError(f"--port must be a number up to 65535, not {port}")
    handler = functools.partial(Handler, directory=_newest(profile, "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), handler) as server:
        url = f"http://127.0.0.1:{server.server_port}/"
        print(f"{url} (Ctrl-C ends it)", flush=True)
        if browser:
            webbrowser.open(url)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


@command(name="words in lower case joined by underscores: wide_resnet")
def new_notebook(_, name):
    """Start a notebook from the pattern of the others."""
    from lib import scaffold

    path = scaffold.new_notebook(name)
    print(f"wrote {path}, its parameter files and its rows in lib/decks.yaml and README.md; now it runs …", flush=True)
    with tempfile.TemporaryDirectory() as reports:
        code = _call(sys.executable, "-m", "nbconvert", "--execute", "--inplace", "--log-level", "ERROR",
                     "--ExecutePreprocessor.record_timing=False", path, reports=reports)
    return int(bool(code or _call(sys.executable, "-m", "tests.prose")))


@command()
def test(_):
    """Run the tests and compare the notebooks' checked outputs."""
    with tempfile.TemporaryDirectory() as reports:
        two = ("-n", "2", "--dist", "loadscope")  # processes, each with whole files: their fixtures are made once
        code = _call(sys.executable, "-m", "pytest", "-q", *two, project.ROOT / "tests")
        notebooks = _call(*NBVAL, *two, project.NOTEBOOKS, reports=reports)
    return int(bool(code or notebooks))


@command(profile=RUN + " (default: the one run last)")
def validate(_, profile=None):
    """Run a run's notebooks again and compare their checked outputs."""
    from lib import pipeline

    folder = _newest(profile, "notebooks")
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"), key=lambda path: (pipeline.reads_records(path), path.name))
    with tempfile.TemporaryDirectory() as reports:
        return int(bool(_call(*NBVAL, *paths, reports=reports)))


@command()
def lint(_):
    """Check the style of the code and the notebooks."""
    return _call(sys.executable, "-m", "ruff", "check", project.ROOT)


@command(cache="the parsed data and frozen features, too")
def clean(_, cache=False):
    """Delete what runs produced, but not reports/reference."""
    from lib import pipeline, records

    runs = [folder for folder in map(records.folder, records.profiles()) if folder.exists()]
    kept = [project.CACHE / part for part in project.CACHED] if cache else []  # whatever else is there is not ours
    with contextlib.ExitStack() as stack:
        for folder in runs:
            stack.enter_context(pipeline.alone(folder))  # says whose run would lose its results
        if os.name == "nt":  # it deletes no file that is open
            stack.close()
        for folder in runs + [folder for folder in kept if folder.exists()]:
            shutil.rmtree(folder)
            print(f"deleted {folder}")


def _chosen(only):
    """Return the paths of all notebooks, or of those named in a text like 02,07."""
    paths = project.notebooks()
    if only is None:
        return paths
    wanted = [name.strip() for name in only.removesuffix(",").split(",")]
    known = {name: path for path in paths for name in (path.stem, path.stem[:2], path.stem[:2].lstrip("0"))}
    if unknown := [name for name in wanted if name not in known]:
        there = ", ".join(path.stem for path in paths)
        raise project.StudyError(f"there is no notebook {', '.join(unknown) or 'without a name'}: choose from {there}")
    return sorted({known[name] for name in wanted})


def _dataset(text):
    """Return a data set as notebooks find it: its name, or the absolute path of its folder."""
    from lib import data, folders

    return text if text in data.NAMES else str(folders.path_of(project.expanded(text).absolute()))


def choose_profile(requested=None, dataset=None):
    """Return (profile, a line saying which data it uses and why); what was asked for never falls back.

    A folder of images is read into the cache, so that what is wrong with it is said before anything starts. Raises
    ParameterError for an unknown profile or data set, and DataError where the data cannot be had.
    """
    from lib import data, parameters

    if requested and requested not in project.profiles():
        raise parameters.ParameterError(f"there is no profile {requested}: choose one of "
                                        f"{', '.join(project.profiles())}")
    profile, requested = requested or "quick", requested or dataset
    common = project.PARAMETERS / profile / "common.yaml"
    dataset = dataset or parameters.parse(common).get("dataset", "digits")
    if not isinstance(dataset, str):
        where = os.path.relpath(common, project.ROOT)
        raise parameters.ParameterError(f"{where}: dataset must be a name or the path of a folder, not {dataset!r}")
    if dataset not in data.NAMES:
        images = data.load_dataset(dataset)
        return profile, "; ".join([f"profile {profile} on {images}", *images.problems]).rstrip(".")
    try:
        why = "as asked for" if dataset == "digits" else data.find_or_download_cifar(dataset)[1]
    except data.DataError as error:
        if requested:
            raise
        profile, dataset, why = "smoke", "digits", str(error).split(": ")[0]  # the rest says how to mend it
    return profile, f"profile {profile} on {DATASETS[dataset]} ({why})"


def _newest(profile, part):
    """Return a part of the profile's run folder, or, without a profile, of the run that changed it last."""
    from lib import records

    names = records.profiles()
    if profile and profile not in (*names, "reference"):
        raise project.StudyError(f"there is no profile {profile}: choose one of {', '.join((*names, 'reference'))}")
    places = [project.REPORTS / name / part for name in ([profile] if profile else names)]
    folders = [folder for folder in places if folder.is_dir() and any(folder.iterdir())]
    if not folders:
        option = f" {records.options(profile)}" if profile else ""
        raise project.StudyError(f"nothing was run yet: start with `invoke run-all{option}`")
    return max(folders, key=lambda folder: folder.stat().st_mtime)


def _call(*arguments, reports=None):
    """Run a command in the project's root; with `reports`, notebooks write there instead of into a run's folder."""
    environment = os.environ | {"PYTHONPATH": project.search_path()} | ({"STUDY_REPORTS": reports} if reports else {})
    return subprocess.call([str(argument) for argument in arguments], cwd=project.ROOT, env=environment)


class Progress:
    """What a run looks like: `live` is a table in a terminal; elsewhere there are lines. Any thread may change it."""

    def __init__(self):
        from rich.console import Console
        from rich.live import Live

        self.console = Console(highlight=False, markup=False, emoji=False)
        if not self.console.is_terminal:
            self.console.width = 120
        self.rows = {}
        self.live = Live(console=self.console, transient=True,
                         get_renderable=lambda: self.table(section="section", metric="last metric"))

    def expect(self, names):
        """Take note of the notebooks to come."""
        self.rows |= {name: {"state": "waiting", "told": 0} for name in names}

    def say(self, text):
        """Print a line."""
        self.console.print(text, soft_wrap=True)

    def update(self, name, **changes):
        """Take over what is new about a notebook: state, section, metric, seconds, error."""
        row, now = self.rows[name], time.monotonic()
        row |= changes | ({"started": now} if changes.get("state") == "running" else {})
        if self.console.is_interactive or ("metric" in changes and now - row["told"] < 10):  # lines are kept few
            return
        row["told"] = now if "metric" in changes else row["told"]
        words = {"section": "section {}", "seconds": "{} s"}
        self.say(f"{name}: {' · '.join(words.get(key, '{}').format(changes[key]) for key in changes if changes[key])}")

    def table(self, **titles):
        """Return a table of all notebooks, with more of what is known about them: {name of it: title of the column}."""
        from rich.table import Table
        from rich.text import Text

        table = Table("notebook", "state", "elapsed", *titles.values(), box=None, pad_edge=False)
        for name, row in self.rows.items():
            seconds = row.get("seconds") or ("started" in row and time.monotonic() - row["started"])
            elapsed = str(timedelta(seconds=round(seconds))) if seconds else ""
            state = Text(row["state"], COLOURS[row["state"]])
            table.add_row(name, state, elapsed, *(row.get(key, "") for key in titles))
        return table

    def summary(self, profile):
        """Print the table that ends a run: what became of each notebook, its best accuracy and its page."""
        from lib import records

        from rich.text import Text

        best, lines = {}, [f"{name} failed: {row['error']}" for name, row in self.rows.items() if row.get("error")]
        for place in dict.fromkeys(Path(name).parent for name in self.rows):  # another seed's is inside the profile's
            try:
                for record in records.read_all(Path(profile, place)).values():
                    best.setdefault(place / record["notebook"], []).append(record["metrics"]["accuracy"]["value"])
            except project.StudyError as error:
                lines.append(str(error))
        for name, row in ((Path(name), row) for name, row in self.rows.items()):
            row["best"] = f"{max(best[name]):.1%}" if name in best else ""
            link = name.parent / "site" / f"{name.name}.html"
            page = project.REPORTS / profile / link
            row["page"] = Text(link.as_posix(), f"link {page.resolve().as_uri()}") if page.exists() else ""
        self.console.print(self.table(best="best accuracy", page="report"))
        for line in lines:
            self.say(line)
