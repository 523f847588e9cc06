"""The helpers of JupyterLab, without a browser: what they show, and what a report shows in their place."""

from types import SimpleNamespace

from lib import browse, photo, show, training

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("study")
CLASSES = ("cat", "<dog>", "frog")


def run(predicted):
    """Return a run of images of the classes 0, 0, 0, 1, 1, 2 with these answers."""
    return SimpleNamespace(probabilities=0.1 + 0.7 * np.eye(3)[predicted], labels=np.array([0, 0, 0, 1, 1, 2]))


@pytest.fixture
def shown(monkeypatch):
    """What was displayed in JupyterLab: a list of (content, metadata)."""
    found = []
    monkeypatch.setenv("JPY_SESSION_NAME", "07.ipynb")
    monkeypatch.setattr(show, "display", lambda content, raw, metadata: found.append((content, metadata)))
    return found


@pytest.fixture
def drawn(monkeypatch):
    """The images of each figure, as they are drawn."""
    found, draw = [], browse.plots.images

    def spy(rows, *more, **named):
        found.append(rows)
        return draw(rows, *more, **named)

    monkeypatch.setattr(browse.plots, "images", spy)
    return found


def test_menus_choose_the_pair_of_classes(shown):
    view = browse.errors(run([1, 1, 0, 0, 1, 2]), np.zeros((6, 32, 32, 3), np.uint8), CLASSES)
    assert "application/vnd.jupyter.widget-view+json" in shown[0][0]
    (true, predicted), below = view.children[0].children, view.children[1]
    assert (true.value, predicted.value) == (0, 1)
    assert 'alt="cat → &lt;dog&gt;: 2 of the test images, the surest answers first" src="data:image/png;' in below.value
    true.value, predicted.value = 1, 0
    assert "&lt;dog&gt; → cat: 1 of the test images" in below.value
    predicted.value = 2
    assert below.value == "<p>&lt;dog&gt; → frog: 0 of the test images</p>"


def test_a_report_shows_the_most_confused_pair(shown, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME")
    browse.errors(run([1, 1, 0, 0, 1, 2]), np.zeros((6, 32, 32, 3), np.uint8), CLASSES)
    content, metadata = shown[0]
    assert content.keys() == {"image/png", "text/plain"}  # a stored widget would be an error to the next reader
    assert content["image/png"].startswith(b"\x89PNG")
    assert metadata["image/png"]["alt"].startswith("cat → <dog>: 2 of the test images, the surest answers first.")


def test_a_network_without_errors_is_no_error(shown):
    browse.errors(run([0, 0, 0, 1, 1, 2]), np.zeros((6, 32, 32, 3), np.uint8), CLASSES)
    assert "image/png" in shown[0][0] and "3 of the test images" in shown[0][0]["text/plain"]  # cats taken for cats


def test_a_threshold_says_what_is_answered_and_how_well(shown):
    answers = run([0, 0, 1, 1, 1, 2])
    answers.probabilities[:, :] = np.where(answers.probabilities > 0.5, [[0.9], [0.7], [0.6], [0.5], [0.4], [0.3]], 0.1)
    view = browse.threshold(answers, np.zeros((6, 32, 32, 3), np.uint8), CLASSES)
    slider, below = view.children[0].children[0], view.children[1]
    assert slider.value == 55  # the median: half are answered
    assert shown[0][1]["image/png"]["alt"].startswith(
        "Declining below 55%, it answers 50.0% of the test images, 66.7% of these correctly.")
    slider.value = 65
    assert "it answers 33.3% of the test images, 100.0% of these correctly" in below.value
    slider.value = 100
    assert 'it answers 0.0% of the test images"' in below.value and "data:image/png" in below.value
    slider.value = 0
    assert "it answers 100.0% of the test images, 83.3% of these correctly" in below.value


def test_an_augmentation_is_drawn_again(shown, drawn, noise):
    view = browse.augmented(noise.train, training.Recipe(epochs=1, flip="alternate", shift=2), count=4)
    assert "in epochs 1 and 2" in shown[0][1]["image/png"]["alt"]
    button, below = view.children[0].children[0], view.children[1]
    button.click()
    assert "4 training images" in below.value and "in epochs 3 and 4" in below.value
    first, second = drawn
    assert len(first) == len(second) == 12
    for rows in drawn:
        np.testing.assert_array_equal(rows[:4], noise.train.images[:4])
    assert not np.array_equal(first[4:], second[4:])


def test_what_is_drawn_is_what_training_sees(shown, drawn, noise):
    """Without augmentation the images as they are, in their order."""
    browse.augmented(noise.train, training.Recipe(epochs=1), count=50)
    np.testing.assert_array_equal(drawn[0], np.concatenate([noise.train.images] * 3))


def test_two_photos_stand_side_by_side(shown):
    asked = []

    def look(picture):
        asked.append(picture.name)
        saved = photo.Saved("A2", None, "digits", CLASSES, None)
        answers = [photo.Answer(saved, np.roll([0.7, 0.2, 0.1], len(picture.name)))]
        return answers, {"A2": np.asarray(picture.crop)} if picture.name == "one" else {}

    photos = {name: photo.Photo(name, (8, 6), photo.Image.new("RGB", (8, 6))) for name in ("one", "<two>", "four")}
    view = browse.two_photos(photos, look)
    (first, second), below = view.children[0].children, view.children[1]
    assert (first.description, second.description) == ("first", "second")
    assert shown[0][1]["image/png"]["alt"].startswith(
        "one – A2: cat 70%, <dog> 20%, frog 10% · four – A2: <dog> 70%, frog 20%, cat 10%.")
    second.value = "<two>"
    assert "&lt;two&gt; – A2: frog 70%, cat 20%, &lt;dog&gt; 10%" in below.value
    first.value = "four"
    assert asked == ["one", "four", "<two>"]
