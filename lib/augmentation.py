"""What the network sees in training: shuffled batches, and images mirrored, moved, turned, partly covered or shrunk.

Introduced in notebook 02.
"""

from lib import runtime  # noqa: F401  (it keeps the backend quiet as it starts)

import keras
import numpy as np


class Batches(keras.utils.PyDataset):
    """Shuffled, augmented training batches of images or cached features; the same for the same seed.

    The last, smaller batch of an epoch is left out: every step costs the same and weighs the same.
    """

    def __init__(self, split, num_classes, recipe, seed=0):
        super().__init__()
        self.images = split.images
        self.split, self.recipe, self.seed, self.epoch = split, recipe, seed, 0
        self.targets = keras.utils.to_categorical(split.labels, num_classes)
        self.batch_size = min(recipe.batch_size, len(split.labels))
        self._shuffle()

    def shrink_to(self, size):
        """Show images of `size` pixels (None: their own) from now on.

        All are shrunk here, once: the filter that smooths them can cost half as much as a training step on them.
        """
        images = self.images = self.split.images
        if size not in (None, images.shape[1]):
            pieces = (images[start : start + 1024] for start in range(0, len(images), 1024))
            self.images = np.concatenate([shrink(piece, size) for piece in pieces])

    def _shuffle(self):
        self.order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.targets))

    def on_epoch_end(self):
        """Shuffle anew."""
        self.epoch += 1
        self._shuffle()

    def __len__(self):
        return len(self.targets) // self.batch_size

    def __getitem__(self, index):
        rows = np.sort(self.order[index * self.batch_size : (index + 1) * self.batch_size])
        generator = np.random.default_rng((self.seed, self.epoch, index))
        images = np.asarray(self.images[rows])
        mirrored = self._mirrored(rows, generator)
        if self.split.mirrored is not None:
            images[mirrored] = self.split.mirrored[rows[mirrored]]
        elif mirrored.any():
            images[mirrored] = images[mirrored][:, :, ::-1]
        images = shift_images(images, self.recipe.shift, generator)
        images = turn_images(images, self.recipe.rotation, self.recipe.zoom, generator)
        return cut_out(images, self.recipe.cutout, generator), self.targets[rows]

    def _mirrored(self, rows, generator):
        if self.recipe.flip == "alternate":
            first = np.random.default_rng(self.seed).random(len(self.targets)) < 0.5
            return first[rows] ^ (self.epoch % 2 == 1)
        return generator.random(len(rows)) < (0.5 if self.recipe.flip == "random" else 0)


def shift_images(images, shift, generator):
    """Return images (n, height, width, channels) each moved by up to `shift` pixels, with reflected borders."""
    if not shift:
        return images
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="reflect")
    top, left = generator.integers(0, 2 * shift + 1, (2, count, 1))
    down, across = top + np.arange(height), left + np.arange(width)
    return padded[np.arange(count)[:, None, None], down[:, :, None], across[:, None, :]]


def turn_images(images, rotation, zoom, generator):
    """Return images each turned by up to `rotation` degrees and scaled by up to the share `zoom`, about the centre."""
    if not (rotation or zoom):
        return images
    count, height, width, _ = images.shape
    angle = np.radians(generator.uniform(-rotation, rotation, count))
    scale = 1 / generator.uniform(1 - zoom, 1 + zoom, count)
    cos, sin, x, y, zero = scale * np.cos(angle), scale * np.sin(angle), (width - 1) / 2, (height - 1) / 2, 0 * angle
    transforms = [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y, zero, zero]
    turned = keras.ops.image.affine_transform(
        images.astype(np.float32), np.stack(transforms, axis=1).astype(np.float32), "bilinear", "reflect",
        data_format="channels_last")
    return _like(images, turned)


def cut_out(images, size, generator):
    """Return images each with a square of `size` pixels in the mean colour (DeVries & Taylor 2017)."""
    if not size:
        return images
    count, height, width, _ = images.shape
    top, left = (generator.integers(-(size // 2), extent - size // 2, (count, 1)) for extent in (height, width))
    rows, columns = np.arange(height), np.arange(width)
    inside = (((rows >= top) & (rows < top + size))[:, :, None]
              & ((columns >= left) & (columns < left + size))[:, None, :])
    return np.where(inside[..., None], images.mean(axis=(1, 2), keepdims=True).astype(images.dtype), images)


def shrink(images, size):
    """Return images scaled to `size` × `size` pixels, smoothed so that fine detail leaves no false pattern."""
    scaled = keras.ops.image.resize(images.astype(np.float32), (size, size), "bilinear", antialias=True,
                                    data_format="channels_last")
    return _like(images, scaled)


def _like(images, values):
    """The values as an array of the images' kind: pixels are whole numbers, cached features are not."""
    values = keras.ops.convert_to_numpy(values)
    return (np.rint(values) if np.issubdtype(images.dtype, np.integer) else values).astype(images.dtype)
