"""What poor light, a poor camera and saving space do to a photo: five corruptions, each at five strengths.

Introduced in notebook 12. Kinds and strengths are among those of CIFAR-10-C (Hendrycks & Dietterich 2019,
https://arxiv.org/abs/1903.12261), as the authors' make_cifar_c.py sets them for images of 32 pixels.
"""

import io

import numpy as np
from PIL import Image
from scipy import ndimage

STRENGTHS = {  # from the weakest to the strongest
    "noise": (0.04, 0.06, 0.08, 0.09, 0.10),  # standard deviation, where white is 1
    "blur": (0.4, 0.6, 0.7, 0.8, 1.0),  # standard deviation of the Gaussian in pixels, of 32
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),  # added to the value in HSV, where white is 1
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),  # the share that is left of the distance to the image's mean colour
    "JPEG": (80, 65, 58, 50, 40),  # quality
}


def corrupt(images, kind, strength, seed=0):
    """Return images (n, height, width, channels) uint8 with a corruption of `STRENGTHS`, at a strength from 1 to 5.

    A larger image is blurred over more pixels, so that it looks the same. Of one seed, the noise has the same pattern
    at every strength.
    """
    value = STRENGTHS[kind][strength - 1]
    if kind == "JPEG":
        return np.stack([_jpeg(image, value) for image in images])
    pixels = np.asarray(images, np.float32) / 255
    if kind == "noise":
        pixels += value * np.random.default_rng(seed).standard_normal(pixels.shape, np.float32)
    elif kind == "blur":
        width = value * pixels.shape[1] / 32
        pixels = ndimage.gaussian_filter(pixels, (0, width, width, 0), mode="nearest")
    elif kind == "brightness":  # hue and saturation stay: all channels grow alike
        brightest = pixels.max(axis=-1, keepdims=True)
        growth = np.minimum(brightest + value, 1) / np.maximum(brightest, 1 / 255)
        pixels = np.where(brightest > 0, pixels * growth, value)
    else:
        mean = pixels.mean(axis=(1, 2), keepdims=True)
        pixels = mean + value * (pixels - mean)
    return np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)


def _jpeg(image, quality):
    Image.fromarray(image.squeeze()).save(buffer := io.BytesIO(), "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).reshape(image.shape)
