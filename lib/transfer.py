"""Pre-trained trunks, and the cache that lets their frozen part run once.

Introduced in notebook 07.
"""

import contextlib
import errno
import hashlib
import math
import os
import shutil
import socket
from dataclasses import replace

from lib import models, project, runtime
from lib.data import DataError, keras_home

import keras
import numpy as np
from keras import layers


def known():
    """Return the names of the backbones: all networks of keras.applications."""
    return [name for name in dir(keras.applications) if name[0].isupper()]


def preprocessing(name):
    """Return new layers that turn raw pixels (0 to 255) into what a backbone was trained on.

    Each equals the `preprocess_input` of the backbone's module in keras.applications.
    """
    module = getattr(keras.applications, name).__module__.rpartition(".")[2]
    if module in ("convnext", "efficientnet", "efficientnet_v2", "mobilenet_v3"):
        return []  # these scale by themselves
    if module in ("resnet", "vgg16", "vgg19"):
        return [models.ReverseChannels(), layers.Rescaling(1.0, offset=[-103.939, -116.779, -123.68])]
    if module == "densenet":
        mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        return [layers.Rescaling((1 / 255 / deviation).tolist(), offset=(-mean / deviation).tolist())]
    return [layers.Rescaling(1 / 127.5, offset=-1)]


def trunk(name, image_shape, size, weights="imagenet"):
    """Return (model, pretrained): raw uint8 images (n, *image_shape), resized to `size`, to the trunk's feature maps.

    The model is flat: the backbone's layers are its own. ImageNet weights do not depend on `size`, so that resolution
    is the only thing that changes with it. Where they are neither in the Keras home nor to be downloaded, the trunk is
    random and `pretrained` says so: "imagenet" or "random".

    Raises DataError where the name or the weights are unknown, a network of that size or with these weights cannot be
    built, or a weights file is damaged.
    """
    if name not in known():
        raise DataError(f"there is no backbone {name}: choose one of {', '.join(known())}")
    if weights not in ("imagenet", "random"):
        raise DataError(f"weights is {weights!r}: choose imagenet or random")
    build = getattr(keras.applications, name)
    x = keras.Input(image_shape, dtype="uint8", name="image")
    for layer in (layers.Resizing(size, size, interpolation="bilinear", name="resize"), *preprocessing(name)):
        x = layer(x)
    try:
        model = _pretrained(name, build, x) if weights == "imagenet" else None
        if model is not None:
            return model, "imagenet"
        model = build(input_tensor=x, include_top=False, weights=None)
    except ValueError as error:
        raise DataError(f"{name} cannot be built for {size} pixels: {project.one_line(error)}") from error
    _settle(model)
    return model, "random"


def _settle(model):
    """Set the BatchNorm statistics of a random trunk from noise: without, its outputs fade to nothing with depth."""
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    noise = np.random.default_rng(0).integers(0, 256, (16, *model.input_shape[1:]), np.uint8)
    model([noise], training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


def _pretrained(name, build, x):
    """The network with its published weights on top of the tensor x, or None where they cannot be had."""
    timeout, folder = socket.getdefaulttimeout(), keras_home() / "models"
    socket.setdefaulttimeout(10)  # Keras sets none, and would wait for ever
    before, broke_off = {*folder.glob("*")}, f"the download of the ImageNet weights of {name} broke off"
    try:
        with runtime.quiet():
            if name not in ("MobileNet", "MobileNetV2"):
                return build(input_tensor=x, include_top=False, weights="imagenet")
            model = build(input_tensor=x, include_top=False, weights=None)  # Keras would take others for each size
            model.set_weights(build(input_shape=(224, 224, 3), include_top=False, weights="imagenet").get_weights())
            return model
    except (ConnectionError, TimeoutError) as error:  # Keras deletes what it has not got to the end
        raise DataError(f"{broke_off} ({error}): run again") from error
    except OSError as error:  # a damaged file, or no space for one
        where = f"the ImageNet weights of {name} in the Keras home"
        raise DataError(f"{where} cannot be used ({error}): delete the file") from error
    except Exception as error:  # Keras raises a bare Exception when a download fails
        if "URL fetch failure" not in str(error):
            raise
        if lost := before - {*folder.glob("*")}:  # Keras has deleted it to fetch it anew
            what = f"{min(lost)} was damaged and could not be downloaded again"
            raise DataError(f"{what}: put a whole file there") from error
        if "retrieval incomplete" in str(error):
            raise DataError(f"{broke_off} ({project.one_line(error)}): run again") from error
        return None
    finally:
        socket.setdefaulttimeout(timeout)


def freeze(model, until=None, batch_norm=False):
    """Freeze the layers up to index `until` (all by default), thaw the others; with `batch_norm` freeze those anywhere.

    A negative index counts from the end: -54 thaws the last 54 layers. Layer by layer, because `model.trainable = True`
    does not reach sub-layers when it was already True. A frozen BatchNormalization uses its moving statistics and does
    not change them (Keras' rule for `trainable = False`); an unfrozen one normalises by the batch and moves them in
    `fit`, also in a model that was called with `training=False` to build another one.
    """
    thawed = set() if until is None else set(model.layers[until:])
    for layer in model.layers:
        layer.trainable = layer in thawed and not (batch_norm and isinstance(layer, layers.BatchNormalization))


def last_layers(trunk, wanted):
    """Return how many last layers of a trunk to thaw: so many as wanted, where something frozen is left in front.

    Otherwise, and for 0, those of its `upper_half`: what suits one backbone may be all of another.
    """
    frozen = len(trunk.layers) - wanted
    possible = wanted and any(_first_weights(trunk) < count <= frozen for count, _ in cuts(trunk))
    return wanted if possible else len(trunk.layers) - upper_half(trunk)


def cuts(model):
    """Return (count, operation) for each place in a flat model where a single tensor carries everything.

    It is the output of the operation, and `count` layers lie up to there. Not every operation is a layer: the `+` of a
    ConvNeXt block is none.
    """
    operations = getattr(model, "operations", model.layers)  # a Sequential has layers alone
    position = {operation.name: index for index, operation in enumerate(operations)}
    last_use = [0] * len(position)
    for index, operation in enumerate(operations):
        for node in operation._inbound_nodes:
            for tensor in node.input_tensors:
                source = position.get(tensor._keras_history.operation.name)
                if source is not None:
                    last_use[source] = max(last_use[source], index)
    counts = np.cumsum([isinstance(operation, layers.Layer) for operation in operations]).tolist()
    return [(counts[cut], operations[cut]) for cut in range(len(operations)) if max(last_use[:cut], default=0) <= cut]


def output(operation):
    """Return the tensor that an operation of a flat model gives: of a nested model the outer one, not its own."""
    return operation._inbound_nodes[0].output_tensors[0]


def upper_half(trunk):
    """Return the index from which to thaw a trunk of which nothing else is known: half of its weights lie behind it."""
    behind = np.cumsum([layer.count_params() for layer in trunk.layers][::-1])[::-1]
    return max(count for count, _ in cuts(trunk)[:-1] if behind[count] >= behind[0] / 2)


def _first_weights(model):
    return next((index for index, layer in enumerate(model.layers) if layer.weights), len(model.layers))


def split(model):
    """Return (prefix, tail): the frozen start of a flat model, and the rest, which share the model's weights.

    The cut is the last place before the first trainable layer where a single tensor carries everything; a Dropout that
    is not frozen counts as one. Raises ValueError where nothing, or everything, is frozen.
    """
    trained = [layer.trainable_weights or (layer.trainable and layer._seed_generators) for layer in model.layers]
    first = next((index for index, at_work in enumerate(trained) if at_work), 0) if model.trainable_weights else 0
    places = [(count, operation) for count, operation in cuts(model) if _first_weights(model) < count <= first]
    if not places:
        raise ValueError("the model needs a frozen start and a trainable end")
    tensor = output(places[-1][1])
    return keras.Model(model.inputs, tensor), keras.Model(tensor, model.outputs)


def cache(prefix, data, parts=("train", "validation", "test"), mirrored=False, batch_size=64):
    """Return the data set with the outputs of `prefix` in place of its images: float16, memory-mapped, computed once.

    Leave "test" out of `parts` where a choice is made: its images then stay what they are. With `mirrored` the outputs
    of the mirrored training images are kept too. float16 rounds a value by at most 0.05 %, from 0.00006 on. What was
    used longest ago is deleted where all features, and the checkpoints of trainings that were broken off, together
    would exceed the limit: the environment variable STUDY_CACHE_GB, or 30.

    Raises DataError where there is no space for the cache, the limit is no number or too small for a single file, or
    an output exceeds float16.
    """
    fingerprint = f"{data.fingerprint}-{_fingerprint(prefix)}"
    folder = project.CACHE / "features" / fingerprint
    splits = {part: getattr(data, part) for part in parts}
    outputs = {part: _outputs(prefix, split.images, folder / f"{part}-{split.digest()}.npy", batch_size)
               for part, split in splits.items()}
    splits = {part: split._replace(images=outputs[part]) for part, split in splits.items()}
    if mirrored:
        path = folder / f"mirrored-{data.train.digest()}.npy"
        flipped = _outputs(prefix, data.train.images[:, :, ::-1], path, batch_size)
        splits["train"] = splits["train"]._replace(mirrored=flipped)
    return replace(data, fingerprint=fingerprint, **splits)


def _fingerprint(prefix):
    """Name what a model computes by what it answers to noise: its weights, size, cut and precision all show there."""
    noise = np.random.default_rng(0).integers(0, 256, (1, *prefix.input_shape[1:]), np.uint8)
    answer = prefix([noise], training=False)
    answer = np.ascontiguousarray(keras.ops.convert_to_numpy(keras.ops.cast(answer, "float32")))
    return hashlib.sha256(answer.tobytes() + repr((answer.shape, runtime.versions())).encode()).hexdigest()[:16]


def _outputs(prefix, images, path, batch_size):
    """The memory-mapped outputs (n, ...) float16 for `images`, from the cache or computed into it."""
    shape = (len(images), *prefix.output_shape[1:])
    try:
        if not path.exists():
            with project.replacing(path) as temporary:
                _make_room(2 * math.prod(shape))
                if 2 * math.prod(shape) > shutil.disk_usage(path.parent).free:
                    raise OSError(errno.ENOSPC, "no space left")  # a map beyond the disk's end would kill the process
                outputs = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
                for start in range(0, len(images), batch_size):  # all of one size: another would be compiled anew
                    batch = images[np.arange(start, start + batch_size) % len(images)]
                    answers = prefix.predict_on_batch(batch)[: len(images) - start]
                    if not (abs(answers) <= np.finfo(np.float16).max).all():
                        raise DataError("an output of the frozen part does not fit in float16: cut at another layer")
                    outputs[start : start + batch_size] = answers
                outputs.flush()
        os.utime(path)  # used now
        return np.load(path, mmap_mode="r")
    except ValueError as error:
        raise DataError(f"{path} is damaged: delete it and run again") from error
    except OSError as error:
        reason, size = error.strerror or error, 2 * math.prod(shape) / 1e9
        what = f"cannot write the feature cache in {path.parent}"
        raise DataError(f"{what} ({reason}): it needs {size:.1f} GB, free some space") from error


def _limit():
    """How many bytes of disk cached features may take."""
    text = os.environ.get("STUDY_CACHE_GB", "30")
    with contextlib.suppress(ValueError):
        if (limit := float(text)) >= 0:
            return limit * 1e9
    raise DataError(f"STUDY_CACHE_GB is {text!r}: set it to a number of gigabytes")


def _make_room(size):
    """Delete features and checkpoints, those used longest ago first, until `size` more bytes keep to the limit.

    A file that another process has mapped stays readable there until it lets go; what one is writing stays.
    """
    if size > (limit := _limit()):
        raise DataError(f"features of {size / 1e9:.1f} GB are more than the cache may hold: set STUDY_CACHE_GB to more "
                        f"than {limit / 1e9:g}, or cached to False where the notebook has that parameter")
    project.sweep((project.CACHE / "features").rglob(".*"))
    known = []
    for path in [*(project.CACHE / "features").rglob("*.npy"), *(project.CACHE / "checkpoints").glob("*.npz")]:
        with contextlib.suppress(FileNotFoundError):  # another process makes room as well
            known.append((path.stat().st_mtime, path.stat().st_size, path))
    excess = size + sum(length for _, length, _ in known) - limit
    for _, length, path in sorted(entry for entry in known if not entry[2].name.startswith(".")):
        if excess <= 0:
            break
        with contextlib.suppress(PermissionError):  # Windows keeps what is mapped
            path.unlink(missing_ok=True)
            excess -= length
