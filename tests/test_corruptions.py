"""What corruptions do to images: the right thing, the same each time, and more at a greater strength."""

import colorsys

from lib import corruptions

import numpy as np
import pytest
from scipy import ndimage

KINDS = [*corruptions.STRENGTHS]


def photos(*shape):
    """Return images of this shape with soft colours, from dark to light, as photos have them."""
    rough = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), (0, 2, 2, 0))
    return np.uint8(np.interp(rough, (rough.min(), rough.max()), (0, 255)))


def test_strengths_are_those_of_cifar_10_c():
    """As the authors' make_cifar_c.py has them."""
    assert corruptions.STRENGTHS == {
        "noise": (0.04, 0.06, 0.08, 0.09, 0.10), "blur": (0.4, 0.6, 0.7, 0.8, 1),
        "brightness": (0.05, 0.1, 0.15, 0.2, 0.3), "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
        "JPEG": (80, 65, 58, 50, 40)}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 32, 32, 3), (2, 40, 24, 3), (1, 8, 8, 1)])
def test_corrupted_images_have_the_same_form_and_come_again(kind, shape):
    """The images that were given stay as they are, though they cannot be written to."""
    images = photos(*shape)
    images.flags.writeable = False
    for strength in range(1, 6):
        corrupted = corruptions.corrupt(images, kind, strength)
        assert corrupted.shape == shape
        assert corrupted.dtype == np.uint8
        np.testing.assert_array_equal(corrupted, corruptions.corrupt(images, kind, strength))


@pytest.mark.parametrize("kind", KINDS)
def test_a_greater_strength_changes_more(kind):
    """From the weakest on, which changes something."""
    images = photos(20, 32, 32, 3)
    changes = [np.abs(corruptions.corrupt(images, kind, strength) - np.float32(images)).mean()
               for strength in range(1, 6)]
    assert changes[0] > 0
    assert (np.diff(changes) > 0).all()


def test_noise_has_its_deviation_and_one_pattern():
    """Another seed gives another pattern."""
    grey = np.full((4, 64, 64, 3), 128, np.uint8)
    weak, strong = (corruptions.corrupt(grey, "noise", strength) - 128.0 for strength in (1, 5))
    assert weak.std() == pytest.approx(0.04 * 255, rel=0.02)
    assert strong.std() == pytest.approx(0.10 * 255, rel=0.02)
    np.testing.assert_allclose(strong, 2.5 * weak, atol=2)
    other = corruptions.corrupt(grey, "noise", 1, seed=1) - 128.0
    assert abs(np.corrcoef(weak.ravel(), other.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize(("size", "deviation"), [(32, 1), (96, 3)])
def test_blur_spreads_a_point_over_its_width(size, deviation):
    """In proportion to the image, within its channel; what is even stays even, to the border."""
    images = np.zeros((1, size, size, 3), np.uint8)
    images[0, size // 2 - deviation : size // 2 + deviation + 1, :, 1] = 255  # a line
    profile = corruptions.corrupt(images, "blur", 5)[0, :, 5].astype(float)
    assert not profile[:, [0, 2]].any()
    places, weights = np.arange(size) - size // 2, profile[:, 1] / profile[:, 1].sum()
    width = 2 * deviation + 1
    assert (places**2 @ weights) - (width**2 - 1) / 12 == pytest.approx(deviation**2, rel=0.05)
    np.testing.assert_array_equal(corruptions.corrupt(images * 0 + 77, "blur", 5), images * 0 + 77)


def test_brightness_raises_the_value_alone():
    """As Python's own colorsys has it; black becomes grey."""
    images = np.random.default_rng(0).integers(0, 256, (1, 10, 10, 3), np.uint8)
    images[0, 0, 0] = 0
    expected = []
    for colour in images.reshape(-1, 3) / 255:
        hue, saturation, value = colorsys.rgb_to_hsv(*colour)
        expected.append(colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.2)))
    found = corruptions.corrupt(images, "brightness", 4).reshape(-1, 3)
    np.testing.assert_allclose(found, 255 * np.array(expected), atol=0.51)


def test_contrast_draws_colours_to_their_mean():
    """Of each image and channel; the weakest leaves three quarters of the distance."""
    images = np.uint8([[[[0, 100]], [[200, 100]]], [[[40, 8]], [[40, 16]]]])
    assert corruptions.corrupt(images, "contrast", 1).tolist() == [[[[25, 100]], [[175, 100]]], [[[40, 9]], [[40, 15]]]]
