"""Figures, as a reader sees them."""

from itertools import combinations
from types import SimpleNamespace

from lib import plots

import matplotlib.pyplot as plt
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def closed():
    """No figure is left open."""
    yield
    plt.close("all")


def made_up(classes, images=1000):
    """Return a `training.Run` with answers of all confidences."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, images)
    probabilities = generator.random((images, classes)) ** 4 + generator.random((images, 1)) * np.eye(classes)[labels]
    history = {curve: [0.1, 0.5, 0.4] for curve in ("accuracy", "val_accuracy", "loss", "val_loss")}
    return SimpleNamespace(probabilities=probabilities / probabilities.sum(axis=1, keepdims=True), labels=labels,
                           history=history, record={})


def known():
    """Return a `training.Run` with the answers to five images of class 0, two of them wrong, and one of class 1."""
    run, first = made_up(2), np.array([0.95, 0.95, 0.75, 0.45, 0.35, 0.05])
    run.probabilities, run.labels = np.stack([first, 1 - first], axis=1), np.array([0, 0, 0, 0, 0, 1])
    return run


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


def test_a_grid_of_no_images_says_so():
    """A model of a few images of one's own may make no error."""
    run = made_up(3)
    run.labels = run.probabilities.argmax(axis=1)
    fig = plots.errors(run, np.zeros((len(run.labels), 8, 8, 3)), ("a", "b", "c"), "A")
    assert [text.get_text() for text in fig.texts] == ["A: surest errors (true → predicted): none"]


def test_titles_are_on_the_left():
    """A phone shows that part of a wide figure first: there the middle of a title says nothing."""
    run, rows = made_up(3), np.zeros((9, 8, 8, 3))
    for fig in (plots.learning_curves({"A": run.history}, "Curves"), plots.dashboard(run, ("a", "b", "c"), "All"),
                plots.images(rows, 9 * ["zero"], "Images"), plots.captioned(rows[:2], "ab", [["one"], ["two"]])):
        fig.draw_without_rendering()
        assert all(title.get_window_extent().x0 < 5 for title in fig.texts)
        assert not any(axis.get_title("center") for axis in fig.axes)


@pytest.mark.parametrize("classes", [10, 20])
def test_class_names_keep_apart(classes):
    """Along the axes of the confusion matrix and of the scores of each class; upright on the vertical ones."""
    names = [f"an automobile, kind {number}" for number in range(classes)]
    fig = plots.dashboard(made_up(classes), names, "All")
    for axis in fig.axes[2:4]:
        assert not overlapping(fig, axis.get_xticklabels())
        assert not overlapping(fig, axis.get_yticklabels())
        assert {label.get_rotation() for label in axis.get_yticklabels()} == {0}


def test_a_single_epoch_is_seen():
    """A line through one point is not; and no epoch stands between whole ones."""
    history = {curve: [0.5] for curve in ("accuracy", "val_accuracy", "loss", "val_loss")}
    fig = plots.learning_curves({"A": history}, "Curves")
    assert {line.get_marker() for axis in fig.axes for line in axis.lines} == {".", "o"}
    assert all(tick == int(tick) for axis in fig.axes for tick in axis.get_xticks())


def test_the_surest_error_comes_first():
    """Under its classes and its confidence."""
    pictures = np.arange(6)[:, None, None, None] * np.ones((8, 8, 1))
    (axis,) = plots.errors(known(), pictures, "ab", "All").axes
    assert [text.get_text() for text in axis.texts] == ["a\n→ b\n65%", "a\n→ b\n55%"]
    assert [drawn.get_array().max() for drawn in axis.images] == [4, 3]


def test_a_dashboard_shows_shares_of_each_true_class_and_of_each_kind_of_answer():
    """Rows of the confusion matrix, and bars of the histograms, sum to 100 %."""
    axes = plots.dashboard(known(), ("a", "b"), "All").axes
    assert [text.get_text() for text in axes[2].texts] == ["60", "40", "0", "100"]
    bars = {patch.get_label(): patch.get_data().values for patch in axes[6].patches}
    found = {kind: {int(place): values[place] for place in np.flatnonzero(values)} for kind, values in bars.items()}
    assert found == {"right answers": {11: 25, 14: 75}, "wrong answers": {8: 50, 9: 50}}


def test_of_many_classes_those_of_the_lowest_f1_are_shown():
    """The lowest first: of 21 with an image each, 4 is taken for 7."""
    run, answers = made_up(21), np.arange(21)
    run.labels, answers[4] = np.arange(21), 7
    run.probabilities = np.eye(21)[answers]
    classes = plots.dashboard(run, [str(number) for number in range(21)], "All").axes[3]
    assert [label.get_text() for label in classes.get_yticklabels()][:3] == ["4", "7", "0"]
    assert classes.lines[2].get_xdata().tolist() == [0, 0.667] + 18 * [1]
