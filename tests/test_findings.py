"""The findings on the first page of the site: which sentences records give rise to, and which numbers stand in them."""

from lib import decks, findings

import pytest

SPACE = "\N{NO-BREAK SPACE}"


def record(accuracy, notebook="02_baseline_cnn", pretrained=None, parameters=100, milliseconds=1.0, **dataset):
    """Return what the findings read of a record."""
    return {
        "notebook": notebook, "pretrained": pretrained, "settings": {},
        "dataset": {"name": "digits", "fingerprint": "0", "train": 1, "validation": 1, "test": 360} | dataset,
        "model": {"total_parameters": parameters, "flops": 1e6 * parameters},
        "metrics": {"accuracy": {"value": accuracy, "low": accuracy - 0.01, "high": accuracy + 0.01}},
        "training": {"seconds": 100 * accuracy}, "latency": {"batch_1_ms": {"median": milliseconds}}}  # fmt: skip


def sentences(**found):
    found = {name.replace("_", "-"): content for name, content in found.items()}
    return {number.replace(SPACE, " "): text.replace(SPACE, " ") for number, text in findings.sentences("smoke", found)}


@pytest.fixture(autouse=True)
def claims(monkeypatch):
    """The claims' verdicts are tested where they are made; records of digits say nothing about the decks."""
    monkeypatch.setattr(decks, "comparable", lambda record: False)


def test_without_records_only_the_claims_are_counted():
    (_, text), (number, claims) = sentences().items()
    assert "invoke run-all --profile smoke" in text
    assert number.startswith("0 of ") and "reproduced (0)" in claims


def test_numbers_of_the_sentences():
    found = sentences(
        A1=record(0.69649, milliseconds=0.9), E1=record(0.75), A1_own=record(0.8312),
        B4=record(0.99, pretrained="random"),
        mobilenetv2_own=record(0.949, "07_mobilenetv2", "imagenet", 900, 11.3),
        B3=record(0.94, "07_mobilenetv2", "imagenet", 800, 9.6))
    assert "best of 5 models, “MobileNetV2, our recipe” (mobilenetv2-own)" in found["94.9 %"]
    waiting = len(decks.names()) - 6  # B4 was run, with random weights
    assert "[93.9, 95.9]" in found["94.9 %"] and f". {waiting} more models wait for their run." in found["94.9 %"]
    assert "recipe” (A1-own) [82.1, 84.1], for 100 instead of 900 million operations" in found["83.1 %"]
    assert "83.1 % [82.1, 84.1] in place of 69.6 %" in found["+13.5 points"]  # as a reader subtracts
    assert "83 instead of 70 seconds" in found["+13.5 points"]
    assert "“MobileNetV2, fine-tuned” (B3), the fastest within one point" in found["9.6 ms"]
    assert "recipe” (A1-own) is the best of those about as fast as any: 1 ms, 83.1 %" in found["9.6 ms"]


def test_of_images_of_ones_own_the_decks_say_nothing():
    found = sentences(A1=record(0.8, name="flowers"), E1=record(0.7, name="flowers"))
    assert list(found) == ["80.0 %", "1 ms"]


def test_what_does_not_hold_is_not_said():
    found = sentences(A1=record(0.8), A1_own=record(0.7), E5=record(0.99, test=100))
    assert list(found)[:2] == ["80.0 %", "1 ms"] and len(found) == 3  # no gain, all from scratch; E5 had other images
    assert found["1 ms"] == "per image is the prediction time of the best."  # nobody else is near
    found = sentences(A1=record(0.8), A1_own=record(0.795, milliseconds=2.0))
    assert found["1 ms"] == "per image is the prediction time of the best; none within one point of it is faster."
