"""What `invoke bench` measures: a function for each name, called in a process of its own by `lib.bench.fresh`.

Each returns {"median_ratio", "low", "high", "repeats", …}: seconds of one way over seconds of the other, measured in
turn, and what else its page shows. `python tests/measurements.py prediction` prints one of them as JSON.
"""

import ast
import contextlib
import json
import re
import shutil
import signal
import sys
import tarfile
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

from lib import augmentation, bench, data, decks, models, parameters, project, runtime, training, transfer

import keras
import numpy as np
from keras import layers

REPEATS = 3
BACKBONES = ("MobileNetV2", "VGG16", "ResNet50", "EfficientNetB0", "EfficientNetV2B0")  # at 96 pixels
NETWORKS = {  # how the notebooks build the networks of the decks' rows
    "A1": "simple_cnn()", "D2": "simple_cnn(filters=64, dropout=0.25, greyscale=True)",
    "A2": "plain_cnn((32, 64, 128, 256), 256)", "A3": "plain_cnn((16, 32, 64, 128), 128)",
    "B1": "block_cnn((32, 64, 128))", "B2": "block_cnn((32, 64, 128, 256), l2=1e-4, averaged=True)",
    "C1": "paired_cnn((32, 64, 128), dropout=0.25)", "E2": "vgg()", "E5": "resnet()",
}  # fmt: skip
PRODUCT = 2048  # rows and columns of the large matrices


# -------------------------------------------------------------------------------------------- data, models, clocks


def images(count):
    """Return so many training images of CIFAR-10, or of the embedded digits: a step takes the same time on both."""
    return data.load_dataset("cifar10" if data.find_cifar() else "digits", count)


def noise(count, size=32):
    """Return a Split of random images."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, size, size, 3), np.uint8)
    return data.Split(pixels, generator.integers(0, 10, count), np.arange(count))


def functions(notebook, **known):
    """Return the functions that a notebook defines, by name; what they use of its other cells must be `known`."""
    tree = ast.parse("\n".join(source for source, _ in code_cells(project.NOTEBOOKS / f"{notebook}.ipynb")))
    tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef))]
    exec(compile(tree, notebook, "exec"), known)
    return known


def code_cells(path):
    """Return (source, tags) of each code cell of a notebook."""
    return [(cell["source"], cell["metadata"].get("tags", []))
            for cell in project.notebook(path)["cells"] if cell["cell_type"] == "code"]


def network(name):
    """Return the network of a deck's row as its notebook builds it, for colour images of 32 pixels in ten classes."""
    notebook = decks.load()["experiments"][name]["notebook"]
    return eval(NETWORKS[name], functions(notebook, images=ten_classes()))


def ten_classes():
    """Return a data set in the form of CIFAR-10, with one image in each split."""
    return data.Dataset("noise", tuple("0123456789"), "", "", noise(1), noise(1), noise(1))


def backbone(name, size=96):
    """Return a backbone of random weights for images of 32 pixels, enlarged to `size`, with a head of one layer."""
    trunk, _ = transfer.trunk(name, (32, 32, 3), size, weights="random")
    pooled = layers.GlobalAveragePooling2D()(trunk.output)
    return keras.Model(trunk.input, layers.Dense(10, activation="softmax", dtype="float32")(pooled))


def seconds(function, *arguments):
    """Return how long a call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


class Clock(keras.callbacks.Callback):
    """Measures the epochs of a training, the first with its compilation."""

    def on_train_begin(self, logs=None):
        self.ends = [time.perf_counter()]

    def on_epoch_end(self, epoch, logs=None):
        self.ends.append(time.perf_counter())

    def whole(self, epochs):
        """Return the seconds of that many epochs: of those that were run, and of the others as long as the last."""
        run = np.diff(self.ends)
        return float(run.sum() + (epochs - len(run)) * run[-1])


# ------------------------------------------------------------------------------------------------ transfer learning


def frozen_phase():
    """Phase 1 of notebook 07: a head on a frozen MobileNetV2, which sees every image once or in every epoch."""
    return transfer_pair(training.Recipe(epochs=20), images(2000), until=None, run=20)


def fine_tune():
    """Phase 2 of notebook 07: the last 54 layers trained, the others run once or in every epoch."""
    return transfer_pair(training.Recipe(epochs=10, batch_size=32, learning_rate=1e-5), images(500), until=-54, run=2)


def transfer_pair(recipe, few, until, run, size=160, run_plain=2):
    """Compare both ways of training what is thawed behind layer `until`; of our way, `run` epochs are run."""
    trunk, _ = transfer.trunk("MobileNetV2", few.image_shape, size, weights="random")
    transfer.freeze(trunk, until)
    model = functions("07_mobilenetv2")["with_head"](trunk, few.num_classes)
    ways = (lambda: plain(model, few, recipe, run_plain)), (lambda: cached(model, few, recipe, run))
    pairs = bench.in_turn(*ways, REPEATS)
    return bench.summary(pairs) | {
        "network": f"MobileNetV2 at {size} px", "images": len(few.train.labels), "epochs": recipe.epochs,
        "epochs_run": [run_plain, run], "extrapolated": "an epoch that was not run counts as the last one that was",
        "includes": "compilation, validation, and filling the cache"}


def plain(model, few, recipe, run):
    """Seconds of Keras' own `fit` on the images."""
    clock = Clock()
    train, validation = ((np.asarray(split.images), keras.utils.to_categorical(split.labels, few.num_classes))
                         for split in (few.train, few.validation))
    model.compile(keras.optimizers.Adam(recipe.learning_rate), "categorical_crossentropy", metrics=["accuracy"])
    model.fit(*train, recipe.batch_size, run, 0, [clock], validation_data=validation)
    return clock.whole(recipe.epochs)


def cached(model, few, recipe, run):
    """Seconds of our way: the frozen part once, into an empty cache, and what is left of the model on its outputs."""
    clock = Clock()
    shutil.rmtree(project.CACHE / "features", ignore_errors=True)
    start = time.perf_counter()
    prefix, tail = transfer.split(model)
    features = transfer.cache(prefix, few, ("train", "validation"))
    filled = time.perf_counter() - start
    training.fit(tail, features, replace(recipe, epochs=run), [clock])
    return filled + clock.whole(recipe.epochs)


# ------------------------------------------------------------------------------------------------------------- data


def data_load():
    """Loading alone, and once more with every image read, as ours are only mapped."""
    images(None)  # the first time fills the cache
    folder = data.find_cifar()
    if not folder.is_dir():
        with tarfile.open(folder) as archive:
            archive.extractall(project.CACHE, filter="data")
        folder = project.CACHE / data.FOLDERS[0]
    pairs = bench.in_turn(lambda: load_keras(str(folder.parent)), load_ours, REPEATS)
    loaded, read = ([(theirs[part], ours[part]) for theirs, ours in pairs] for part in (0, 1))
    return bench.summary(loaded) | {"with_every_image_read": bench.summary(read)}


def load_keras(folder):
    """Seconds of Keras' load_data from files at hand, without and with reading the images."""
    load = keras.datasets.cifar10.load_data
    with mock.patch.dict(load.__globals__, get_file=lambda *_, **__: folder):  # no download, no check of the archive
        return load_and_read(lambda: [split[0] for split in load()])


def load_ours():
    """Seconds of our load_dataset, without and with reading the images."""
    def load():
        loaded = data.load_dataset("cifar10")
        return [getattr(loaded, part).images for part in data.SPLITS]

    return load_and_read(load)


def load_and_read(load):
    """Return the seconds of loading alone, and of loading and looking at every pixel."""
    start = time.perf_counter()
    arrays = load()
    loaded = time.perf_counter()
    assert sum(len(array) for array in arrays) == 60_000
    assert all(array.max() == 255 for array in arrays)
    return loaded - start, time.perf_counter() - start


# ------------------------------------------------------------------------------------------- precision and the limit


def compile_with_adam(model, **options):
    """Compile a model and make the variables of its optimizer, or TensorFlow would trace the first step twice."""
    model.compile("adam", "categorical_crossentropy", **options)
    model.optimizer.build(model.trainable_variables)


def stepper(model, batch_size, **options):
    """Return functions (train, predict) that do one compiled step each, and wait for its result."""
    split = noise(batch_size, model.input_shape[1])
    targets = keras.utils.to_categorical(split.labels, 10)
    compile_with_adam(model, **options)
    return (lambda: model.train_on_batch(split.images, targets)), (lambda: model.predict_on_batch(split.images))


def bfloat16():
    """One training step of each network in both precisions; the headline is that of all their steps together."""
    builders = {name: (lambda name=name: network(name), 128) for name in ("A1", "B2", "E2", "E5")}
    builders["MobileNetV2 at 96 px"] = lambda: backbone("MobileNetV2"), 32
    found = {}
    for name, (build, batch_size) in builders.items():
        steps = []
        for policy in ("float32", "mixed_bfloat16"):
            keras.mixed_precision.set_dtype_policy(policy)
            steps.append(stepper(build(), batch_size)[0])
            seconds(steps[-1])  # compiles
        found[name] = bench.in_turn(*[lambda step=step: seconds(step) for step in steps], 5)
    return of_networks(found) | {"parity": parity()}


def of_networks(found):
    """Return the summary of the seconds of all networks together, and of each, from {name: pairs}."""
    together = np.sum(list(found.values()), axis=0).tolist()
    return bench.summary(together) | {"networks": {name: bench.summary(pairs) for name, pairs in found.items()}}


def parity():
    """Validation accuracy of A1 after a short training in both precisions: {precision: [of each seed]}."""
    few, recipe, reached = images(5000), training.Recipe(epochs=4, batch_size=64), {}
    for policy in ("float32", "mixed_bfloat16"):
        keras.mixed_precision.set_dtype_policy(policy)
        reached[policy] = []
        for seed in range(REPEATS):
            keras.utils.set_random_seed(seed)
            history = training.fit(network("A1"), few, recipe, seed=seed)["history"]
            reached[policy].append(history["val_accuracy"][-1])
    return {"images": len(few.train.labels), "epochs": recipe.epochs, "accuracy": reached}


def determinism():
    """Training steps of two networks with deterministic operations, as `runtime.start` has them, and without."""
    found = {}
    for name in ("A1", "E5"):  # these compile in seconds
        ways = [switched(deterministic, stepper(network(name), 64)[0]) for deterministic in (True, False)]
        for way in ways:
            way()  # compiles
        rounds = np.array(bench.in_turn(*[lambda way=way: [seconds(way) for _ in range(16)] for way in ways], REPEATS))
        found[name] = np.median(rounds, axis=2).tolist()
    return of_networks(found)


def xla():
    """One training step of each network, compiled by XLA and as the notebooks have it."""
    found = {}
    for name in ("A1", "E2", "E5"):
        steps = [switched(False, stepper(network(name), 128, jit_compile=compiled)[0]) for compiled in (True, False)]
        for step in steps:
            step()  # compiles
        found[name] = bench.in_turn(*[lambda step=step: seconds(step) for step in steps], 5)
    return of_networks(found)


def switched(deterministic, step):
    """Return a step that is compiled and run with TensorFlow's deterministic operations, or without."""
    if keras.backend.backend() != "tensorflow":
        return step
    from tensorflow.python.framework import config

    def with_switch():
        (config.enable_op_determinism if deterministic else config.disable_op_determinism)()
        step()

    return with_switch


def limit():
    """For every model, seconds per FLOP in the product of two large matrices over those in a step: a share of 1.

    Training counts as three times the forward pass (once forward, twice backward), as `models.count_flops` has it:
    convolutions and dense layers alone.
    """
    matrix = keras.ops.convert_to_tensor(np.random.default_rng(0).random((PRODUCT, PRODUCT), np.float32))

    def product():
        return seconds(lambda: keras.ops.convert_to_numpy(keras.ops.matmul(matrix, matrix)[0, 0])) / (2 * PRODUCT**3)

    builders = {name: lambda name=name: network(name) for name in NETWORKS}
    builders |= {f"{name} at 96 px": lambda name=name: backbone(name) for name in BACKBONES}
    product()
    found = {}
    for name, build in builders.items():
        found[name] = share_of(build(), product)
        keras.utils.clear_session()  # or all models would stay in memory
    training_steps = np.array([pairs["training"] for _, pairs in found.values()])  # (models, repeats, product and step)
    return bench.summary(np.median(training_steps, axis=0).tolist()) | {
        "counted_as": "training: three times the forward pass", "precision": "float32",
        "product_gflops": round(1e-9 / np.median(training_steps[..., 0]), 1),
        "models": {name: about | {kind: shared(timed) for kind, timed in pairs.items()}
                   for name, (about, pairs) in found.items()}}


def shared(pairs):
    """Return the summary of pairs of seconds per FLOP, and the GFLOP/s that the second of each makes."""
    return bench.summary(pairs) | {"gflops": round(1e-9 / float(np.median([step for _, step in pairs])), 1)}


def share_of(model, product):
    """Return what a model is, and pairs of seconds per FLOP, of the product and of {"training", "inference"}."""
    flops = models.count_flops(model)
    batch_size = int(np.clip(1e10 / flops, 16, 128))
    train, predict = stepper(model, batch_size)
    pairs = {}
    for kind, step, work in (("training", train, 3 * flops * batch_size), ("inference", predict, flops * batch_size)):
        seconds(step)  # compiles
        pairs[kind] = bench.in_turn(product, lambda step=step, work=work: seconds(step) / work, REPEATS)
    return {"flops": flops, "batch_size": batch_size}, pairs


# ---------------------------------------------------------------------------------------------------------- pipeline


def pipeline_overhead():
    """Notebook 02 of the smoke profile by `invoke run-all`, its page included, and its cells run by plain Python."""
    path = project.NOTEBOOKS / "02_baseline_cnn.ipynb"
    command = (sys.executable, "-m", "invoke", "run-all", "--profile", "smoke", "--only", path.stem)
    with tempfile.TemporaryDirectory(prefix="study-") as folder:
        script = Path(folder) / "cells.py"
        script.write_text(as_script(path, parameters.read("smoke", path)), encoding="utf-8")
        pairs = bench.in_turn(lambda: cold(command, project.ROOT),  # three pairs: each takes over a minute
                              lambda: cold((sys.executable, script), project.NOTEBOOKS, MPLBACKEND="agg"), 3)
    return bench.summary(pairs) | {
        "notebook": path.stem, "profile": "smoke",
        "overhead_seconds": round(float(np.median([through - alone for through, alone in pairs])), 1)}


def as_script(path, values):
    """Return the code of a notebook with the values of its parameters set, as the pipeline sets them."""
    code = []
    for source, tags in code_cells(path):
        code += [source, *[f"{name} = {value!r}" for name, value in values.items() if "parameters" in tags]]
    return "\n".join(code)


def cold(command, folder, **variables):
    """Seconds of a command that finds no reports and no cache."""
    with tempfile.TemporaryDirectory(prefix="study-", ignore_cleanup_errors=True) as empty:
        return seconds(lambda: bench.call(command, cwd=folder, STUDY_REPORTS=empty, STUDY_CACHE=empty,
                                          **variables))


# ------------------------------------------------------------------------------------------------------------ growth


SERIES = {  # what grows: the name of the model and what `train_on_noise` is given of it
    "images": ("A1", [{"count": count} for count in (1000, 7000, 50_000)]),
    "resolution": ("MobileNetV2", [{"count": 128, "size": size, "batch_size": 32} for size in (32, 80, 192)]),
    "batch size": ("A1", [{"count": 4096, "batch_size": size} for size in (16, 128, 1024)]),
}  # fmt: skip
VARIED = {"images": "count", "resolution": "size", "batch size": "batch_size"}


def growth():
    """One epoch of training in new processes, over the number of images, their resolution and the batch size."""
    series = {}
    for name, (model, points) in SERIES.items():
        found = [bench.fresh("train_on_noise", {"model": model} | point) for point in points]
        values = [point[VARIED[name]] for point in points]
        times, memory = [float(np.median(run["seconds"])) for run in found], [run["megabytes"] for run in found]
        series[name] = {
            "model": model, "fixed": {key: value for key, value in points[0].items() if key != VARIED[name]},
            "values": values, "seconds": times, "megabytes": memory,
            "seconds_exponent": bench.exponent(values, times), "memory_exponent": bench.exponent(values, memory)}
        if name == "images":
            pairs = [(many / values[-1], few / values[0])
                     for few, many in zip(found[0]["seconds"], found[-1]["seconds"], strict=True)]
    return bench.summary(pairs) | {"series": series, "memory": "peak of the process above what a started Keras holds"}


def train_on_noise(settings):
    """Return {"seconds" of each of two epochs, "megabytes" at the peak beyond what a started Keras takes}."""
    model, size = settings["model"], settings.get("size", 32)
    recipe = training.Recipe(epochs=2, batch_size=settings.get("batch_size", 128))
    before, clock = megabytes("VmRSS"), Clock()
    model = network(model) if model in NETWORKS else backbone(model, size)
    compile_with_adam(model)
    shown = noise(settings["count"])
    model.fit(augmentation.Batches(shown.take(slice(recipe.batch_size)), 10, recipe), verbose=0)  # compiles
    model.fit(augmentation.Batches(shown, 10, recipe), epochs=2, verbose=0, shuffle=False, callbacks=[clock])
    return {"seconds": np.diff(clock.ends).round(4).tolist(), "megabytes": round(megabytes("VmHWM") - before, 1)}


def megabytes(kind):
    """Return the memory that this process holds now ("VmRSS"), or the most that it has held ("VmHWM")."""
    status = Path("/proc/self/status")  # what getrusage says on Linux begins with what the parent process held
    if status.exists():
        return int(re.search(rf"{kind}:\s+(\d+) kB", status.read_text(encoding="utf-8"))[1]) * 1024 / 1e6
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts bytes, and knows the most alone


# -------------------------------------------------------------------------------------------------------- prediction


def prediction():
    """One image by `model.predict`, as deck D timed it, and by the compiled call alone; then 256 of them at a time."""
    found = {"A1": prediction_of(network("A1")), "MobileNetV2 at 96 px": prediction_of(backbone("MobileNetV2"))}
    pairs = {name: pairs for name, (pairs, _) in found.items()}
    return bench.summary(pairs["A1"]) | {
        "network": "A1", "models": {name: bench.summary(pairs[name]) | times for name, (_, times) in found.items()}}


def prediction_of(model):
    """Return pairs of median seconds for one image, of `predict` and of the compiled call, and what all calls took."""
    many = noise(256).images
    one = many[:1]
    ways = (lambda: model.predict(one, verbose=0)), (lambda: model.predict_on_batch(one))
    for way in 10 * ways:  # warm-up
        way()
    rounds = np.array(bench.in_turn(*[lambda way=way: [seconds(way) for _ in range(20)] for way in ways], 5))
    model.predict_on_batch(many)
    batches = [seconds(model.predict_on_batch, many) for _ in range(10)]
    times = {"predict_ms": rounds[:, 0], "batch_1_ms": rounds[:, 1], "batch_256_ms": batches}
    return np.median(rounds, axis=2).tolist(), {name: spread(values) for name, values in times.items()}


def spread(times):
    """Return {"median", "p95"} of seconds, in milliseconds."""
    return {"median": round(1000 * float(np.median(times)), 3), "p95": round(1000 * float(np.percentile(times, 95)), 3)}


# -------------------------------------------------------------------------------------------------------------- main


def main(name, *arguments):
    """Call a function of this file; what decides a measurement is added to its result."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started here is ended, too
    study = runtime.start("bench", threads=0)
    with contextlib.redirect_stdout(sys.stderr):
        result = globals()[name](*map(json.loads, arguments))
    if name in bench.MEASUREMENTS:
        result |= {"created": datetime.now(UTC).isoformat(timespec="seconds"), "commit": runtime.commit(),
                   "device": runtime.device(), "versions": runtime.versions(), "threads": study.threads}
    print(json.dumps(result, allow_nan=False))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except project.StudyError as error:
        sys.exit(str(error))
