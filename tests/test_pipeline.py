"""Runs of toy studies: real commands, worker processes, kernels and signals."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from lib import data, parameters, pipeline, project, records

import nbformat
import pytest
import toy

ENDLESS = toy.TRAIN + """
import time
while True:
    print("epoch  1/9 · val accuracy 12.0 %", end="\\r", flush=True)
    time.sleep(0.1)"""
HELD = toy.TRAIN + """
import time
if not (held := pathlib.Path("held")).exists():
    with project.replacing(folder / "half.json") as temporary:
        temporary.write_text("{")
        held.touch()
        time.sleep(600)"""
EXPERIMENTS = """import pathlib, time
from lib import data, runtime, training
import keras
study, images = runtime.start(NAME, profile, seed), data.load_dataset("digits", 100, 50)

def begin(epoch, logs=None):
    print(f"{name} begins epoch {epoch}")
    held = pathlib.Path(f"{name} is held")
    if epoch == 1 and name != "A" and not held.exists():
        held.touch()
        time.sleep(600)

for name in "ABC":
    flat = keras.layers.Flatten()(inputs := keras.Input(images.image_shape))
    model = keras.Model(inputs, keras.layers.Dense(10, "softmax")(flat))
    watch = keras.callbacks.LambdaCallback(on_epoch_begin=begin)
    training.experiment(study, name, model, images, training.Recipe(epochs=2), [watch])"""


@pytest.fixture
def study(tmp_path):
    """A toy study that trains in one notebook and compares in another."""
    study = toy.Study(tmp_path)
    study.notebook("02_two")
    study.notebook("12_last", toy.READ, reads_records=True)
    return study


def ran(out):
    """Return the notebooks that a run has started, from its plain lines."""
    return sorted(line.split(":")[0] for line in out.splitlines() if line.endswith(": running"))


def test_what_has_not_changed_is_kept_and_what_failed_is_tried_again(study):
    """A cell that raises, a kernel that dies or a worker that is killed does not stop the other notebooks."""
    study.notebook("01_one")
    study.notebook("03_raises", "raise ValueError('no such\\nthing')")
    study.notebook("04_dies", "import os; os._exit(1)")
    study.notebook("05_worker", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
    code, out, err = study.invoke("run-all", "--profile", "smoke")
    assert (code, err) == (1, "")
    assert out.startswith("profile smoke on the embedded digits (as asked for)\n")
    assert "02_two: section Training" in out
    assert "02_two: epoch  1/1 · val accuracy 61.2 %" in out
    assert re.search(r"^02_two +done +0:0\d:\d\d +50.0% +site/02_two.html *$", out, re.MULTILINE)
    assert "03_raises failed: ValueError: no such\n" in out, out
    assert "04_dies failed: its kernel died" in out
    assert "05_worker failed: its worker process died" in out
    assert out.splitlines()[-1] == f"open {study.root}/reports/smoke/site/index.html"
    assert [study.marker(name)["status"] for name in ("01_one", "02_two", "12_last")] == ["done"] * 3
    assert [study.marker(name)["status"] for name in ("03_raises", "04_dies", "05_worker")] == ["failed"] * 3
    assert study.marker("02_two")["parameters"] == {"profile": "smoke", "seed": 0, "epochs": 1, "rate": 0.5}
    assert executed(study, "03_raises").outputs[0].ename == "ValueError"
    site = study.root / "reports" / "smoke" / "site"
    for name, seen in (("03_raises", "ValueError"), ("04_dies", "its kernel died")):  # linked, and shown where they end
        assert re.search(rf"^{name} +failed +0:0\d:\d\d +site/{name}.html *$", out, re.MULTILINE)
        assert f'href="{name}.html#failed"' in (site / "index.html").read_text()
        assert seen in (site / f"{name}.html").read_text().partition('id="failed"')[2]
    assert "['01_one.json', '02_two.json']" in executed(study, "12_last").outputs[0].text

    for name in ("04_dies", "05_worker"):
        (study.root / "notebooks" / f"{name}.ipynb").unlink()
    study.parameters("02_two", "rate: 0.75\n")
    code, out, _ = study.invoke("run-all", "--profile", "smoke")
    assert (code, ran(out)) == (1, ["02_two", "03_raises", "12_last"])
    assert "01_one: kept" in out
    assert "75.0%" in out


def test_what_was_deleted_is_made_again(study):
    """As our messages ask for where something is damaged."""
    study.notebook("01_one")
    study.invoke("run-all", "--profile", "smoke")
    for path in ("records/02_two.json", "notebooks/02_two.ipynb"):
        (study.root / "reports" / "smoke" / path).unlink()
        code, out, _ = study.invoke("run-all", "--profile", "smoke")
        assert (code, ran(out)) == (0, ["02_two"])
        assert (study.root / "reports" / "smoke" / path).exists()


def test_a_record_of_another_run_is_made_again(study):
    """In JupyterLab the same notebook, with other parameters, writes to the same place."""
    study.notebook("02_two", toy.TRAIN.replace('{"schema"', '{"key": str(rate), "schema"'))
    study.invoke("run-all", "--profile", "smoke")
    path = study.root / "reports" / "smoke" / "records" / "02_two.json"
    whole = path.read_text()
    assert ran(study.invoke("run-all", "--profile", "smoke")[1]) == []
    path.write_text(whole.replace('"key": "0.5"', '"key": "0.75"'))
    assert "02_two" in ran(study.invoke("run-all", "--profile", "smoke")[1])
    assert path.read_text() == whole


def test_a_notebook_that_shows_a_record_waits_for_it_and_for_no_other(study):
    """Also where there is a worker to spare; it runs again when that record changes."""
    study.notebook("01_one", toy.READ, reads={"02_two": ["02_two"]})
    study.notebook("03_three")
    code, out, _ = study.invoke("run-all", "--profile", "smoke", "--jobs", "2")
    assert code == 0, out
    assert "'02_two.json'" in executed(study, "01_one").outputs[0].text
    for changed, again in (("03_three", ["03_three", "12_last"]), ("02_two", ["01_one", "02_two", "12_last"])):
        study.parameters(changed, "rate: 0.75\n")
        assert ran(study.invoke("run-all", "--profile", "smoke")[1]) == again


def test_notebooks_that_wait_for_each_other_are_named(study):
    study.notebook("01_one", toy.READ, reads={"02_two": ["02_two"]})
    study.notebook("02_two", toy.TRAIN, reads={"01_one": ["01_one"]})
    code, _, err = study.invoke("run-all", "--profile", "smoke")
    assert code == 2
    assert re.fullmatch(r"error: the notebooks 0\d_\w+, 0\d_\w+ read each other's records: mend `reads` .*\n", err)


def test_relative_folders_count_from_where_the_command_runs(study):
    """Not from where notebooks work. A variable that is empty names none."""
    code, out, _ = study.invoke("run-all", "--profile", "smoke", STUDY_REPORTS="out", STUDY_CACHE="")
    assert (code, "50.0%" in out) == (0, True)
    assert (study.root / "out" / "smoke" / "records" / "02_two.json").exists()
    assert not (study.root / "notebooks" / "out").exists()
    assert study.invoke("clean", "--cache", STUDY_CACHE="")[0] == 0
    assert (study.root / "tasks.py").exists()


def test_a_deep_temporary_folder_is_no_obstacle(study, tmp_path):
    """A socket's path may have about a hundred characters."""
    deep = tmp_path.joinpath(*["folder"] * 14)
    deep.mkdir(parents=True)
    code, out, err = study.invoke("run", "02_two", "--profile", "smoke", TMPDIR=str(deep))
    assert (code, err) == (0, ""), out
    assert study.marker("02_two")["status"] == "done"


def executed(study, name):
    """Return the last cell of a notebook as a run left it."""
    return nbformat.read(study.root / "reports" / "smoke" / "notebooks" / f"{name}.ipynb", 4).cells[-1]


def alive(mark):
    """Return {id: command line} of the processes that were started with STUDY_MARK=mark, of ended sessions too."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"STUDY_MARK={mark}".encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")


@needs_proc
def test_ctrl_c_leaves_no_process_and_no_half_written_file(study, tmp_path_factory):
    """It reaches the whole process group; finished notebooks are kept."""
    temporary = tmp_path_factory.mktemp("temporary")
    study.notebook("03_endless", ENDLESS)
    variables = {"STUDY_MARK": str(study.root), "TMPDIR": str(temporary)}
    process = study.start("run-all", "--profile", "smoke", "--jobs", "1", **variables)
    try:
        # the toy prints 1/1 before it has written its record
        seen = next(line for line in process.stdout if line.startswith("03_endless: epoch  1/9"))
        assert len(alive(study.root)) >= 3, seen  # the command, a worker, a kernel
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err == "interrupted: finished notebooks are kept; run the same command again to go on\n"
    assert "12_last" not in out
    assert alive(study.root) == {}
    assert study.marker("02_two")["status"] == "done"
    assert [path.parent.name for path in study.root.glob("reports/smoke/*/03_endless*")] == ["records"]
    assert not list(study.root.glob("reports/**/.*"))
    assert list(temporary.iterdir()) == []


def test_what_was_broken_off_is_not_taken_for_the_run_before_it(study):
    """Its record is already the new one when the parameter is put back."""
    slow = toy.TRAIN + "\nimport time\ntime.sleep(600 * (rate == 0.75))"
    study.notebook("02_two", slow)
    record = study.root / "reports" / "smoke" / "records" / "02_two.json"
    study.invoke("run-all", "--profile", "smoke")
    before = record.read_text()
    study.parameters("02_two", "rate: 0.75\n")
    process = study.start("run-all", "--profile", "smoke")
    try:
        wait_for(lambda: record.read_text() not in ("", before))
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=300)[1].startswith("interrupted: ")
    finally:
        process.kill()
    study.parameters("02_two", "")
    code, out, _ = study.invoke("run-all", "--profile", "smoke")
    assert (code, ran(out)) == (0, ["02_two"])
    assert record.read_text() == before


def wait_for(condition, seconds=300):
    """Return the first true value of a condition."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it has not come about"
        time.sleep(0.05)
    return value


def kill(study, *victims, **variables):
    """Run all, SIGKILL each (victim, once this path is there) in turn, and return what was said and the exit code."""
    process = study.start("run-all", "--profile", "smoke", "--jobs", "1", STUDY_MARK=str(study.root), **variables)
    try:
        for victim, path in victims:
            wait_for(path.exists)
            word = {"kernel": "ipykernel", "worker": "spawn_main", "command": "invoke"}[victim]
            [number] = [number for number, line in alive(study.root).items() if word in line]
            os.kill(number, signal.SIGKILL)
        out, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    wait_for(lambda: not alive(study.root))
    return out, process.returncode


@needs_proc
@pytest.mark.parametrize(("victim", "code", "next_run"), [
    ("kernel", 1, ["03_held"]), ("worker", 0, []), ("command", -signal.SIGKILL, ["03_held", "12_last"])])  # fmt: skip
def test_a_kill_in_the_middle_of_a_write_costs_that_notebook_only(study, tmp_path_factory, victim, code, next_run):
    """Nothing reads what is half-written or leaves it there. After a worker's death a second one tries once more."""
    study.notebook("03_held", HELD)
    folder, temporary = study.root / "reports" / "smoke", tmp_path_factory.mktemp("temporary")
    held = study.root / "notebooks" / "held"
    out, code_of_first = kill(study, (victim, held), TMPDIR=str(temporary))
    assert code_of_first == code
    assert ran(out) == ["02_two", "03_held", *(["03_held"] if victim == "worker" else []),
                        *(["12_last"] if victim != "command" else [])]  # fmt: skip
    if victim == "command":  # which can clean up no more
        assert next(folder.glob("records/.*half.json")).read_text() == "{"
        assert list(temporary.iterdir()) != []
    else:
        assert [*folder.rglob(".*"), *temporary.iterdir()] == []
        assert "['02_two.json', '03_held.json']" in executed(study, "12_last").outputs[0].text
    finished = study.marker("02_two")
    code, out, err = study.invoke("run-all", "--profile", "smoke", TMPDIR=str(temporary))
    assert (code, err) == (0, "")
    assert ran(out) == next_run
    assert study.marker("02_two") == finished
    assert "['02_two.json', '03_held.json']" in executed(study, "12_last").outputs[0].text
    assert [*folder.rglob(".*"), *temporary.iterdir()] == []


@needs_proc
def test_after_a_kill_finished_experiments_are_kept_and_the_last_goes_on(study):
    """First the worker dies in the second of three experiments, then the command in the third."""
    study.notebook("03_three", EXPERIMENTS)
    folder, checkpoints = study.root / "reports" / "smoke" / "records", study.root / ".cache" / "checkpoints"
    held = {name: study.root / "notebooks" / f"{name} is held" for name in "BC"}
    _, code = kill(study, ("worker", held["B"]), ("command", held["C"]))
    assert code == -signal.SIGKILL
    kept = {name: (folder / f"{name}.json").read_bytes() for name in "AB"}
    assert json.loads(kept["A"])["created"] < datetime.fromtimestamp(held["B"].stat().st_mtime, UTC).isoformat()
    assert not (folder / "C.json").exists()
    done = study.invoke("run-all", "--profile", "smoke")
    assert done[0] == 0, done
    assert {name: (folder / f"{name}.json").read_bytes() for name in "AB"} == kept
    assert json.loads((folder / "C.json").read_text())["training"]["epochs"] == 2
    said = executed(study, "03_three").outputs[0].text
    assert re.findall("(.) begins epoch (.)", said) == [("C", "1")]
    assert said.count("kept from") == 2
    assert not list(checkpoints.iterdir())


def test_a_second_run_of_a_profile_stops_at_once(study):
    """It names the first one, and neither disturbs it nor another profile; a lock of the dead is no obstacle."""
    study.notebook("03_endless", ENDLESS)
    first = study.start("run-all", "--profile", "smoke", "--only", "03")
    try:
        next(line for line in first.stdout if line.startswith("03_endless: epoch  1/9"))
        code, out, err = study.invoke("run-all", "--profile", "smoke", "--only", "02")
        assert (code, out) == (2, "")
        assert re.fullmatch(rf"error: {study.root}/reports/smoke is in use by a run of process {first.pid} on .+, "
                            r"since [-\d]{10} [:\d]{8} UTC: wait for its end, or choose another profile\n", err)
        done = study.invoke("run-all", "--profile", "quick", "--only", "02")
        assert done[0] == 0, done
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    code, out, _ = study.invoke("run-all", "--profile", "smoke", "--only", "02")
    assert (code, ran(out)) == (0, ["02_two"])


def test_a_sweep_does_not_mind_folders_that_vanish(tmp_path, monkeypatch):
    """Another process deletes what it no longer needs."""
    left = tmp_path / "one" / f"{project.UNFINISHED}99999999-left"
    project.atomic_write(left, "")
    (tmp_path / "two").mkdir()

    def scan(path, scandir=os.scandir):
        if "two" in str(path):
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    monkeypatch.setattr(project, "CACHE", tmp_path)
    pipeline._sweep(tmp_path)
    assert not left.exists()


@needs_proc
def test_a_sweep_takes_a_zombie_for_dead_and_leaves_what_the_living_write(tmp_path):
    """A kernel whose worker was killed stays in the list of processes until the first of them asks after it."""
    with subprocess.Popen(["true"]) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        left, own = (tmp_path / f"{project.UNFINISHED}{number}-left" for number in (zombie.pid, os.getpid()))
        for path in (left, own):
            path.touch()
        project.sweep([left, own])
    assert [path for path in (left, own) if path.exists()] == [own]


@pytest.fixture
def small_disk(tmp_path_factory):
    """A disk of 256 kB."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if not hasattr(os, "geteuid") or os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(study, small_disk):
    """What was there before stays."""
    study.notebook("03_large", "print('123456789\\n' * 30_000)")
    before = small_disk / "smoke" / "notebooks" / "03_large.ipynb"
    before.parent.mkdir(parents=True)
    before.write_text("{}")
    code, out, err = study.invoke("run", "03", "--profile", "smoke", STUDY_REPORTS=str(small_disk))
    assert (code, err) == (1, "")
    assert "03_large failed: no space left on device: free some, then run the same command again" in out
    assert before.read_text() == "{}"
    assert not list(small_disk.glob("**/.*"))


def test_a_full_temporary_disk_is_one_line(study, small_disk):
    """There the notebook grows while it runs."""
    study.notebook("03_large", "print('123456789\\n' * 30_000)")
    code, out, err = study.invoke("run", "03", "--profile", "smoke", TMPDIR=str(small_disk))
    assert (code, err) == (1, "")
    assert "03_large failed: no space left on device: free some, then run the same command again" in out


class Cluster:
    """A Dask scheduler and workers: processes that share the study's folder, each with a working folder of its own."""

    def __init__(self, study, folders):
        self.root, self.folders, self.processes = study.root, folders, []
        self.file = folders.mktemp("cluster") / "scheduler.json"
        self.start("scheduler", "--port", "0")
        written = wait_for(lambda: self.file.exists() and self.file.read_text())  # it exists before it holds anything
        self.address = json.loads(written)["address"]

    def start(self, what, *options, before=(), **variables):
        """Start a process and return it; `before` stands before its command."""
        command = [*before, sys.executable, "-m", f"distributed.cli.dask_{what}", "--host", "127.0.0.1",
                   "--no-dashboard", "--scheduler-file", str(self.file), *options]
        environment = toy.clean_environment() | {"PYTHONPATH": str(self.root)} | variables
        self.processes.append(subprocess.Popen(command, cwd=self.folders.mktemp(what), env=environment,
                                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))  # fmt: skip
        return self.processes[-1]

    def worker(self, *options, **variables):
        """Start a worker and return it once the scheduler knows it."""
        process = self.start("worker", "--no-nanny", *options, **variables)
        self.wait_for_workers(sum(process.poll() is None for process in self.processes) - 1)
        return process

    def wait_for_workers(self, count):
        """Return once there are so many."""
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            wait_for(lambda: len(client.nthreads()) == count)


@pytest.fixture
def cluster(study, tmp_path_factory):
    """A cluster without workers as yet."""
    cluster = Cluster(study, tmp_path_factory)
    yield cluster
    for process in cluster.processes:
        process.kill()
        process.wait()


def test_a_cluster_finds_gpus_by_their_resource(study, cluster):
    """For what trains; two at a time in one worker with two of them."""
    study.notebook("02_two", "import os\nprint(os.environ['PLACE'])")
    study.notebook("03_three", "import os\nprint(os.environ['PLACE'])")
    cluster.worker("--nthreads", "1", PLACE="CPU")
    cluster.worker("--nthreads", "2", "--resources", "GPU=2", PLACE="GPU")
    code, out, err = study.invoke("run-all", "--profile", "smoke", "--scheduler", cluster.address)
    assert (code, err, ran(out)) == (0, "", ["02_two", "03_three", "12_last"])
    assert [executed(study, name).outputs[0].text for name in ("02_two", "03_three")] == ["GPU\n"] * 2


@needs_proc
def test_a_cluster_gives_the_results_of_one_machine_even_if_a_worker_is_killed(study, cluster, tmp_path):
    """The other worker runs its notebook again, and nothing that was finished."""
    study.notebook("03_held", HELD)
    held, finished = study.root / "notebooks" / "held", study.root / "reports" / "smoke" / "runs" / "02_two.json"
    marks = [f"{study.root} {number}" for number in (1, 2)]
    workers = {mark: cluster.worker("--nthreads", "1", STUDY_MARK=mark) for mark in marks}

    def busy():
        return [mark for mark in marks if any("ipykernel" in line for line in alive(mark).values())]

    process = study.start("run-all", "--profile", "smoke", "--scheduler", cluster.address)
    try:
        wait_for(lambda: held.exists() and finished.exists() and len(busy()) == 1)
        before = finished.read_bytes()
        [victim] = busy()
        workers[victim].kill()
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "")
    assert ran(out) == ["02_two", "03_held", "03_held", "12_last"]
    assert finished.read_bytes() == before
    local = study.root / "local"
    assert study.invoke("run-all", "--profile", "smoke", STUDY_REPORTS=str(local))[0] == 0
    wait_for(lambda: not alive(victim))  # a short run may end before the kernel of the killed worker has noticed
    assert ran(study.invoke("run-all", "--profile", "smoke")[1]) == []  # it only deletes what that had half-written
    there, here = ({path.name: path.read_bytes() for path in (folder / "smoke" / "records").iterdir()}
                   for folder in (study.root / "reports", local))
    assert sorted(there) == ["02_two.json", "03_held.json"]
    assert there == here
    assert "['02_two.json', '03_held.json']" in executed(study, "12_last").outputs[0].text


def test_a_cluster_that_would_do_otherwise_is_refused_in_one_line(study, cluster, tmp_path_factory):
    """Before anything runs: no worker, another version of a package or of the code, a folder that is not shared."""
    reports, other = study.root / "reports", tmp_path_factory.mktemp("other")
    reports.mkdir()
    (study.root / "requirements.txt").write_text(f"papermill=={version('papermill')}\n")
    shutil.copytree(study.root / "lib", other / "code" / "lib")
    edited(other / "code" / "lib" / "data.py", "", "x = 1")
    metadata = other / "package" / "papermill-0.1.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: papermill\nVersion: 0.1\n")
    apart = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"', str(reports))
    (other / "older" / "lib").mkdir(parents=True)
    for name in ("__init__", "pipeline"):
        (other / "older" / "lib" / f"{name}.py").touch()
    workers = {"the Dask cluster has no worker": None, "lib as loaded": {"PYTHONPATH": str(other / "code")},
               "lib fails there (": {"PYTHONPATH": str(other / "older")},
               "papermill 0.1 (here ": {"PYTHONPATH": os.pathsep.join([str(other / "package"), str(study.root)])},
               f"{reports / 'smoke'} missing (here present)": {"before": apart}}  # fmt: skip
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        workers.popitem()  # it takes the right to mount
    for says, options in workers.items():
        worker = options and cluster.worker(**options)
        code, out, err = study.invoke("run-all", "--profile", "smoke", "--scheduler", cluster.address)
        assert (code, err.count("\n"), ran(out)) == (2, 1, []), err
        assert says in err, err
        if worker:
            worker.kill()
            cluster.wait_for_workers(0)
    assert not list(reports.rglob("*.ipynb"))


@needs_proc
def test_a_worker_that_joins_a_run_takes_part_if_it_is_like_the_others(study, cluster):
    """Another one gets nothing to do, and is named once."""
    where = "import os, pathlib, time\nprint(os.environ['PLACE'])\n"
    study.notebook("02_two", where + "while not pathlib.Path('go').exists(): time.sleep(0.1)")
    study.notebook("03_three", where)
    cluster.worker("--nthreads", "1", PLACE="first")
    process = study.start("run-all", "--profile", "smoke", "--scheduler", cluster.address)
    try:
        next(line for line in process.stdout if line == "02_two: running\n")
        cluster.worker("--nthreads", "1", PLACE="odd", KERAS_BACKEND="odd")
        odd = next(line for line in process.stdout if "differs" in line)
        assert re.match(r"the worker tcp://\S+ differs from this machine: KERAS_BACKEND odd \(here \S+\): .+", odd)
        cluster.worker("--nthreads", "1", PLACE="second")
        wait_for((study.root / "reports" / "smoke" / "runs" / "03_three.json").exists)
        (study.root / "notebooks" / "go").touch()
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert (process.returncode, err, "differs" in out) == (0, "", False)
    assert [executed(study, name).outputs[0].text for name in ("02_two", "03_three")] == ["first\n", "second\n"]


def test_a_sweep_runs_every_seed_once(study, monkeypatch):
    """In folders of their own; what failed, or ran before its notebook changed, is not compared with new results."""
    study.notebook("02_two", toy.TRAIN + "\nassert seed != 2", "retrain = False\n")
    monkeypatch.setattr(project, "REPORTS", study.root / "reports")
    code, out, err = study.invoke("sweep", "--seeds", "2", "--only", "02", "--profile", "smoke")
    assert (code, err, ran(out)) == (0, "", ["02_two", "12_last", "seeds/1/02_two"])
    assert re.search(r"^seeds/1/02_two +done .* 50.0% +seeds/1/site/02_two.html *$", out, re.MULTILINE)
    assert study.marker("02_two", "smoke/seeds/1")["parameters"]["seed"] == 1
    assert "profile smoke on the embedded digits (as asked for), seed 1" in (
        study.root / "reports" / "smoke" / "seeds" / "1" / "site" / "index.html").read_text()

    code, out, _ = study.invoke("sweep", "--seeds", "4", "--profile", "smoke", "--jobs", "2")
    assert (code, ran(out)) == (1, ["12_last", "seeds/2/02_two", "seeds/3/02_two"])
    assert "seeds/2/02_two failed: AssertionError" in out
    found = records.over_seeds("smoke")["02_two"]
    assert [(record["seed"], record["profile"]) for record in found] == [
        (0, "smoke"), (1, "smoke/seeds/1"), (3, "smoke/seeds/3")]

    study.parameters("02_two", "rate: 0.75\n")
    assert ran(study.invoke("run-all", "--profile", "smoke")[1]) == ["02_two", "12_last"]
    assert records.over_seeds("smoke") == {}


def edited(path, old, new):
    """Replace text in a file, at the end if `old` is empty."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new) if old else text + new)


@pytest.fixture
def digests(study, monkeypatch, tmp_path):
    """A function that returns the digests of three notebooks: 01 reads CIFAR-10 and shows A2, 02 digits, 12 all."""
    modules = {"deep": "x = 1  # why\n", "middle": "def f():\n    from lib import deep\n", "unused": ""}
    for name, text in modules.items():
        (study.root / "lib" / f"{name}.py").write_text(text)
    (study.root / "lib" / "deep.yaml").write_text("x: 1\n")  # what a module reads lies beside it
    imports = "import numpy\nfrom lib.middle import (\n    f,\n)"
    study.notebook("01_one", imports, 'dataset = "cifar10"\nretrain = False', reads={"02_two": ["A2"]})
    study.notebook("02_two", parameters='dataset = "digits"\nphoto = "../cat.jpg"')
    for name in ("ROOT", "NOTEBOOKS", "PARAMETERS", "REPORTS"):
        monkeypatch.setattr(project, name, study.root / ("" if name == "ROOT" else name.lower()))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for path in (tmp_path / "datasets" / data.ARCHIVES[0], study.root / "reports" / "smoke" / "records" / "A1.json"):
        project.atomic_write(path, "{}")
    project.atomic_write(path.with_name("A2.json"), '{"key": "k", "seconds": 1}')

    def all_of_them():
        tasks = [{"path": path, "parameters": parameters.read("smoke", path), "root": study.root,
                  "folder": study.root / "reports" / "smoke"} for path in (study.root / "notebooks").iterdir()]
        return {task["path"].stem[:2]: pipeline.digest(task) for task in tasks}

    return all_of_them


@pytest.mark.parametrize(("what", "file", "old", "new", "changed"), [
    ("a code cell", "notebooks/01_one.ipynb", "import numpy", "import scipy", "01"),
    ("a default", "notebooks/02_two.ipynb", "rate = 0.5", "rate = 0.6", "02"),
    ("a Markdown cell", "notebooks/01_one.ipynb", "A question.", "Another question.", ""),
    ("an output", "notebooks/01_one.ipynb", '"outputs": []', '"outputs": [{"output_type": "stream"}]', ""),
    ("a parameter file", "parameters/smoke/02_two.yaml", "", "rate: 0.25", "02"),
    ("a comment in it", "parameters/smoke/02_two.yaml", "", "# why", ""),
    ("the default, said again", "parameters/smoke/02_two.yaml", "", "rate: 0.5", ""),
    ("that it trains again", "parameters/smoke/01_one.yaml", "", "retrain: true", ""),
    ("common.yaml", "parameters/smoke/common.yaml", "seed: 0", "seed: 1", "01 02 12"),
    ("what two share", "parameters/smoke/common.yaml", "", "dataset: digits", "01"),
    ("another profile", "parameters/quick/common.yaml", "seed: 0", "seed: 1", ""),
    ("a module that it imports", "lib/middle.py", "import deep", "import data, deep", "01"),
    ("a module behind that", "lib/deep.py", "x = 1", "x = 2", "01"),
    ("a module that two import", "lib/project.py", "", "x = 1", "02 12"),
    ("a module's comment", "lib/deep.py", "why", "because", ""),
    ("a module's data", "lib/deep.yaml", "1", "2", "01"),
    ("a module that none imports", "lib/unused.py", "", "x = 1", ""),
    ("the commands", "tasks.py", "", "x = 1", ""),
    ("the lock file", "requirements.txt", "", "numpy==2", "01 02 12"),
    ("the data's files", f"datasets/{data.ARCHIVES[0]}", "", "{}", "01"),
    ("another picture under a photo's name", "cat.jpg", None, b"\xff\xd8", "02"),
    ("a record", "reports/smoke/records/A1.json", "{}", '{"a": 1}', "12"),
    ("a record that one shows", "reports/smoke/records/A2.json", '"k"', '"l"', "01 12"),
    ("how long its training took", "reports/smoke/records/A2.json", "1", "2", "12"),
    ("another profile's record", "reports/quick/records/A1.json", None, "{}", ""),
    ("a new record", "reports/smoke/records/B1.json", None, "{}", "12"),
    ("a note that a training failed", "reports/smoke/failed/B1.json", None, "{}", "12"),
    ("half a record", "reports/smoke/records/.host-7-B1.json", None, "{", ""),
])  # fmt: skip
def test_what_runs_again_when_something_changes(study, digests, what, file, old, new, changed):
    """Exactly the notebooks whose result depends on it."""
    before, path = digests(), study.root / file
    if old is None:
        project.atomic_write(path, new)
    else:
        edited(path, old, new)
    after = digests()
    assert " ".join(name for name in sorted(before) if after[name] != before[name]) == changed, what


def test_another_seed_has_run_like_the_profiles_own(study, tmp_path):
    """Also where records are shown that other seeds have changed."""
    path = study.notebook("01_one", reads={"02_two": ["A2"]})
    task = {"name": "01_one", "path": path, "parameters": {"seed": 0, "profile": "smoke"}, "folder": tmp_path,
            "root": study.root}  # fmt: skip
    for number, place in enumerate((".", "seeds/1")):
        project.atomic_write(tmp_path / place / "records" / "A2.json", json.dumps({"key": number}))
    assert pipeline.digest(pipeline._seeded(task, 1)) == pipeline.digest(task)


@pytest.mark.parametrize("name", ["records/A1.json", "failed/A1.json", "near_duplicates.json"])
def test_a_damaged_record_is_a_change_and_no_error(study, tmp_path, name):
    """The notebook that reads it names it; the others run."""
    path = study.root / "notebooks" / "12_last.ipynb"
    task = {"path": path, "parameters": {}, "folder": tmp_path, "root": study.root}
    before = pipeline.digest(task)
    project.atomic_write(tmp_path / name, b"\xff\xfe{")
    assert pipeline.digest(task) != before


def test_another_backend_runs_all_again(digests, monkeypatch):
    """Its numbers differ in the last digits."""
    before = digests()
    monkeypatch.setenv("KERAS_BACKEND", "another")
    assert not before.items() & digests().items()


def test_a_magic_command_makes_a_notebook_depend_on_all_of_lib(study, digests):
    """What it imports cannot be told."""
    study.notebook("02_two", "%matplotlib inline")
    before = digests()
    edited(study.root / "lib" / "unused.py", "", "x = 1")
    assert [name for name, digest in digests().items() if digest != before[name]] == ["02"]


@pytest.mark.parametrize("module", ["parameters", "pipeline", "site", "tasks"])
def test_the_command_line_does_not_import_keras(module):
    """Nor what else is slow."""
    name = module if module == "tasks" else f"lib.{module}"
    slow = ["keras", "tensorflow", "papermill", "nbconvert", "nbformat", "distributed", "matplotlib"]
    code = f"import {name}, sys, json; print(json.dumps([m for m in {slow} if m in sys.modules]))"
    out = subprocess.run([sys.executable, "-c", code], cwd=toy.ROOT, capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == []
