"""The picture that opens the index: which steps records give rise to, and what its alt text says of them."""

import io

from lib import decks, waterfall

import pytest
from PIL import Image


def record(accuracy, pretrained=None, chosen_from=None, notebook="02_baseline_cnn", chosen_on=None, **dataset):
    """Return what the picture reads of a record."""
    return {
        "notebook": notebook, "pretrained": pretrained, "model": {"total_parameters": round(1000 * accuracy)},
        "settings": {"chosen_from": chosen_from} | ({"chosen_on": chosen_on} if chosen_on else {}),
        "dataset": {"name": "digits", "fingerprint": "0", "test": 360} | dataset,
        "metrics": {"accuracy": {"value": accuracy, "low": accuracy - 0.01, "high": accuracy + 0.01}}}  # fmt: skip


TRIALS = [{"ingredient": "as deck E", "validation accuracy": 0.5, "kept": True},
          {"ingredient": "soft labels", "validation accuracy": 0.45, "kept": False},
          {"ingredient": "cutout", "validation accuracy": 0.625, "kept": True}]
FOUND = {"A1": record(0.69649), "A1-own": record(0.8312), "A2": record(0.75), "resnet20-own": record(0.9, None, TRIALS),
         "B3": record(0.88, "imagenet"), "mobilenetv2-own": record(0.95, "imagenet"), "B4": record(0.99, "random")}


def test_every_step_names_what_changed_since_the_one_before():
    steps = waterfall.chain({name: each for name, each in FOUND.items() if name != "B4"})
    assert [(step.value, step.gain) for step in steps] == [
        (69.6, ""), (83.1, "+13.5"), (90.0, "+6.9"), (88.0, "−2.0"), (95.0, "+7.0")]  # fmt: skip
    assert steps[2].change == "another network: ResNet-20, our recipe"
    assert steps[3].change == (  # phase 1 has no record
        "a new start: MobileNetV2 that knows ImageNet, frozen; its last third thawed")
    assert steps[4].interval == pytest.approx((1, 1))


def test_the_last_step_is_the_best_model_of_whatever_family():
    steps = waterfall.chain({"A1": record(0.7), "A1-own": record(0.83), "D3": record(0.95, "imagenet")})
    assert [step.value for step in steps] == [70.0, 83.0, 95.0]
    assert steps[-1].change == f"a new start: {decks.title('D3')}"


def test_a_family_without_records_is_not_named():
    steps = waterfall.chain({"B3-phase1": record(0.88, "imagenet"), "mobilenetv2-own": record(0.95, "imagenet")})
    assert [step.change for step in steps] == ["a new start: MobileNetV2 that knows ImageNet, frozen",
                                               "its last third thawed; its BatchNorm kept frozen; our recipe for it"]


@pytest.mark.filterwarnings("error")
def test_a_change_of_many_words_keeps_to_the_picture():
    """Its alt text has them all."""
    _, ((png, alt),) = waterfall.story({"A1": record(0.7), "mobilenetv2-own": record(0.95, "imagenet")})
    assert Image.open(io.BytesIO(png)).width == 750
    assert "frozen; its last third thawed; its BatchNorm kept frozen; our recipe for it 95.0 %" in alt


def test_a_network_that_is_no_better_is_no_step():
    steps = waterfall.chain({"A1": record(0.7), "A1-own": record(0.83), "A2": record(0.75)})
    assert [step.value for step in steps] == [70.0, 83.0]


def test_ingredients_are_compared_with_what_was_kept():
    ((name, steps),) = waterfall.ladders(FOUND)
    assert name == "resnet20-own"
    assert [(step.change, step.gain, step.kept) for step in steps] == [
        ("as deck E", "", True), ("soft labels", "−5.0", False), ("cutout", "+12.5", True)]  # fmt: skip
    assert waterfall.ladders({"A1": record(0.7)}) == []


def test_each_notebook_has_one_ladder_the_best_first():
    """Trials on several networks are those of the network that chose; candidates that are no steps have no names."""
    several = [{"recipe": "plain", "A2": 0.6, "A3": 0.5}, {"recipe": "+ cutout", "A2": 0.65, "A3": 0.45}]
    unnamed = [{"candidate": "a, b", "validation accuracy": 0.8}] * 2
    found = FOUND | {"A2-own": record(0.93, None, several, "03_deeper_cnns", "A2"), "A3-own": record(
        0.92, None, several, "03_deeper_cnns", "A3"), "vgg-own": record(0.94, None, unnamed, "04_vgg")}  # fmt: skip
    (first, steps), (second, _) = waterfall.ladders(found)
    assert (first, second) == ("A2-own", "resnet20-own")
    assert [(step.change, step.gain) for step in steps] == [("plain", ""), ("cutout", "+5.0")]


def test_a_ladder_is_that_of_the_network_in_the_trials():
    """A larger one may take over its recipe, and be better."""
    tried = [trial | {"parameters": 910} for trial in TRIALS]
    found = {"modern-wide": record(0.92, None, tried), "modern-small": record(0.91, None, tried)}
    assert [name for name, _ in waterfall.ladders(found)] == ["modern-small"]


def test_the_pictures_and_their_texts_are_of_the_same_images():
    found = FOUND | {"E5": record(0.97, test=100)}  # it answered others
    title, pictures = waterfall.story(found)
    assert title == "From 69.6 to 95.0 %: what each step bought"
    assert all(Image.open(io.BytesIO(png)).width > 700 for png, _ in pictures)
    (_, chain), (_, ingredients) = pictures
    assert chain.startswith("Accuracy on the 360 test images of handwritten digits (scikit-learn):")
    assert "97.0" not in chain and "99.0" not in chain
    assert "cutout 62.5 % (+12.5)" in ingredients and "not kept" in ingredients


def test_the_name_of_a_folder_is_no_formula(tmp_path):
    """Matplotlib would take what stands between two dollar signs for one."""
    for name in ("$_$", "50% $x_$"):
        found = {key: record | {"dataset": record["dataset"] | {"name": str(tmp_path / name)}}
                 for key, record in FOUND.items()}  # fmt: skip
        assert len(waterfall.story(found)[1]) == 2


def test_without_two_steps_there_is_no_picture():
    assert waterfall.story({}) is None
    assert waterfall.story({"A1": record(0.7)}) is None


def test_the_story_is_of_experiments_that_there_are():
    known = decks.load()["experiments"] | decks.load()["own"]
    assert all(name in known for family in decks.load()["story"] for name in family)
