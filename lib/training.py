"""From a model, a data set and a recipe to a trained model and its record.

Introduced in notebook 02.
"""

import hashlib
import inspect
import json
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from lib import augmentation, corruptions, decks, evaluation, models, optimizers, project, records, runtime, transfer

import keras
import numpy as np

# Our code that decides a result, as this process has loaded it: the files may be changed while it runs.
OURS = [project.code_of(module.__file__) for module in (
    augmentation, corruptions, evaluation, models, optimizers, transfer, sys.modules[__name__])]


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: everything that Keras' `compile` and `fit` need, as plain values for the record.

    `optimizer` is a class of `lib.optimizers` or a name that `keras.optimizers.get` knows, `options` its further
    arguments. `schedule` is "constant", "linear" or "cosine" (both fall to zero; `warmup` is the share of steps in
    which the rate rises first). `flip` is "none", "random" or "alternate" (Jordan 2024: every image is seen as it is
    and mirrored in turn); `shift` moves an image by up to so many pixels either way, with reflected borders; `rotation`
    turns it by up to so many degrees and `zoom` scales it by up to that share, either way; `cutout` blanks a square of
    that many pixels; images are shrunk to each of `sizes` (pixels) in turn, for an equal share of the epochs, each by a
    `fit` of its own: callbacks begin anew there, and Keras puts averaged weights (`use_ema`) in place at its end.
    Raises ValueError for a schedule or flip that there is not, and without an epoch or an image in a batch.
    """

    epochs: int
    batch_size: int = 64
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "constant"
    warmup: float = 0.0
    options: dict = field(default_factory=dict)
    label_smoothing: float = 0.0
    flip: str = "none"
    shift: int = 0
    rotation: float = 0.0
    zoom: float = 0.0
    cutout: int = 0
    sizes: list = field(default_factory=list)

    def __post_init__(self):
        for name, known in (("schedule", ("constant", "linear", "cosine")), ("flip", ("none", "random", "alternate"))):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} is {value!r}: choose one of {', '.join(known)}")
        for name in ("epochs", "batch_size"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {value}: it takes at least 1")


@dataclass(frozen=True)
class Run:
    """A finished experiment: its record, test probabilities (n, classes), true labels (n,) and learning curves."""

    record: dict
    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def history(self):
        """{curve: [value per epoch]}, as Keras' History has it."""
        return self.record["training"]["history"]


class DivergedError(RuntimeError):
    """A training whose loss is not a number."""


class Progress(keras.callbacks.Callback):
    """One line that is overwritten after each epoch, and the seconds until the first batch of a size was done."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs, self.compiled, self.start = epochs, 0.0, None

    def on_train_begin(self, logs=None):
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        if self.start:
            self.compiled, self.start = self.compiled + time.perf_counter() - self.start, None

    def on_epoch_end(self, epoch, logs=None):
        print(f"epoch {epoch + 1:2}/{self.epochs} · loss {logs['loss']:.3f} · "
              f"accuracy {logs['accuracy']:.1%} · val accuracy {logs['val_accuracy']:.1%}", end="\r", flush=True)

    def on_train_end(self, logs=None):
        print(flush=True)


class Checkpoint(keras.callbacks.Callback):
    """Keeps in one file, after each epoch, all that a training needs to go on as if it had never stopped.

    Keras' BackupAndRestore forgets the learning curves and what the other callbacks know.
    """

    def __init__(self, path, batches, callbacks, progress):
        super().__init__()
        self.path, self.batches, self.watched, self.progress, self.known = path, batches, callbacks, progress, []
        self.state = {"epoch": 0, "stopped": False, "seconds": 0.0, "compiled": 0.0, "history": {}, "callbacks": []}

    def _variables(self):
        return [*self.model.variables, *self.model.optimizer.variables]

    def restore(self, model):
        """Set a compiled model and the batches to where the file left them, if there is one."""
        self.set_model(model)
        model.optimizer.build(model.trainable_variables)
        if self.path is None or not self.path.exists():
            return
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                self.state = json.loads(str(arrays["state"]))
                self.known, self.progress.compiled = self.state["callbacks"], self.state["compiled"]
                for index, variable in enumerate(self._variables()):
                    variable.assign(arrays[f"variable{index}"])
                self.best = {name: arrays[name] for name in arrays.files if name.startswith("best")}
        except Exception as error:  # a damaged archive gives rise to many kinds
            raise records.RecordError(self.path, f"cannot be read ({project.one_line(error)})") from error
        for _ in range(self.state["epoch"]):
            self.batches.on_epoch_end()

    def on_train_begin(self, logs=None):
        self.start = time.perf_counter() - self.state["seconds"]
        for place, (callback, known) in enumerate(zip(self.watched, self.known, strict=False)):
            vars(callback).update(known)
            best = [self.best[name] for name in sorted(self.best) if name.startswith(f"best{place}-")]
            vars(callback).update({"best_weights": best} if best else {})
        self.known = []

    def on_epoch_end(self, epoch, logs=None):
        state = self.state
        state |= {"epoch": epoch + 1, "stopped": self.model.stop_training, "compiled": self.progress.compiled,
                  "seconds": time.perf_counter() - self.start}
        for name, value in logs.items():
            state["history"].setdefault(name, []).append(round(float(value), 6))
        if self.path is None or not np.isfinite(list(logs.values())).all():
            return
        state["callbacks"] = [{name: value for name, value in vars(callback).items()
                               if isinstance(value, (int, float)) and not name.startswith("_")
                               and name != "min_delta"}  # Keras gives it its sign at first use
                              for callback in self.watched]
        arrays = {f"variable{index}": keras.ops.convert_to_numpy(variable)
                  for index, variable in enumerate(self._variables())}
        for place, callback in enumerate(self.watched):
            for index, weight in enumerate(getattr(callback, "best_weights", None) or ()):
                arrays[f"best{place}-{index:04}"] = weight
        with project.replacing(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, state=json.dumps(state), **arrays)


def fit(model, data, recipe, callbacks=(), seed=0, checkpoint=None):
    """Compile `model` as the recipe says and train it on `data.train`, watching `data.validation`.

    Returns {"epochs", "history": {curve: [value per epoch]}, "seconds", "compile_seconds"}. With the path of a
    `checkpoint`, a training that was interrupted goes on after its last whole epoch, to the same result. The seconds
    include validation and writing the checkpoint; what `fit` had to compile is counted apart.
    Raises DivergedError when a loss is not a number, RecordError where the checkpoint is damaged.
    """
    shown = augmentation.Batches(data.train, data.num_classes, recipe, seed)
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing)
    model.compile(_optimizer(recipe, len(shown) * recipe.epochs), loss, metrics=["accuracy"])
    validation = (np.asarray(data.validation.images),
                  keras.utils.to_categorical(data.validation.labels, data.num_classes))
    _reseed(model, seed)
    progress = Progress(recipe.epochs)
    keeper = Checkpoint(checkpoint, shown, callbacks, progress)
    keeper.restore(model)
    state, sizes = keeper.state, recipe.sizes or [None]
    for stage, size in enumerate(sizes, start=1):  # one `fit` each, as Keras wants all its batches alike
        start, end = (recipe.epochs * number // len(sizes) for number in (stage - 1, stage))
        if start == end or state["epoch"] > end:
            continue
        began = time.perf_counter()
        shown.shrink_to(size)
        state["seconds"] += time.perf_counter() - began
        with runtime.quiet():
            model.fit(shown, initial_epoch=state["epoch"], epochs=state["epoch"] if state["stopped"] else end,
                      validation_data=validation, verbose=0, shuffle=False,  # the batches shuffle themselves
                      callbacks=[*callbacks, progress, keras.callbacks.TerminateOnNaN(), keeper])
        if state["stopped"]:
            break
    if not np.isfinite(list(state["history"].values())).all():  # the last step shows in the validation loss alone
        raise DivergedError(f"the loss is not a number after epoch {state['epoch']}: lower the learning rate")
    averaging = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # float16 wraps it to scale the loss
    if averaging.use_ema:  # Keras judges the last epoch before it puts the averaged weights in their place
        with runtime.quiet():
            last = model.evaluate(*validation, verbose=0, return_dict=True)
        for name, value in last.items():
            state["history"][f"val_{name}"][-1] = round(float(value), 6)
    return {"epochs": state["epoch"], "history": state["history"],
            "seconds": round(state["seconds"] - progress.compiled, 2), "compile_seconds": round(progress.compiled, 2)}


def trial(study, model, data, recipe):
    """Return what `fit` returns for a training that is only looked at: to choose a recipe, to draw a curve.

    It is kept in the cache, so a notebook that is run again shows it at once, whether it had come to its end or not;
    `model` is then left as it is. With `study.retrain` it is made again.
    """
    path = project.CACHE / "trials" / f"{_training_key(study, model, data, recipe)}.json"
    result = records.read_json(path) if path.exists() and not study.retrain else {}
    if not result:
        result = fit(model, data, recipe, seed=study.seed)
        project.atomic_write(path, json.dumps(result, allow_nan=False) + "\n")
    keras.utils.set_random_seed(study.seed)  # what comes next starts alike whether this was trained or kept
    return result


def stage(study, model, data, recipe, callbacks=()):
    """Return what `fit` returns for a training on whose weights the next one builds.

    Its last checkpoint stays in the cache: a notebook that is run again, or was interrupted, goes on from there. With
    `study.retrain` it begins anew.
    """
    key = _training_key(study, model, data, recipe, callbacks)
    path = project.CACHE / "checkpoints" / f"{key}.npz"
    if study.retrain:
        path.unlink(missing_ok=True)
    return fit(model, data, recipe, callbacks, study.seed, path)


def _training_key(study, model, data, recipe, callbacks=()):
    plan = {**_decisive(study), "fingerprint": data.fingerprint, "settings": asdict(recipe),
            "callbacks": _describe(callbacks)}  # fmt: skip
    return _key(plan, model, data, callbacks)


def _decisive(study):
    """What results depend on."""
    return {key: value for key, value in vars(study).items() if key != "retrain"}


def _reseed(model, seed):
    """Have Dropout and the like begin alike, whatever the model has gone through before."""
    generators = [generator for layer in model._flatten_layers() for generator in layer._seed_generators]
    for index, generator in enumerate(generators):
        generator.state.assign([seed, index])


def _optimizer(recipe, steps):
    warmup, schedules = round(recipe.warmup * steps), keras.optimizers.schedules
    after = {
        "constant": lambda: recipe.learning_rate,
        "linear": lambda: schedules.PolynomialDecay(recipe.learning_rate, steps - warmup, 0.0),
        "cosine": lambda: schedules.CosineDecay(recipe.learning_rate, steps - warmup),
    }[recipe.schedule]()
    kind = getattr(optimizers, recipe.optimizer, None) or type(keras.optimizers.get(recipe.optimizer))
    return kind(learning_rate=optimizers.WarmUp(after, warmup) if warmup else after, **recipe.options)


def experiment(study, name, model, data, recipe, callbacks=(), tail=None, inputs=None, pretrained=None,
               chosen_from=None, views=False, **settings):
    """Train, evaluate once on the test images, write the record and the model, and return the `Run`.

    `tail` and `inputs` (see `transfer`) are given where only the end of `model` is trained, on cached outputs of its
    frozen part; `model` is then what is counted, timed and saved. `settings` are kept in the record beside the
    recipe's, and so are the trials that the recipe was `chosen_from`, a list of dicts. With `views` the record also has
    "metrics_views", of `evaluation.predict_views`, and from 450 training images on "robustness". An experiment that has
    a record of exactly this start and recipe is not run again: its weights are loaded. One that was interrupted goes on
    after its last epoch. Raises RuntimeError when a loss is not a number, RecordError where a record, a checkpoint or a
    saved model is damaged.
    """
    trained, inputs = tail or model, inputs or data
    sizes = {part: len(getattr(data, part).labels) for part in ("train", "validation", "test")}
    plan = {"experiment": name, **_decisive(study),
            "dataset": {"name": data.name, "fingerprint": data.fingerprint, **sizes},
            "settings": asdict(recipe) | {"callbacks": _describe(callbacks), "views": views} | settings}  # fmt: skip
    key = _key(plan, model, inputs, callbacks)  # of what decides the result: the seconds that the trials took do not
    plan["settings"] |= {"chosen_from": chosen_from} if chosen_from else {}
    plan["dataset"]["classes"] = list(data.class_names)
    saved = records.folder(study.profile) / "models" / f"{name}.keras"
    checkpoint = project.CACHE / "checkpoints" / f"{key}.npz"
    if not study.retrain and (kept := _kept(study.profile, name, key, saved)):
        return _load(study, _retold(kept, name, chosen_from or []), model, saved)
    if study.retrain:
        checkpoint.unlink(missing_ok=True)
    keras.utils.set_random_seed(study.seed)
    with records.noting_failure(study.profile, name, study.notebook):
        training = fit(trained, inputs, recipe, callbacks, study.seed, checkpoint)
    keras.utils.set_random_seed(study.seed)  # what comes next starts alike whether this was trained or kept
    probabilities, labels = evaluation.predict(trained, inputs.test.images), np.asarray(data.test.labels)
    answers = evaluation.predict(trained, inputs.validation.images), np.asarray(data.validation.labels)
    record = {"schema": records.SCHEMA, **plan, "key": key, "pretrained": pretrained,
              "created": datetime.now(UTC).isoformat(timespec="seconds"), "commit": runtime.commit(),
              "versions": runtime.versions(), "device": runtime.device(), "training": training,
              "metrics": evaluation.metrics(probabilities, labels), "reported": decks.reported(name),
              "calibration": evaluation.temperature_scaling(probabilities, labels, *answers),
              **_measured(model, data, views)}
    models.save(model, saved)
    record["weights"] = records.checksum(saved)
    records.write(record, probabilities, labels)
    checkpoint.unlink(missing_ok=True)
    print(_summary(record))
    return Run(record, probabilities, labels)


def _load(study, kept, model, saved):
    """Give `model` the weights of a run that was kept, and return that."""
    try:
        model.load_weights(saved)
    except Exception as error:  # a damaged archive gives rise to many kinds
        raise records.RecordError(saved, f"cannot be loaded ({project.one_line(error)})") from error
    keras.utils.set_random_seed(study.seed)
    records.forget_failure(study.profile, kept.record["experiment"])
    since = kept.record["created"][:16].replace("T", " ")
    print(f"{_summary(kept.record)} (kept from {since} UTC; retrain=True trains again)")
    return kept


def _measured(model, data, views):
    """What a record says of a whole model: its size, how fast it answers and, where asked for, more answers."""
    measured = {"model": models.count_parameters(model) | {"flops": models.count_flops(model)},
                "latency": evaluation.latency(model, data.test.images)}
    count = len(data.train.labels) // 45  # answering these in 25 ways costs less than one pass over the training images
    if count >= 10:  # fewer say nothing
        measured["robustness"] = evaluation.robustness(model, data.test, min(count, 1000))
    if views:
        answers = evaluation.predict_views(model, data.test.images)
        measured["metrics_views"] = evaluation.metrics(answers, np.asarray(data.test.labels))
    return measured


def _summary(record):
    accuracy, training = record["metrics"]["accuracy"], record["training"]
    return (f"{record['experiment']}: test accuracy {accuracy['value']:.1%} [{accuracy['low']:.1%}, "
            f"{accuracy['high']:.1%}], {training['epochs']} epochs in {training['seconds']:.0f} s")


def _key(plan, model, data, callbacks=()):
    """Digest of all that decides a result: plan, splits, architecture, weights before training, versions, code."""
    images = [getattr(data, part).digest() for part in ("train", "validation", "test")]
    code = [OURS, *map(_code, callbacks)]
    digest = hashlib.sha256(repr((plan, _architecture(model), images, runtime.versions(), code)).encode())
    for array in model.get_weights():
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


def _architecture(model):
    """What a model is made of, without the names that Keras counts up in each session."""
    operations = getattr(model, "operations", model.layers)  # such as the sum of two tensors, which is no layer
    place = {part.name: index for index, part in enumerate(operations)}

    def called(node):
        values = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
        return [place.get(value._keras_history.operation.name) if isinstance(value, keras.KerasTensor) else repr(value)
                for value in values]

    def made(part):
        return _architecture(part) if isinstance(part, keras.Model) else part.get_config() | {"name": None}

    return [(type(part).__name__, _code(part), made(part), list(map(called, part._inbound_nodes)))
            for part in operations]


def _code(thing):
    """The code of the methods of an object and of the functions it was given, where it is neither Keras' nor ours."""
    functions = [value for value in (*vars(type(thing)).values(), *vars(thing).values())
                 if inspect.isfunction(value) and value.__module__.partition(".")[0] not in ("keras", "lib")]
    return [_text(function) for function in functions]


def _text(function):
    try:
        return inspect.getsource(function)
    except OSError:  # it comes from no file and no cell
        return function.__code__.co_code


def _kept(profile, name, key, saved):
    """The finished run of this key, or None."""
    folder = records.folder(profile)
    path = folder / "records" / f"{name}.json"
    if not (path.exists() and saved.exists() and (folder / "predictions" / f"{name}.npz").exists()):
        return None
    record = records.read(path)
    if record.get("key") != key or record.get("weights") != records.checksum(saved):  # cut short between the two
        return None
    return Run(record, *records.predictions(profile, name))


def _retold(kept, name, trials):
    """A run that was kept; of the deck and of the trials, which decide no result, its record tells what holds now."""
    def lasting(rows):
        return json.dumps([{key: value for key, value in row.items() if key != "seconds"} for row in rows])

    reported, settings = decks.reported(name), dict(kept.record["settings"])
    before = settings.pop("chosen_from", [])
    if reported == kept.record["reported"] and lasting(before) == lasting(trials):
        return kept
    settings |= {"chosen_from": trials} if trials else {}
    record = kept.record | {"reported": reported, "settings": settings}
    records.write(record, kept.probabilities, kept.labels)
    return replace(kept, record=record)


def _describe(callbacks):
    """Callbacks with their settings, for the record."""
    shown = ("monitor", "mode", "patience", "factor", "min_lr", "min_delta", "cooldown", "baseline",
             "start_from_epoch", "restore_best_weights")
    described = []
    for callback in callbacks:
        known = {key: value for key, value in vars(callback).items() if key in shown}
        known |= {"min_delta": abs(known["min_delta"])} if "min_delta" in known else {}  # Keras turns its sign
        described.append({"name": type(callback).__name__} | known)
    return described
