"""Runs the notebooks whose inputs have changed: Dask hands them to worker processes, papermill executes them there."""

import contextlib
import graphlib
import hashlib
import io
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from modulefinder import ModuleFinder
from multiprocessing import resource_tracker
from pathlib import Path

from lib import data, folders, parameters, project, records, site

_kernels, _stopped = {}, set()  # in a worker process: the kernels of each run, and the runs that were interrupted


def _state(paths):
    """Return a short hash of what files hold."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(paths))).hexdigest()[:12]


LOADED = _state(Path(__file__).parent.glob("*.py"))  # a worker process may have been started before a change


def reads_records(path):
    """Return whether the records of the other notebooks are an input of this one."""
    return project.notebook(path)["metadata"].get("study", {}).get("reads_records", False)


def reads(path):
    """Return {notebook: [experiment]}: the records of other notebooks that this one shows beside its own."""
    return project.notebook(path)["metadata"].get("study", {}).get("reads", {})


def trains(path):
    """Return whether a notebook has experiments that another seed would change."""
    return {"profile", "seed", "retrain"} <= parameters.defaults(path).keys()


def run(profile, line, paths, show, force=False, retrain=False, jobs=None, scheduler=None, dataset=None, seeds=1):
    """Run the notebooks at `paths` that have changed, or with `force` all of them, and draw their pages.

    What they have trained is kept where nothing that decides it has changed, unless they shall `retrain`.

    With a `dataset`, they take that instead of their profile's, and the results go to a folder of its own. Those that
    train run with so many `seeds`: the profile's own, and the numbers after it, each with a folder inside that one.

    What happens is told to `show`, by expect(names), say(text) and update(name, state, section, metric, seconds,
    error). `jobs` notebooks run at a time (default: as many as the profile's threads leave cores for), in worker
    processes of this machine, or of the Dask cluster whose `scheduler` address is given. Raises StudyError where
    another process is running the same profile, or a worker of the cluster could not do the same as this machine.
    """
    folder, client, refused = project.REPORTS / parameters.results(profile, dataset), None, set()
    tasks = _tasks(profile, paths, folder, dataset, seeds)
    waves = _waves(tasks)
    show.expect(task["name"] for task in tasks)
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone(folder))
        _sweep(folder)
        stack.callback(_sweep, folder)
        _describe(profile, line, folder, dataset, tasks)
        show.say(line)
        stop, news = threading.Event(), threading.Event()

        def interrupt(*_):  # an exception raised here could get lost in a callback of Dask's
            stop.set()
            news.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, interrupt))
        for place, wave in enumerate(waves):
            changed = []
            for task in wave:
                task["digest"], marker = digest(task), records.peek(task["marker"])
                if not force and _whole(task, marker):
                    show.update(task["name"], state="kept", seconds=marker["seconds"])
                    continue
                if retrain and "retrain" in task["parameters"]:
                    task["parameters"]["retrain"] = True
                changed.append(task)
            if changed:
                widest = max(map(len, [changed, *waves[place + 1 :]]))
                client = client or _connect(stack, scheduler, jobs, changed, widest, folder)
                _run_wave(client, changed, show, stop, news, refused)


def _tasks(profile, paths, folder, dataset, seeds):
    """Return what a worker has to know of each notebook at `paths`, and of each seed of those that train."""
    run_id, tasks = uuid.uuid4().hex, []
    for path in paths:
        task = {"name": path.stem, "path": path, "parameters": parameters.read(profile, path, dataset),
                "folder": folder, "marker": folder / "runs" / f"{path.stem}.json", "root": project.ROOT,
                "reports": project.REPORTS, "cache": project.CACHE, "run": run_id}  # fmt: skip
        others = range(1, seeds) if trains(path) else ()
        tasks += [task, *(_seeded(task, task["parameters"]["seed"] + more) for more in others)]
    return tasks


def _describe(profile, line, folder, dataset, tasks):
    """Write what a run is of into its folder and those of its seeds; StudyError where that holds another data set."""
    before = records.peek(folder / "run.json")
    if dataset and (before.get("dataset") or dataset) != dataset:
        what = f"{folder} holds results of {before['dataset']}"
        raise project.StudyError(f"{what}: rename it, or the folder of images")
    if before.get("line") != line:
        options = f"--profile {profile}" + (f" --dataset {shlex.quote(dataset)}" if dataset else "")
        on = dataset or parameters.parse(project.PARAMETERS / profile / "common.yaml").get("dataset")
        on = on if on is None or on in data.NAMES else str(folders.path_of(on))  # as its pages have it
        _write(folder / "run.json", profile=profile, dataset=on, options=options, line=line)
    for task in (task for task in tasks if "own" in task):
        own = {"line": f"{line}, seed {task['parameters']['seed']}"}
        if records.peek(task["folder"] / "run.json").get("line") != own["line"]:
            _write(task["folder"] / "run.json", **records.peek(folder / "run.json") | own)


def _waves(tasks):
    """Return tasks in lists, each of those that read only records which earlier lists write."""
    paths = {task["path"].stem: task["path"] for task in tasks}
    writing = [name for name, path in paths.items() if not reads_records(path)]
    order = graphlib.TopologicalSorter({name: writing if reads_records(path) else reads(path).keys() & paths.keys()
                                        for name, path in paths.items()})
    try:
        order.prepare()
    except graphlib.CycleError as error:
        text = f"the notebooks {', '.join(error.args[1][1:])} read each other's records: mend `reads` in their metadata"
        raise project.StudyError(text) from None
    waves = []
    while names := order.get_ready():
        waves.append([task for task in tasks if task["path"].stem in names])
        order.done(*names)
    return waves


def _whole(task, marker):
    """Whether a notebook has run like this to its end, and all that it made is still there, and its own."""
    made = [Path("notebooks", task["path"].name), *marker.get("made", ())]
    return (marker.get("status") == "done" and marker.get("digest") == task["digest"]
            and all((task["folder"] / path).exists() for path in made)
            and marker.get("keys", {}).items() <= _keys(task).items())


def _keys(task):
    """{path: key} of the records that a notebook has left: another run of it, in JupyterLab, say, leaves others."""
    made = records.made_by(task["path"].stem, task["folder"])
    return {path.relative_to(task["folder"]).as_posix(): records.peek(path).get("key")
            for path in made if path.suffix == ".json"}  # fmt: skip


def _seeded(task, seed):
    """Return the task of the same notebook with another seed, whose results go to seeds/<seed> in the same folder."""
    own, place = task["parameters"], f"seeds/{seed}"
    folder, values = task["folder"] / place, {"seed": seed, "profile": f"{own['profile']}/{place}"}
    return task | {"name": f"{place}/{task['name']}", "parameters": own | values, "folder": folder,
                   "home": task["folder"], "marker": folder / "runs" / f"{task['name']}.json",
                   "own": {name: own[name] for name in values}}


def alone(folder):
    """Return the lock of a run in `folder`, taken: a context. The system lets go of it with this process, dead or not.

    Raises StudyError where another process holds it.
    """
    import filelock

    def sign(descriptor):
        os.ftruncate(descriptor, 0)
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}, since {since}".encode())

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.lock"
    try:
        return filelock.FileLock(path, blocking=False, on_acquired=sign).acquire()
    except filelock.Timeout:
        holder = "another process"
        with contextlib.suppress(OSError):  # Windows lets nobody read what is locked
            holder = path.read_text(encoding="utf-8") or holder
        text = f"{folder} is in use by a run of {holder}: wait for its end, or choose another profile"
        raise project.StudyError(text) from None


def _sweep(folder):
    """Delete what killed processes have left half-written, in this run or before: nothing reads it."""
    project.sweep([Path(root, name) for place in (folder, project.CACHE)  # `rglob` fails where a folder vanishes
                   for root, folders, files in os.walk(place) for name in (*folders, *files)])
    project.sweep(Path(tempfile.gettempdir()).iterdir(), project.SCRATCH)


def digest(task):
    """Return a hash of all that a notebook's result depends on: not Markdown, comments, and that it trains again.

    Nor the seed of a sweep, which its folder names: it has run like the profile's own where the two are equal. Of a
    record that it shows it is the key that counts, not how long the training took.
    """
    values = {name: value for name, value in task["parameters"].items() if name != "retrain"} | task.get("own", {})
    code = [cell["source"] for cell in project.notebook(task["path"])["cells"] if cell["cell_type"] == "code"]
    modules = _library(task["root"], code)
    files = [task["root"] / "requirements.txt", *modules, *(path.with_suffix(".yaml") for path in modules)]
    if reads_records(task["path"]):
        files += sorted(path for part in ("records", "failed") for path in (task["folder"] / part).glob("[!.]*.json"))
        files += [*records.of_seeds(task["folder"]), task["folder"] / records.NEAR_DUPLICATES]
    if values.get("photo"):
        files.append(task["path"].parent / project.expanded(values["photo"]))  # seen from where the kernel works
    shown = [records.peek(task.get("home", task["folder"]) / "records" / f"{name}.json")
             for names in reads(task["path"]).values() for name in names]
    inputs = [code, values, data.stamp(values.get("dataset")), os.environ.get("KERAS_BACKEND"),
              [record.get("key", record) for record in shown],
              [(path.name, project.code_of(path) if path.suffix == ".py" else
                path.read_text(encoding="utf-8", errors="surrogateescape"))  # any bytes: who reads them will tell
               for path in files if path.is_file()]]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _library(root, code):
    """Return the files of the modules of `lib` that code imports, directly or not; it is parsed, not run."""
    finder = ModuleFinder([str(root)])
    try:
        finder.scan_code(compile("\n".join(code), "cells", "exec"), finder.add_module("__main__"))
    except Exception:  # one of IPython's magic commands, or nonsense, which will be seen when it runs
        return sorted((root / "lib").glob("*.py"))
    return sorted(Path(module.__file__) for name, module in finder.modules.items() if name.startswith("lib."))


def _connect(stack, scheduler, jobs, tasks, widest, folder):
    """Return a client of the Dask cluster at an address, or of one that is started here; `stack` closes it.

    `tasks` are those of the first wave; no wave has more than `widest`.
    """
    import dask.system
    from distributed import Client

    if scheduler:
        try:
            client = stack.enter_context(Client(scheduler, timeout=5))
        except (OSError, ValueError, TypeError) as error:  # TypeError: tls:// without certificates
            raise project.StudyError(f"no Dask scheduler answers at {scheduler}: check --scheduler") from error
        if different := _admit(client, tasks[0]["run"], folder, set()):
            raise project.StudyError(different[0])
        if not client.scheduler_info()["workers"]:
            raise project.StudyError("the Dask cluster has no worker: start one or more, then run again")
        return client
    cores = dask.system.CPU_COUNT
    jobs = jobs or max(1, cores // max(task["parameters"].get("threads", 1) or cores for task in tasks))
    prefix = f"{project.SCRATCH}{os.getpid()}-"
    scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True))
    # Dask's own environment allows numerical libraries one thread, but `threads` is the notebook's business.
    # Its watches over itself, 50 and 100 times a second, would take a twentieth of a core from the notebooks.
    dask.config.set({"distributed.nanny.pre-spawn-environ": {}, "distributed.scheduler.allowed-failures": 1,
                     "distributed.admin.tick.interval": "1s", "distributed.worker.profile.enabled": False,
                     "temporary-directory": scratch})  # fmt: skip
    with contextlib.ExitStack() as starting:
        if hasattr(signal, "pthread_sigmask"):  # workers inherit it: Ctrl-C reaches this process alone, which ends them
            resource_tracker.ensure_running()  # as it starts it lets Ctrl-C through again
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            starting.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
        return stack.enter_context(Client(
            n_workers=min(jobs, widest), threads_per_worker=1, resources={tasks[0]["run"]: 1}, memory_limit=None,
            silence_logs="CRITICAL", dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"}))  # any port # fmt: skip


def _admit(client, run_id, folder, refused):
    """Give new workers of a cluster, if they are like this process, the Dask resource that this run's notebooks need.

    Adds the addresses of the others to the set `refused` and returns why, a line each.
    """
    workers = client.scheduler_info()["workers"].items()
    new = {address for address, worker in workers if run_id not in worker["resources"]} - refused
    if not new:
        return []
    packages = re.findall(r"(?m)^([\w.-]+)==", (project.ROOT / "requirements.txt").read_text(encoding="utf-8"))
    token = folder / project.unfinished("shared")
    token.touch()
    try:
        asked = project.ROOT, token, packages
        here, found = _look(*asked), client.run(_look, *asked, workers=list(new), on_error="return")
    finally:
        token.unlink()
    reasons = []
    for address, there in found.items():
        if isinstance(there, Exception):  # it finds no `lib`, or one without this function
            differs = [f"lib fails there ({project.one_line(there)})"]
        else:
            differs = [f"{name} {there[name]} (here {here[name]})" for name in here if there[name] != here[name]]
        if differs:
            mend = "share the project's folder, install requirements.txt there and start the worker again"
            reasons.append(f"the worker {address} differs from this machine: {', '.join(differs[:3])}: {mend}")
            refused.add(address)
    if alike := list(new - refused):
        client.run(_allow, run_id, workers=alike, on_error="ignore")
    return reasons


async def _allow(run_id, dask_worker):
    """In a worker process: announce the resource that a notebook of this run needs, one for each thread."""
    await dask_worker.set_resources(**{run_id: dask_worker.state.nthreads})


def _look(root, token, packages):
    """In a worker process, and here: return what has to be the same there, {name: value}."""
    import importlib.metadata

    def version(package):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return "not installed"

    return {str(token.parent): "present" if token.exists() else "missing", "lib as loaded": LOADED,
            str(root): _state([*root.glob("lib/*.py"), *root.glob("notebooks/*.ipynb")]),
            "Python": ".".join(platform.python_version_tuple()[:2]),
            "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "tensorflow"),
            **{package: version(package) for package in packages}}  # fmt: skip


def _places(client, run_id, reading):
    """Return how many notebooks can run at a time, and the Dask resources of each: one GPU where there are some."""
    workers = [worker for worker in client.scheduler_info()["workers"].values() if run_id in worker["resources"]]
    gpus = 0 if reading else sum(min(worker["nthreads"], worker["resources"].get("GPU", 0)) for worker in workers)
    places = int(gpus) or sum(worker["nthreads"] for worker in workers)
    return places, {run_id: 1} | ({"GPU": 1} if gpus else {})


def _run_wave(client, tasks, show, stop, news, refused):
    """Run notebooks side by side and show what becomes of them; when `stop` is set, end their kernels.

    `news` is set with it, or it would be seen a second later. `refused` are the addresses of workers that have been
    found to differ.
    """
    from distributed import wait

    run_id, warming = tasks[0]["run"], threading.Thread(target=site.warm_up)
    warming.start()
    client.subscribe_topic(run_id, lambda event: show.update(event[1]["name"], **event[1]["changes"]))
    waiting, running, reading = tasks[::-1], {}, reads_records(tasks[0]["path"])
    while (waiting or running) and not stop.is_set():
        for reason in _admit(client, run_id, tasks[0]["folder"], refused):
            show.say(reason)
        # One notebook for each free thread: Dask blames a worker's death on all that waits for it, too.
        places, resources = _places(client, run_id, reading)
        while waiting and len(running) < max(1, places):
            task = waiting.pop() | {"started": time.monotonic()}
            key = f"{task['name']}-{run_id}"
            future = client.submit(execute, task, key=key, pure=False, resources=resources)
            future.add_done_callback(lambda _: news.set())
            running[future] = task
        news.wait(1)  # as often, new workers are looked for
        news.clear()  # before looking what has ended, or the next end could go unheard
        for future in [future for future in running if future.done()]:
            task, died = running.pop(future), "its worker process died: see that there is enough memory, then run again"
            marker = future.result() if future.status == "finished" else _finish(task, died)
            show.update(task["name"], state=marker["status"], seconds=marker["seconds"], error=marker["error"])
            warming.join()  # its exporter serves one thread at a time
            with contextlib.suppress(Exception):  # must not end what still runs; the last render() raises it again
                site.render_page(task["folder"].relative_to(task["reports"]).as_posix(), task["path"].stem)
    if stop.is_set():
        with contextlib.suppress(OSError):  # workers that do not answer are gone, or will be when the cluster closes
            client.run(_stop, run_id)
            wait(list(running), timeout=2)
        raise KeyboardInterrupt


def _stop(run_id):
    """In a worker process: end the kernels of a run and begin no others."""
    _stopped.add(run_id)
    for kernel in _kernels.get(run_id, ()):
        if kernel.has_kernel and kernel.provisioner.process:
            kernel.provisioner.process.kill()


def execute(task):
    """In a worker process: run one notebook, keep it as executed, and return its marker; never raises."""
    marker, error = records.peek(task["marker"]), None
    if task["run"] in _stopped or marker.get("run") == task["run"]:  # or: its first worker died after finishing it
        return marker
    task, messages = task | {"started": time.monotonic()}, _Messages(task)
    try:
        task["marker"].unlink(missing_ok=True)  # of an earlier run, whose results this one replaces bit by bit
        import dask
        import papermill

        papermill.log.logger.setLevel("CRITICAL")  # what it has to say comes back as an exception
        with tempfile.TemporaryDirectory(prefix="study-", dir=dask.config.get("temporary-directory", None)) as folder:
            output = Path(folder) / "executed.ipynb"
            try:
                papermill.execute_notebook(
                    task["path"], output, task["parameters"], kernel_name="python3", language="python",
                    progress_bar=False, coalesce_streams=True, stdout_file=messages, on_cell_start=messages.cell,
                    kernel_manager_class=_kernel_manager(task, folder),
                    shutdown_kernel="immediate",  # what it made is written; TensorFlow takes seconds to leave
                    resources={"metadata": {"path": str(task["path"].parent)}})  # where the kernel works # fmt: skip
            finally:
                if task["run"] not in _stopped:
                    _keep(output, task["folder"] / "notebooks" / task["path"].name)
    except Exception as failure:  # whatever it is, the other notebooks go on
        error = _explain(failure)
    return _finish(task, error)


def _keep(executed, path):
    """Write the notebook that was executed to its place, if it is there and whole: a full disk cuts it short."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        notebook = json.loads(executed.read_bytes())
        notebook["metadata"].pop("papermill", None)  # it names folders of this machine
        project.atomic_write(path, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def _kernel_manager(task, folder):
    """Return a class of kernels that run this Python, whatever kernels are installed, on sockets of their own."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    sparing = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # kernels share a GPU
    environment = {name: os.environ.get(name, value) for name, value in sparing.items()}
    environment |= {"PYTHONPATH": project.search_path(task["root"]), "STUDY_REPORTS": str(task["reports"]),
                    "STUDY_CACHE": str(task["cache"])}  # fmt: skip

    class Kernel(AsyncKernelManager):
        kernel_spec = KernelSpec(**get_kernel_dict(["--IPKernelApp.log_level=40"]), env=environment)

        def __init__(self, **settings):
            if task["run"] in _stopped:
                raise InterruptedError
            transport = "tcp" if os.name == "nt" or len(folder) > 80 else "ipc"  # the path of a socket must be short
            super().__init__(connection_file=f"{folder}/kernel.json", transport=transport, **settings)
            _kernels.setdefault(task["run"], []).append(self)

        async def start_kernel(self, **settings):
            # A kernel whose worker has died may log its own end; what a notebook writes goes another way.
            await super().start_kernel(stderr=subprocess.DEVNULL, **settings)

    return Kernel


class _Messages(io.TextIOBase):
    """Tells the main process a notebook's section and last metric; to papermill it is a file that gets the stdout."""

    def __init__(self, task):
        from distributed import get_worker

        self.task, self.worker = task, get_worker()
        self.send(state="running")

    def send(self, **changes):
        self.worker.log_event(self.task["run"], {"name": self.task["name"], "changes": changes})

    def cell(self, cell, cell_index):
        if self.task["run"] in _stopped:
            raise InterruptedError
        if cell["cell_type"] == "markdown" and (headings := re.findall(r"(?m)^## +(.+)", cell["source"])):
            self.send(section=headings[-1])

    def write(self, text):
        if metrics := [line.strip() for line in re.split(r"[\r\n]", text) if "accuracy" in line]:
            self.send(metric=metrics[-1])


def _explain(error):
    """Return what went wrong in one line that says what to do."""
    kind, text = getattr(error, "ename", type(error).__name__), str(getattr(error, "evalue", error)).strip()
    if kind == "DeadKernelError":
        return "its kernel died, mostly for want of memory: close other programs, or lower batch_size or --jobs"
    if "[Errno 28]" in text:
        return "no space left on device: free some, then run the same command again"
    return f"{kind}: {text.splitlines()[0] if text else 'no message'}"


def _finish(task, error):
    """Write and return the marker of a notebook that has run."""
    marker = {"notebook": task["path"].stem, "status": "failed" if error else "done", "digest": task["digest"],
              "seconds": round(time.monotonic() - task["started"], 1), "error": error,
              "parameters": task["parameters"], "run": task["run"],
              "made": [path.relative_to(task["folder"]).as_posix()
                       for path in records.made_by(task["path"].stem, task["folder"])],
              "keys": _keys(task)}  # fmt: skip
    try:
        if task["run"] not in _stopped:
            _write(task["marker"], **marker)
    except OSError as failure:
        marker |= {"status": "failed", "error": error or _explain(failure)}
    return marker


def _write(path, **content):
    created = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    project.atomic_write(path, json.dumps(content | {"created": created}, indent=1) + "\n")
