"""Trained models in the formats of other runtimes, each file run there and compared with Keras before it counts.

Introduced in notebook 13. Keras is imported only once there is something to export.
"""

import importlib.util
import warnings
from pathlib import Path

from lib import data, photo, project, records

import numpy as np

# Each format's suffix, and what writing and running it takes beyond the project's own packages.
FORMATS = {"onnx": ("onnx", ("onnx", "tf2onnx", "onnxruntime")), "litert": ("tflite", ("ai_edge_litert",))}
IMAGES = 256  # images on which a file is compared with Keras
BATCH = 64
TOLERANCE = 1e-3  # the largest difference of a probability that is only another order of the same sums


class ExportError(project.StudyError):
    """A format or package that is not there, or a file that does not answer as Keras does."""


def export(kind, name=None, profile=None):
    """Write the trained models of a profile, or the one called `name`, to reports/<profile>/exported, and check them.

    Prints a line per model. Raises ExportError at the end if one could not be converted, or its file answered otherwise
    than Keras by more than TOLERANCE: such a file is not kept.
    """
    if kind not in FORMATS:
        raise ExportError(f"there is no format {kind}: choose one of {', '.join(FORMATS)}")
    models, (suffix, packages) = photo.trained(profile, [name] if name else ()), FORMATS[kind]
    lacking = missing(packages)
    if lacking:
        raise ExportError(f"format {kind} needs {', '.join(lacking)}: install them with `pip install -e \".[export]\"`")
    from lib import runtime

    runtime.start("export", threads=0)
    failed = []
    for saved in models:
        path = saved.path.parent.parent / "exported" / f"{saved.name}.{suffix}"
        try:
            model = photo.load(saved)
            images = images_for(saved, model.input_shape[1:])
            difference, same = convert(model, path, kind, images)
        except project.StudyError as error:
            failed.append(saved.name)
            print(f"{saved.name}: {error}", flush=True)
        else:
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; on {len(images)} images it differs from Keras in "
                  f"float32 by {difference:.0e} at most and names the same class in {same:.1%}", flush=True)
    if failed:
        raise ExportError(f"{len(failed)} of {len(models)} models were not exported: {', '.join(failed)}")


def missing(packages):
    """Return those of the packages that are not installed."""
    return [package for package in packages if importlib.util.find_spec(package) is None]


def convert(model, path, kind, images):
    """Write a model to a file, and return (largest difference of a probability from Keras, share of equal classes).

    Keras computes in float32 for that, too.
    Raises ExportError where it cannot be converted or differs by more than TOLERANCE; what was at `path` stays then.
    """
    from lib import evaluation, runtime

    import keras

    model = as_float32(model)
    inputs = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype)
    model = keras.Model(inputs, model(inputs, training=False))  # or `Resizing` has BatchNorm act as in training
    expected = evaluation.predict(model, images, BATCH)
    run = {"onnx": _run_onnx, "litert": _run_litert}[kind]
    with project.replacing(path) as temporary:
        try:
            with runtime.quiet(), warnings.catch_warnings(action="ignore"):
                model.export(str(temporary), format=kind, verbose=False)
                answers = run(temporary, images)
        except OSError:
            raise  # no space, no permission: that is not the model's fault
        except Exception as error:  # whatever the converters and runtimes raise
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ExportError(f"cannot be converted to {kind} ({why})") from error
        difference = float(np.abs(answers - expected).max())
        if not difference <= TOLERANCE:  # not a number is none, either
            raise ExportError(f"its {kind} file differs from Keras by {difference:.0e}, {TOLERANCE:.0e} is allowed")
    return difference, float((answers.argmax(axis=1) == expected.argmax(axis=1)).mean())


def as_float32(model):
    """Return a model that computes in float32 with the same weights: other runtimes know no mixed precision."""
    import keras

    config = model.to_json()
    if '"mixed_' not in config:
        return model
    for policy in ("mixed_bfloat16", "mixed_float16"):
        config = config.replace(f'"{policy}"', '"float32"')
    copy = keras.models.model_from_json(config)
    copy.set_weights(model.get_weights())
    return copy


def images_for(saved, shape):
    """Return up to 256 test images (n, *shape) uint8: of the data a model was trained on, else digits, else noise."""
    known = saved.dataset.removesuffix(photo.RANDOM)
    own = records.dataset(saved.path.parents[1].relative_to(project.REPORTS)) or ""
    name = known if data.find_cifar(known) else own if Path(own).is_absolute() and Path(own).is_dir() else "digits"
    images = np.ascontiguousarray(data.load_dataset(name, test_limit=IMAGES, large=shape[0] > 32).test.images)
    if images.shape[1:] == shape:
        return images
    return np.random.default_rng(0).integers(0, 256, (IMAGES, *shape), np.uint8)


def _run_onnx(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: images[start : start + BATCH]})[0]
                           for start in range(0, len(images), BATCH)])  # fmt: skip


def _run_litert(path, images):
    from ai_edge_litert.interpreter import Interpreter

    interpreter, answers = Interpreter(str(path)), []
    given, answer = (side()[0]["index"] for side in (interpreter.get_input_details, interpreter.get_output_details))
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        interpreter.resize_tensor_input(given, batch.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given, batch)
        interpreter.invoke()
        answers.append(interpreter.get_tensor(answer))
    return np.concatenate(answers)
