"""How fast it is: what `invoke bench` measures, the marks, and where the results lie. Nothing here imports Keras.

The measuring itself stands in tests/measurements.py, which is started anew for each name.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from lib import data, project


class Measurement(NamedTuple):
    """What a measured ratio is about, what is divided by what, and the mark it should reach: (comparison, number)."""

    title: str
    ratio: str
    mark: tuple = ()


AT_LEAST, AT_MOST = "at least", "at most"
MEASUREMENTS = {
    "frozen_phase": Measurement("Frozen phase, 20 epochs", "`fit` through the frozen trunk ÷ once into the cache, "
                                "then the head alone", (AT_LEAST, 12)),
    "fine_tune": Measurement("Fine-tuning 54 layers of MobileNetV2", "`fit` of the whole model ÷ frozen start cached, "
                             "then the rest", (AT_LEAST, 1.5)),
    "data_load": Measurement("Loading CIFAR-10 again", "Keras parses the files ÷ ours maps its cache", (AT_LEAST, 10)),
    "bfloat16": Measurement("Training in bfloat16", "float32 ÷ bfloat16, one step of each network"),
    "determinism": Measurement("Deterministic training", "one step with deterministic operations ÷ without"),
    "xla": Measurement("Compiling with XLA", "one step compiled by XLA ÷ as TensorFlow's graph"),
    "pipeline_overhead": Measurement("A notebook in the pipeline", "`invoke run-all` of one notebook ÷ its cells as a "
                                     "plain script", (AT_MOST, 1.1)),
    "limit": Measurement("Share of the machine's limit", "FLOP/s in training, median of all models ÷ in a large matrix "
                         "product"),
    "growth": Measurement("Growth with the data", "seconds per image of 50,000 ÷ of 1,000"),
    "prediction": Measurement("Predicting one image", "`model.predict` ÷ compiled call"),
}  # fmt: skip
NEED_CIFAR10 = ("data_load",)  # the others take the embedded digits, or noise
MEASURE = project.ROOT / "tests" / "measurements.py"


def names(only=None):
    """Return the names of all measurements, or of those in a text like data_load,prediction.

    Raises StudyError for one that there is not.
    """
    chosen = list(MEASUREMENTS) if only is None else [name.strip() for name in only.split(",")]
    unknown = [name for name in chosen if name not in MEASUREMENTS]
    if unknown:
        there = ", ".join(MEASUREMENTS)
        raise project.StudyError(f"there is no measurement {', '.join(unknown)}: choose from {there}")
    return chosen


def path(profile):
    """Return where the results of a profile lie; raises StudyError where there is no such profile."""
    known = sorted([*project.profiles(), "reference"])
    if profile not in known:
        raise project.StudyError(f"there is no profile {profile}: choose one of {', '.join(known)}")
    return project.REPORTS / profile / "bench.json"


def read(profile):
    """Return a profile's results {name: {"median_ratio", "low", "high", "repeats", …}}, empty if there are none.

    Those of measurements that there are no more are left out. Raises StudyError where the file is damaged.
    """
    file = project.REPORTS / profile / "bench.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        results = {name: dict(found[name]) for name in MEASUREMENTS if name in found}
        if all({"median_ratio", "low", "high", "repeats", "created"} <= result.keys() for result in results.values()):
            return results
    except (ValueError, TypeError):
        pass
    raise project.StudyError(f"{file} is damaged: delete it and run `invoke bench` again")


def run(profile, chosen, say):
    """Measure what is chosen, one after another; each result is kept as soon as it is there.

    Returns ({name: result}, names of what failed).
    """
    file, measured, failed = path(profile), {}, []
    read(profile)  # which complains before minutes are spent
    with tempfile.TemporaryDirectory(prefix=f"{project.SCRATCH}{os.getpid()}-", ignore_cleanup_errors=True) as scratch:
        for name in chosen:
            if name in NEED_CIFAR10 and not data.find_cifar():
                say(f"{name}: left out, CIFAR-10 is not in {data.keras_home() / 'datasets'}")
                continue
            say(f"{name}: {MEASUREMENTS[name].title} …")
            start = time.monotonic()
            try:
                result = fresh(name, STUDY_CACHE=scratch, STUDY_REPORTS=scratch)
            except project.StudyError as error:
                failed.append(name)
                say(f"{name}: failed: {error}")
                continue
            measured[name] = result = judged(name, result) | {"took_seconds": round(time.monotonic() - start, 1)}
            found = read(profile) | {name: result}
            results = {known: found[known] for known in MEASUREMENTS if known in found}
            project.atomic_write(file, json.dumps(results, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
            say(f"{name}: {one_line(result)} in {result['took_seconds']:.0f} s")
    return measured, failed


def judged(name, result):
    """Return a result with what its ratio is of, its mark, and whether it is reached (None where there is none)."""
    about, ratio = MEASUREMENTS[name], result["median_ratio"]
    reached = None
    if about.mark:
        comparison, number = about.mark
        reached = ratio >= number if comparison == AT_LEAST else ratio <= number
    return {"ratio": about.ratio, **result, "mark": " ".join(map(str, about.mark)) or None, "reached": reached}


def fresh(function, *arguments, **variables):
    """Return what a function of tests/measurements.py returns in a new process; for the rest see `call`."""
    return json.loads(call([sys.executable, MEASURE, function, *map(json.dumps, arguments)], project.ROOT, **variables))


def call(command, cwd, **variables):
    """Run a command to its end in a folder, with more environment variables, and return what it printed.

    Raises StudyError with the last line of what went wrong. At Ctrl-C what was started is ended.
    """
    environment = os.environ | {"PYTHONPATH": project.search_path()} | variables
    with subprocess.Popen(command, cwd=cwd, env=environment, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
        try:
            out, err = process.communicate()
        except BaseException:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    if process.returncode:
        raise project.StudyError((err.strip().splitlines() or [f"it ended with code {process.returncode}"])[-1])
    return out


def summary(pairs):
    """Return median, range and number of the ratios first/second of pairs (repeats, 2) of seconds."""
    ratios = sorted(first / second for first, second in pairs)
    return {"median_ratio": round(statistics.median(ratios), 4), "low": round(ratios[0], 4),
            "high": round(ratios[-1], 4), "repeats": len(ratios),
            "median_seconds": [float(f"{statistics.median(side):.4g}") for side in zip(*pairs, strict=True)]}


def in_turn(first, second, repeats):
    """Return `repeats` pairs of what two functions return, called in turn: what slows the machine meets both."""
    pairs = []
    for repeat in range(repeats):
        if repeat % 2:
            later, earlier = second(), first()
        else:
            earlier, later = first(), second()
        pairs.append((earlier, later))
    return pairs


def exponent(sizes, values):
    """Return the slope of values (n,) over sizes (n,), both as logarithms: 1 is growth in proportion, 2 quadratic."""
    import numpy as np

    return round(float(np.polyfit(np.log(sizes), np.log(values), 1)[0]), 3)


COLUMNS = ("measured", "ratio of", "median", "range", "repeats", "mark")


def rows(results, chosen):
    """Return the cells of a table, of the columns COLUMNS, with a row for each name, blank where it has no result."""
    return [[MEASUREMENTS[name].title, MEASUREMENTS[name].ratio, *_cells(results.get(name))] for name in chosen]


def _cells(result):
    if result is None:
        return [""] * 4
    median, low, high = (number(result[key]) for key in ("median_ratio", "low", "high"))
    return [median, f"{low}–{high}", str(result["repeats"]), verdict(result)]


def number(value):
    """Return a ratio with the digits it deserves: 0.412, 1.08, 14.3, 152."""
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 1 else 3}f}"


def verdict(result):
    """Return a result's mark and whether it is reached, in words; empty where it has none."""
    if not result.get("mark"):
        return ""
    median, mark = result["median_ratio"], float(result["mark"].split()[-1])
    by_a_hair = not result["reached"] and number(median) == number(mark)  # it takes one digit more to see that
    return f"{result['mark']}: {'reached' if result['reached'] else 'missed'}{f', {median:.4g}' if by_a_hair else ''}"


def one_line(result):
    """Return a result in half a line."""
    words = f"{number(result['median_ratio'])} [{number(result['low'])}–{number(result['high'])}]"
    return ", ".join(filter(None, (words, verdict(result))))


def markdown(columns, lines):
    """Return a Markdown table."""
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in (columns, ["---"] * len(columns), *lines))
