"""What notebooks show: figures as they look in a report."""

import io
import json
import re
from types import SimpleNamespace

from lib import pictures, plots, show  # noqa: F401  (plots sets how text is read)

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image


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
    assert other.get_title("left") == title


def test_what_is_missing_in_a_table_is_blank(monkeypatch):
    """Not None, nor nan."""
    shown = []
    monkeypatch.setattr(show, "display", lambda content, raw: shown.append(content))
    show.table(pd.DataFrame({"deck (%)": [None, "65"], "none": [None, None], "loss": [0.5, None]}), "Some numbers")
    assert shown[0]["text/html"].count("<td></td>") == 4
    assert not [word for word in ("None", "nan") for text in shown[0].values() if word in text]


def test_a_table_reads_as_a_reader_would_write_it(monkeypatch):
    """Large whole numbers have commas, and what is true or not is so in words."""
    shown = []
    monkeypatch.setattr(show, "display", lambda content, raw: shown.append(content))
    show.table(pd.DataFrame({"parameters": [1234567, 2], "kept": [True, False]}), "Some numbers")
    assert re.findall("<td>(.*?)</td>", shown[0]["text/html"]) == ["1,234,567", "yes", "2", "no"]
    assert shown[0]["text/plain"].split() == ["Some", "numbers", "parameters", "kept", "1,234,567", "yes", "2", "no"]


def test_whatever_is_not_the_decks_is_said(monkeypatch):
    """One banner for each of images, weights and trunk; none for what the decks had."""
    said = []
    monkeypatch.setattr(show, "banner", said.append)
    show.caveats(SimpleNamespace(name="cifar10", title="CIFAR-10"), "VGG16", "VGG16", "imagenet")
    assert said == []
    show.caveats(SimpleNamespace(name="digits", title="digits"), "VGG19", "VGG16", "random")
    assert [text.split(":")[0] for text in said] == [
        "This run is on digits, not on CIFAR-10", "VGG19 has random instead of ImageNet weights here",
        "The trunk is VGG19, not VGG16"]  # fmt: skip


@pytest.mark.parametrize("dpi", [72, 100])
def test_hover_knows_where_each_point_is_in_the_picture(monkeypatch, dpi):
    """Whatever surrounds the axes, and whatever resolution the notebook's front end asks for."""
    shown = []
    monkeypatch.setattr(show, "display", lambda content, raw, metadata: shown.append((content, metadata)))
    points = np.array([[0.0, 0.0], [10.0, 3.0], [4.0, 8.0]])
    fig, axis = plt.subplots(figsize=(7, 4), dpi=dpi, layout="constrained")
    axis.set(title="A title", ylabel="a\nlabel", xlim=(-2, 12), ylim=(-1, 9))
    for point, colour in zip(points, ("red", "lime", "blue"), strict=True):
        axis.plot(*point, "s", color=colour, markersize=8, markeredgewidth=0, label="<cat>")
    fig.legend(["left", "out"], loc="outside right center")
    show.figure(fig, "Points.", hover=(points, np.zeros((3, 32, 32, 3), np.uint8), ["<cat>", "dog", "dog"]))
    content, hover = shown[0][0], json.loads(shown[0][1]["study"]["hover"])
    png = Image.open(io.BytesIO(content["image/png"])).convert("RGB")
    assert [spot[2] for spot in hover["spots"]] == ["<cat>", "dog", "dog"]
    for number, (x, y, _) in enumerate(hover["spots"]):
        pixel = png.getpixel((int(x / 100 * png.width), int(y / 100 * png.height)))
        assert np.argmax(pixel) == number and sorted(pixel)[1] < 50, (x, y, pixel)


def test_a_sheet_holds_the_images_in_order():
    colours = np.arange(0, 250, 10, np.uint8)
    sheet = pictures.sheet(np.tile(colours[:, None, None, None], (1, 8, 8, 3)), quality=60)
    pixels = np.asarray(Image.open(io.BytesIO(sheet)))
    side, columns = pictures.SIDE, pictures.COLUMNS
    assert pixels.shape == (2 * side, columns * side, 3)
    middles = pixels[side // 2 :: side, side // 2 :: side].mean(axis=-1).ravel()
    np.testing.assert_allclose(middles[: len(colours)], colours, atol=3)
