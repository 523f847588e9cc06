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

from lib import project, runtime
from lib.data import DataError

import keras
import numpy as np
from keras import layers

# What each trunk was trained on: how raw pixels (0 to 255) become its input.
PREPROCESSING = {"MobileNetV2": lambda: [layers.Rescaling(1 / 127.5, offset=-1)]}


def trunk(name, image_shape, size, weights="imagenet"):
    """Return (model, pretrained): raw uint8 images (n, *image_shape), resized to `size`, to the trunk's feature maps.

    The model is flat: the backbone's layers are its own. ImageNet weights are those trained at the backbone's default
    size, whatever `size` is, so that resolution is the only thing that changes with it. Where they are neither in the
    Keras home nor to be downloaded, the trunk is random and `pretrained` says so: "imagenet" or "random".

    Raises DataError where a weights file is damaged.
    """
    images = keras.Input(image_shape, dtype="uint8", name="image")
    x = layers.Resizing(size, size, interpolation="bilinear", name="resize")(images)
    for layer in PREPROCESSING[name]():
        x = layer(x)
    build = getattr(keras.applications, name)
    model = build(input_tensor=x, include_top=False, weights=None)
    values = _imagenet_weights(build, name) if weights == "imagenet" else None
    if values is None:
        _settle(model)
        return model, "random"
    model.set_weights(values)
    return model, "imagenet"


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


def _imagenet_weights(build, name):
    """The published weights as a list of arrays, or None where they cannot be had."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)  # Keras sets none, and would wait for ever
    try:
        with runtime.quiet():
            return build(input_shape=(224, 224, 3), include_top=False, weights="imagenet").get_weights()
    except OSError as error:  # a damaged file, or no space for one
        where = f"the ImageNet weights of {name} in the Keras home"
        raise DataError(f"{where} cannot be used ({error}): delete the file") from error
    except Exception as error:  # Keras raises a bare Exception when a download fails
        if "URL fetch failure" not in str(error):
            raise
        return None
    finally:
        socket.setdefaulttimeout(timeout)


def freeze(model, until=None, batch_norm=False):
    """Freeze the layers up to index `until` (all by default), thaw the others; with `batch_norm` freeze those anywhere.

    Layer by layer, because `model.trainable = True` does not reach sub-layers when it was already True. A frozen
    BatchNormalization uses its moving statistics and does not change them (Keras' rule for `trainable = False`); an
    unfrozen one normalises by the batch and moves them, also when the model is called with `training=False`.
    """
    for index, layer in enumerate(model.layers):
        frozen = until is None or index < until or (batch_norm and isinstance(layer, layers.BatchNormalization))
        layer.trainable = not frozen


def split(model):
    """Return (prefix, tail): the frozen start of a flat model, and the rest, which share the model's weights.

    The cut is the last place before the first trainable layer where a single tensor carries everything.
    Raises ValueError where nothing, or everything, is frozen.
    """
    position = {layer.name: index for index, layer in enumerate(model.layers)}
    first = min((position[layer.name] for layer in model.layers if layer.trainable_weights), default=0)
    last_use = [0] * len(model.layers)
    for index, layer in enumerate(model.layers):
        for node in layer._inbound_nodes:
            for tensor in node.input_tensors:
                source = position.get(tensor._keras_history.operation.name)
                if source is not None:
                    last_use[source] = max(last_use[source], index)
    cuts = [cut for cut in range(1, first) if max(last_use[:cut]) <= cut]
    if not cuts or not any(layer.weights for layer in model.layers[: cuts[-1] + 1]):
        raise ValueError("the model needs a frozen start and a trainable end")
    tensor = model.layers[cuts[-1]].output
    return keras.Model(model.inputs, tensor), keras.Model(tensor, model.outputs)


def cache(prefix, data, parts=("train", "validation", "test"), mirrored=False, batch_size=64):
    """Return the data set with the outputs of `prefix` in place of its images: float16, memory-mapped, computed once.

    Leave "test" out of `parts` where a choice is made: its images then stay what they are. With `mirrored` the outputs
    of the mirrored training images are kept too. float16 rounds a value by at most 0.05 %.

    Raises DataError where there is no space for the cache.
    """
    folder = project.CACHE / "features" / f"{data.fingerprint}-{_fingerprint(prefix)}"
    splits = {part: getattr(data, part) for part in parts}
    outputs = {part: _outputs(prefix, split.images, folder / f"{part}-{_rows(split)}.npy", batch_size)
               for part, split in splits.items()}
    splits = {part: split._replace(images=outputs[part]) for part, split in splits.items()}
    if mirrored:
        path = folder / f"mirrored-{_rows(data.train)}.npy"
        flipped = _outputs(prefix, data.train.images[:, :, ::-1], path, batch_size)
        splits["train"] = splits["train"]._replace(mirrored=flipped)
    return replace(data, **splits)


def _rows(split):
    """Name the images of a split by their places in the original files."""
    return hashlib.sha256(np.ascontiguousarray(split.indices, np.int64)).hexdigest()[:16]


def _fingerprint(prefix):
    """Name what a model computes by what it answers to noise: its weights, size, cut and precision all show there."""
    answer = prefix([np.random.default_rng(0).integers(0, 256, (1, *prefix.input_shape[1:]), np.uint8)])
    answer = np.ascontiguousarray(keras.ops.convert_to_numpy(keras.ops.cast(answer, "float32")))
    return hashlib.sha256(answer.tobytes() + repr((answer.shape, runtime.versions())).encode()).hexdigest()[:16]


def _outputs(prefix, images, path, batch_size):
    """The memory-mapped outputs (n, ...) float16 for `images`, from the cache or computed into it."""
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    shape = (len(images), *prefix.output_shape[1:])
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            if 2 * math.prod(shape) > shutil.disk_usage(path.parent).free:
                raise OSError(errno.ENOSPC, "no space left")  # a map beyond the disk's end would kill the process
            outputs = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
            for start in range(0, len(images), batch_size):
                batch = np.ascontiguousarray(images[start : start + batch_size])
                outputs[start : start + len(batch)] = prefix.predict_on_batch(batch)
            outputs.flush()
            temporary.replace(path)
        return np.load(path, mmap_mode="r")
    except ValueError as error:
        raise DataError(f"{path} is damaged: delete it and run again") from error
    except OSError as error:
        reason, size = error.strerror or error, 2 * math.prod(shape) / 1e9
        what = f"cannot write the feature cache in {path.parent}"
        raise DataError(f"{what} ({reason}): it needs {size:.1f} GB, free some space") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
