"""Claims of the decks and their verdicts: every boundary, what is never judged, and that no claim is left out."""

import copy
import subprocess
import sys

from lib import decks, project

import numpy as np
import pytest

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def metric(value, low=None, high=None):
    """Return a measured number, with an interval where its ends are given."""
    return {"value": value} | ({} if low is None else {"low": low, "high": high})


def settings(experiment):
    """Return what a record must say of an experiment to be judged."""
    return decks.load()["experiments"].get(experiment, {}).get("settings", {})


def record(experiment="B1", **changes):
    """Return a record of a full run on CIFAR-10; `changes` replace fields."""
    scores = {f"{score}_macro": metric(0.8, 0.79, 0.81) for score in decks.SCORES}
    history = {"accuracy": [0.5, 0.75, 0.8], "val_accuracy": [0.4, 0.74, 0.7]}
    return {"experiment": experiment, "notebook": "03_deeper_cnns", "pretrained": None,
            "dataset": {"name": "cifar10", "train": 45_000, "validation": 5_000, "test": 10_000},
            "settings": {"callbacks": [{"name": "EarlyStopping"}]} | settings(experiment),
            "model": {"total_parameters": 1000, "trainable_parameters": 900, "flops": 8e9},
            "metrics": {"accuracy": metric(0.8, 0.79, 0.81), "loss": metric(0.5, 0.48, 0.52), **scores},
            "training": {"epochs": 3, "seconds": 60.0, "history": history},
            "latency": {"batch_1_ms": {"median": 1.25}}} | changes  # fmt: skip


def line(found, experiment, number="accuracy (%)"):
    """Return one line of the ledger."""
    ledger = decks.ledger(found)
    (found_line,) = ledger[(ledger["experiment"] == experiment) & (ledger["number"] == number)].to_dict("records")
    return found_line


# ---------------------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(("number", "claim", "measured", "expected"), [
    # inside the interval, or within one point of the value, both with their ends
    ("accuracy", 0.80, metric(0.83, 0.80, 0.86), "reproduced"),
    ("accuracy", 0.7999, metric(0.83, 0.80, 0.86), "exceeded"),
    ("accuracy", 0.86, metric(0.83, 0.80, 0.86), "reproduced"),
    ("accuracy", 0.8601, metric(0.83, 0.80, 0.86), "not reached"),
    ("accuracy", 0.861, metric(0.871, 0.868, 0.874), "reproduced"),
    ("accuracy", 0.861, metric(0.8711, 0.868, 0.874), "exceeded"),
    ("accuracy", 0.861, metric(0.851, 0.848, 0.854), "reproduced"),
    ("accuracy", 0.861, metric(0.8509, 0.848, 0.854), "not reached"),
    ("precision", 0.8, metric(0.811), "exceeded"), ("recall", 0.8, metric(0.789), "not reached"),
    ("f1", 0.8, metric(0.81), "reproduced"),
    # a range: its nearest end or point counts
    ("accuracy", [0.64, 0.68], metric(0.66, 0.659, 0.661), "reproduced"),
    ("accuracy", [0.64, 0.68], metric(0.69, 0.687, 0.693), "reproduced"),
    ("accuracy", [0.64, 0.68], metric(0.6901, 0.687, 0.693), "exceeded"),
    ("accuracy", [0.64, 0.68], metric(0.70, 0.679, 0.721), "reproduced"),
    ("accuracy", [0.64, 0.68], metric(0.63, 0.627, 0.633), "reproduced"),
    ("accuracy", [0.64, 0.68], metric(0.6299, 0.627, 0.633), "not reached"),
    # a loss: lower is better; within 0.01, or half of the deck's last digit
    ("loss", 1.0501, metric(1.0601), "reproduced"), ("loss", 1.0501, metric(1.0602), "not reached"),
    ("loss", 1.0501, metric(1.0401), "reproduced"), ("loss", 1.0501, metric(1.0400), "exceeded"),
    ("loss", 1.0501, metric(1.08, 1.05, 1.11), "reproduced"),
    ("loss", 0.6, metric(0.65), "reproduced"), ("loss", 0.6, metric(0.651), "not reached"),
    ("loss", 0.6, metric(0.55), "reproduced"), ("loss", 0.6, metric(0.549), "exceeded"),
    ("loss", 0.63, metric(0.641), "not reached"),
    # a gap: in points, and the one nearer to zero is better, whatever its sign
    ("gap", 2.8, metric(3.8), "reproduced"), ("gap", 2.8, metric(3.81), "not reached"),
    ("gap", 2.8, metric(1.79), "exceeded"), ("gap", 2.8, metric(-1.5), "exceeded"),
    ("gap", 2.8, metric(-3.0), "not reached"), ("gap", -1.8, metric(-0.7), "exceeded"),
    ("gap", -1.8, metric(-2.9), "not reached"), ("gap", -1.8, metric(0.5), "exceeded"),
    ("gap", 0.0, metric(1.0), "reproduced"), ("gap", 0.0, metric(-1.1), "not reached"),
    ("gap", 17.8, metric(15.0, 12.0, 18.0), "reproduced"),
    # epochs: fewer are better, a tenth is nothing
    ("epochs", 50, metric(55), "reproduced"), ("epochs", 50, metric(56), "not reached"),
    ("epochs", 50, metric(45), "reproduced"), ("epochs", 50, metric(44), "not reached"),
    ("converged", 18, metric(19), "reproduced"), ("converged", 18, metric(20), "not reached"),
    ("converged", 18, metric(16), "exceeded"),
    # errors of a kind: fewer are better
    ("confused", 0.073, metric(0.083), "reproduced"), ("confused", 0.073, metric(0.084), "not reached"),
    ("confused", 0.073, metric(0.062), "exceeded"),
    # parameters: equal, or within 1 % of a number in thousands, and never better
    ("parameters", 315_722, metric(315_722), "reproduced"), ("parameters", 315_722, metric(315_723), "not reached"),
    ("parameters", 315_722, metric(315_721), "not reached"),
    ("parameters", 315_700, metric(315_701), "not reached"),
    ("parameters", 650_000, metric(656_500), "reproduced"), ("parameters", 650_000, metric(656_501), "not reached"),
    ("parameters", 650_000, metric(643_500), "reproduced"), ("parameters", 650_000, metric(643_499), "not reached"),
    ("trainable", 334_000, metric(333_578), "reproduced"), ("trainable", 404_444, metric(404_000), "not reached"),
])  # fmt: skip
def test_verdicts(number, claim, measured, expected):
    """Within and just beyond each boundary."""
    assert decks.verdict(number, claim, measured) == expected


REDUCED = {"name": "cifar10", "train": 45_000, "validation": 5_000, "test": 10_000}


@pytest.mark.parametrize(("number", "changes", "expected"), [
    ("accuracy", {}, None), ("epochs", {}, None), ("parameters", {}, None),
    ("ms", {}, "the deck's device"), ("seconds", {}, "the deck's device"),
    ("accuracy", {"pretrained": "imagenet"}, None), ("accuracy", {"pretrained": "random"}, "ImageNet weights"),
    ("parameters", {"pretrained": "random"}, "ImageNet weights"),
    ("accuracy", {"dataset": REDUCED | {"name": "digits"}}, "CIFAR-10"),
    ("parameters", {"dataset": REDUCED | {"name": "digits"}}, "CIFAR-10"),
    ("accuracy", {"dataset": REDUCED | {"name": "digits"}, "pretrained": "random"}, "CIFAR-10"),
    ("accuracy", {"dataset": REDUCED | {"train": 44_999}}, "all of CIFAR-10"),
    ("accuracy", {"dataset": REDUCED | {"validation": 4_999}}, "all of CIFAR-10"),
    ("accuracy", {"dataset": REDUCED | {"test": 9_999}}, "all of CIFAR-10"),
    ("accuracy", {"dataset": REDUCED | {"train": 40_000, "validation": 10_000}}, None),
    ("epochs", {"settings": {"callbacks": [{"name": "ReduceLROnPlateau"}]}}, "early stopping"),
    ("epochs", {"settings": {}}, "early stopping"), ("accuracy", {"settings": {}}, None),
])  # fmt: skip
def test_what_a_verdict_needs(number, changes, expected):
    """Digits and random weights are judged in nothing, parts of CIFAR-10 neither, times on no device but the deck's."""
    assert decks.needed(number, record(**changes)) == expected


@pytest.mark.parametrize(("experiment", "backbone", "same"), [
    ("B4", "VGG16", True), ("B4", "VGG19", False), ("B3", "MobileNetV2", True), ("B3", "MobileNet", False),
    ("E7", "EfficientNetV2B0", True), ("E7", "EfficientNetB0", False), ("C2", "ResNet50", True), ("A1", None, True)])
def test_another_backbone_is_not_compared_with_the_decks(experiment, backbone, same):
    """A notebook takes any; its experiments keep their names."""
    found = record(experiment, settings=settings(experiment) | {"backbone": backbone})
    assert decks.comparable(found) == same
    assert decks.needed("accuracy", found) == (None if same else "the deck's backbone")


def test_other_settings_than_the_decks_are_not_judged():
    """A ResNet of eight layers is no ResNet-20."""
    assert decks.needed("accuracy", record("E5")) is None
    assert decks.needed("accuracy", record("E5", settings={"depth": 8})) == "the deck's settings"
    assert decks.needed("accuracy", record("E7", settings=settings("E7") | {"image_size": 96})) == "the deck's settings"


def test_without_a_record_there_is_nothing_to_judge():
    """But a time could not be judged with one either."""
    assert decks.needed("accuracy", None) == "not run yet"
    assert decks.needed("seconds", None) == "the deck's device"


@pytest.mark.parametrize(("number", "expected"), [
    ("accuracy", metric(0.8, 0.79, 0.81)), ("f1", metric(0.7, 0.6, 0.9)), ("loss", metric(0.5, 0.48, 0.52)),
    ("epochs", metric(3)), ("converged", metric(2)), ("seconds", metric(60.0)), ("ms", metric(1.25)),
    ("parameters", metric(1000)), ("trainable", metric(900)),
])  # fmt: skip
def test_what_was_measured(number, expected):
    """Where a record keeps each number."""
    of = record()
    of["metrics"]["f1_macro"] = metric(0.7, 0.6, 0.9)
    assert decks.measured(number, of) == expected


def test_the_gap_is_the_last_epochs_with_its_interval():
    """80 % of 45,000 training and 70 % of 5,000 validation images: 1.96 standard errors of the difference."""
    gap = decks.measured("gap", record())
    error = 196 * np.sqrt(0.8 * 0.2 / 45_000 + 0.7 * 0.3 / 5_000)
    assert [gap[end] for end in ("value", "low", "high")] == pytest.approx([10, 10 - error, 10 + error])


# ---------------------------------------------------------------------------------------------- the ledger


def test_every_number_is_in_the_ledger_once():
    """And every claim that is no number of a row; what is known of a row beside its numbers is not."""
    lines = decks.ledger({})
    rows = [(name, decks.NUMBERS[number][0]) for name, row in decks.load()["experiments"].items()
            for number in set(row) - {"deck", "title", "notebook", "planned", "settings"}]
    odd = [(fault.get("experiment", ""), "claim") for fault in decks.load()["inconsistent"] if "number" not in fault]
    odd += [(claim["experiment"], "claim") for claim in decks.load()["uncheckable"]]
    assert sorted(zip(lines["experiment"], lines["number"], strict=True)) == sorted(rows + odd)


def test_without_records_no_number_is_judged():
    """Only what is inconsistent in itself, each with its reason; the rest names the command, or the device."""
    lines = decks.ledger({})
    assert set(lines["verdict"]) == {"inconsistent in itself", "not checkable here: not run yet",
                                     "not checkable here: the deck's device", "not checkable here: the deck's photo"}
    assert not lines["measured"].any()
    by_verdict = {verdict: set(group["note"]) for verdict, group in lines.groupby("verdict")}
    assert by_verdict["not checkable here: the deck's device"] == {""}
    assert "" not in by_verdict["inconsistent in itself"]
    assert line({}, "E5")["note"] == "invoke run-all --profile full --only 05"


def test_a_record_is_judged():
    """Each number of its row, with the interval."""
    found = {"B1": record()}
    assert line(found, "B1") == {
        "deck": "B", "experiment": "B1", "number": "accuracy (%)", "reported": "80.63",
        "measured": "80.0 [79.0, 81.0]", "verdict": "reproduced", "note": ""}  # fmt: skip
    assert line(found, "B2")["verdict"] == "not checkable here: not run yet"
    found["B1"]["metrics"]["f1_macro"] = metric(0.9, 0.89, 0.91)
    assert line(found, "B1", "F1 (%)")["verdict"] == "exceeded"


def test_numbers_are_written_as_the_deck_has_them():
    """Ranges, thousands, digits, and ours beside them."""
    found = {"A1": record("A1"), "D1": record("D1")}
    assert line(found, "A1")["reported"] == "64–68"
    parameters = line(found, "A1", "parameters")
    assert (parameters["reported"], parameters["measured"]) == ("315,722", "1,000")
    assert parameters["verdict"] == "not reached"
    assert line(found, "D1", "loss (nats)")["reported"] == "1.0501"
    assert line(found, "E4", "gap (points)")["reported"] == "−1.8"
    found["E4"] = record("E4")
    found["E4"]["training"]["history"] = {"accuracy": [0.5], "val_accuracy": [0.6]}
    assert line(found, "E4", "gap (points)")["measured"] == "−10.0 [−11.4, −8.6]"
    time = line(found, "D1", "prediction (ms)")
    assert (time["measured"], time["verdict"]) == ("1.25", "not checkable here: the deck's device")


@pytest.mark.parametrize(("changes", "need"), [
    ({"dataset": REDUCED | {"name": "digits"}}, "CIFAR-10"), ({"pretrained": "random"}, "ImageNet weights"),
])  # fmt: skip
def test_digits_and_random_weights_are_never_judged_nor_shown(changes, need):
    """Not even where they come out as the deck has it."""
    found = {name: record(name, **changes) for name in decks.load()["experiments"]}
    lines = decks.ledger(found)
    assert set(lines["verdict"]) == {"inconsistent in itself", f"not checkable here: {need}",
                                     "not checkable here: the deck's device", "not checkable here: the deck's photo"}
    assert not lines["measured"].any()
    forced = " --force" if need == "ImageNet weights" else ""  # the notebook ran, and nothing that it read has changed
    assert line(found, "B1")["note"] == f"invoke run-all --profile full --only 03{forced}"
    with_predictions = decks.details(found, lambda name: pytest.fail(f"{name} was read"))
    assert set(with_predictions["verdict"]) == {f"not checkable here: {need}"}
    assert not with_predictions["measured"].any()


def test_epochs_count_only_where_training_stops_early():
    """With the epochs asked for, their number is no result; no command changes that."""
    shown = line({"E3": record("E3", settings={"callbacks": []})}, "E3", "epochs")
    assert (shown["measured"], shown["verdict"], shown["note"]) == ("3", "not checkable here: early stopping", "")


def test_part_of_cifar10_is_shown_but_not_judged():
    """A quick run may show where it goes."""
    shown = line({"B1": record(dataset=REDUCED | {"train": 9_000})}, "B1")
    assert shown["measured"] == "80.0 [79.0, 81.0]"
    assert shown["verdict"] == "not checkable here: all of CIFAR-10"


@pytest.mark.parametrize(("experiment", "number", "reason"), [
    ("B5", "recall (%)", "on a balanced test set macro recall is the accuracy"),
    ("B5-phase1", "trainable parameters", "12,810"), ("C2", "training (s)", "50 s for each epoch is plausible"),
    ("D4", "loss (nats)", "the row may be of either"), ("D4", "recall (%)", "the row may be of either"),
    ("A3", "claim", "half of each gives 164,394"), ("E7", "claim", "50 are 18.5 %"),
])  # fmt: skip
@pytest.mark.parametrize("found", [{}, {name: record(name) for name in ("B5", "C2", "D4", "A3")}])
def test_what_is_inconsistent_stays_so(experiment, number, reason, found):
    """Whatever was measured."""
    shown = line(found, experiment, number)
    assert shown["verdict"] == "inconsistent in itself"
    assert reason in shown["note"]
    assert line(found, "B5")["verdict"] != "inconsistent in itself"


@pytest.mark.parametrize(("found", "arithmetic"), [
    ({}, "× 7.7 GFLOP are 38.5 TFLOP/s"),
    ({"C2": record("C2")}, "× 8.0 GFLOP are 40.0 TFLOP/s"),
    ({"C2": record("C2", settings={"image_size": 224})}, "× 8.0 GFLOP are 40.0 TFLOP/s"),
    ({"C2": record("C2", settings={"image_size": 96})}, "× 7.7 GFLOP are 38.5 TFLOP/s"),
])  # fmt: skip
def test_the_arithmetic_of_c2(found, arithmetic):
    """From the operations in the record, where it is of the deck's image size; else from the published ones."""
    assert arithmetic in line(found, "C2", "training (s)")["note"]


# ---------------------------------------------------------------------------------------------- classes and pairs


def answers(wrong, images=1000):
    """Return probabilities and labels of so many images of each class, with {(true, predicted): images} errors."""
    labels = np.repeat(np.arange(10), images)
    predicted = labels.copy()
    for (true, answer), count in wrong.items():
        place = np.flatnonzero((labels == CLASSES.index(true)) & (predicted == labels))[:count]
        predicted[place] = CLASSES.index(answer)
    return np.eye(10)[predicted], labels


def test_the_classes_are_cifar10s():
    """In the order of its labels, in all tables; pairs are of two of them."""
    assert all(list(table) == CLASSES for table in decks.load()["classes"].values())
    assert all({true, predicted} < set(CLASSES) for true, predicted, _ in decks.load()["confused"]["E7"])


def test_class_tables_are_compared():
    """Class by class and score by score: dog is called cat 300 times in 1,000."""
    lines = decks.details({"B1": record()}, lambda name: answers({("dog", "cat"): 300}))
    b1 = lines[lines["experiment"] == "B1"].set_index("number")
    assert len(b1) == 30
    assert b1.loc["cat: precision", ["reported", "measured", "verdict"]].to_list() == [
        "70", "77 [75, 79]", "exceeded"]  # fmt: skip
    assert b1.loc["dog: recall", ["reported", "measured", "verdict"]].to_list() == [
        "70", "70 [67, 73]", "reproduced"]  # fmt: skip
    assert b1.loc["dog: f1", "measured"].startswith("82 ")  # 2·1,000·0.7 / (1,000 + 700)
    assert set(lines[lines["experiment"] != "B1"]["verdict"]) == {"not checkable here: not run yet"}


def test_confused_pairs_are_compared():
    """In images of the 1,000 of the true class."""
    wrong = {("dog", "cat"): 40, ("cat", "dog"): 73, ("deer", "horse"): 60}
    lines = decks.details({"E7": record("E7")}, lambda name: answers(wrong))
    pairs = lines[lines["experiment"] == "E7"].set_index("number")[["reported", "measured", "verdict"]]
    assert len(pairs) == 10
    assert pairs.loc["dog → cat"].to_list() == ["73", "40 [30, 54]", "exceeded"]
    assert pairs.loc["cat → dog", "verdict"] == "reproduced"
    assert pairs.loc["deer → horse"].to_list() == ["18", "60 [47, 76]", "not reached"]
    small = decks.details({"E7": record("E7")}, lambda name: answers({("dog", "cat"): 2}, images=50))
    assert small.set_index("number").loc["dog → cat", "measured"].startswith("40 [")  # in 1,000, too


def test_a_class_that_is_never_called_scores_zero():
    """With an interval that says nothing of its precision."""
    matrix = decks.confusion(np.eye(3)[[0, 0, 0, 2]], np.array([0, 0, 1, 2]))
    assert matrix.tolist() == [[2, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert decks.class_scores(matrix, 1)["precision"] == {"value": 0, "low": 0, "high": 1}
    scores = decks.class_scores(matrix, 0)
    assert [round(scores[name]["value"], 4) for name in decks.SCORES] == [0.6667, 1, 0.8]


# ---------------------------------------------------------------------------------------------- names


def test_signs_are_the_verdicts():
    """One for each of the five, whatever is needed."""
    assert decks.sign("reproduced") == "✓"
    assert {decks.sign(verdict) for verdict in decks.ledger({})["verdict"]} == {"✗", "–"}
    assert len(set(decks.SIGNS.values())) == 5


def test_titles_and_what_a_deck_reports():
    """Of the decks' experiments and of ours; an unknown name is its own title."""
    assert decks.title("E5") == "ResNet-20"
    assert decks.title("A1-own") == "simple CNN, our recipe"
    assert decks.title("mine") == "mine"
    assert decks.reported("E1") == {"accuracy": 0.675, "loss": 1.1, "gap": 17.8, "parameters": 316_000}
    assert decks.reported("A1-own") is None


def test_names_come_in_the_order_of_notebooks():
    """The decks' before ours, and what only a record knows after both."""
    names = decks.names({"mine": {"notebook": "02_baseline_cnn"}, "A1": {"notebook": "02_baseline_cnn"}})
    assert names[:6] == ["A1", "E1", "D1", "D2", "A1-own", "mine"]
    assert set(names) == {*decks.load()["experiments"], *decks.load()["own"], "mine"}


def test_the_ledger_changes_nothing_it_is_given():
    """Neither the records nor what was read of decks.yaml."""
    found = {"B1": record(), "C2": record("C2")}
    before, claims = copy.deepcopy(found), copy.deepcopy(decks.load())
    decks.ledger(found)
    assert found == before
    assert decks.load() == claims


def test_it_answers_without_keras():
    """The command line may ask, too."""
    code = "import sys; from lib import decks; decks.ledger({}); sys.exit('keras' in sys.modules)"
    assert subprocess.call([sys.executable, "-c", code], cwd=project.ROOT) == 0
