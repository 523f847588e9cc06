"""What notebooks show: figures as they look in a report."""

from lib import plots, show  # noqa: F401  (plots sets how text is read)

import matplotlib.pyplot as plt
import pytest


@pytest.mark.parametrize(("ends", "expected"), [((900, 60_000), {"1,000", "10,000"}), ((0.5, 0.8), {"0.5", "0.6"})])
def test_logarithmic_axes_read_as_people_write(ends, expected):
    """Although `plots` has Matplotlib read no formulas, since a class may be called $x$."""
    fig, (axis, other) = plt.subplots(1, 2)
    axis.set(xscale="log", xlim=ends)
    other.set_title(title := "$x$ costs $5")
    show.figure(fig, "Two pairs of axes.")
    labels = {label.get_text() for label in axis.get_xticklabels(which="both")}
    assert expected <= labels
    assert not [label for label in labels if "$" in label]
    assert not plt.rcParams["text.parse_math"]
    assert other.get_title() == title
