"""Figures, as a reader sees them."""

from itertools import combinations

from lib import plots

import matplotlib.pyplot as plt
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def closed():
    """No figure is left open."""
    yield
    plt.close("all")


def overlapping(fig, artists):
    """Return the pairs of artists that are drawn over each other."""
    fig.draw_without_rendering()
    boxes = [artist.get_window_extent() for artist in artists]
    return [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]


@pytest.mark.parametrize("lines", [1, 3])
def test_a_grid_of_images_is_drawn_at_once(lines):
    """Whatever their sizes; a pair of axes for each makes the helpers of JupyterLab slow. Titles keep their room."""
    rows = 3 * [np.zeros((32, 32, 3), np.uint8), np.ones((8, 8, 1)), np.zeros((48, 64, 3)), np.zeros((64, 48, 3))]
    fig = plots.images(rows, 12 * ["\n".join(lines * ["→ automobile"])], "All", columns=4)
    (axis,) = fig.axes
    assert not overlapping(fig, [*axis.images, *axis.texts, *fig.texts])
    for image, drawn, title in zip(rows, axis.images, axis.texts, strict=True):
        box, above = drawn.get_window_extent(), title.get_window_extent()
        assert box.height / box.width == pytest.approx(image.shape[0] / image.shape[1])
        assert max(box.height, box.width) == pytest.approx(1.02 * fig.dpi)
        assert 0 < above.y0 - box.y1 < 0.1 * fig.dpi
        assert (above.x0 + above.x1) / 2 == pytest.approx((box.x0 + box.x1) / 2, abs=1)
