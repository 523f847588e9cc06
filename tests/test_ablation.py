"""The choice of ingredients: what stays, and on top of what the next one is tried."""

from types import SimpleNamespace

from lib import ablation, training

import pytest

RECIPE = training.Recipe(epochs=1)


@pytest.fixture
def climb(monkeypatch):
    """Return a climb over {name: (arguments, settings, validation accuracy or None)}; None diverges."""
    def climb(steps):
        outcomes, seen = iter(step[2] for step in steps.values()), []

        def trial(study, model, data, recipe):
            accuracy = next(outcomes)
            seen.append((model.arguments, recipe))
            if accuracy is None:
                raise training.DivergedError("the loss is not a number")
            return {"history": {"accuracy": [0.1, 0.5], "val_accuracy": [0.9, accuracy]}, "seconds": 1.2}

        def build(**arguments):
            return SimpleNamespace(arguments=arguments, count_params=lambda: len(arguments))

        monkeypatch.setattr(training, "trial", trial)
        ingredients = {name: step[:2] for name, step in steps.items()}
        return *ablation.climb(SimpleNamespace(seed=0), build, RECIPE, ingredients, data=None), seen

    return climb


def test_what_helps_stays_and_what_does_not_goes(climb):
    """The next ingredient is tried on top of what stayed, and the last epoch counts, not the best."""
    network, recipe, trials, seen = climb({
        "start": ({}, {}, 0.5), "norm": ({"norm": True}, {}, 0.6), "worse": ({"width": 8}, {"shift": 2}, 0.55),
        "soft": ({}, {"label_smoothing": 0.1}, 0.6)})  # fmt: skip
    assert list(trials["kept"]) == [True, True, False, True]
    assert list(trials["validation accuracy"]) == [0.5, 0.6, 0.55, 0.6]
    assert list(trials["parameters"]) == [0, 1, 2, 1]
    assert network == {"norm": True}
    assert (recipe.label_smoothing, recipe.shift) == (0.1, 0)
    assert seen[2] == ({"norm": True, "width": 8}, training.Recipe(epochs=1, shift=2))
    assert seen[3] == ({"norm": True}, recipe)


def test_a_training_that_diverges_is_not_kept(climb, capsys):
    """It is said, and the climb goes on."""
    _, recipe, trials, _ = climb({"start": ({}, {}, 0.5), "hot": ({}, {"learning_rate": 9.0}, None),
                                  "soft": ({}, {"label_smoothing": 0.1}, 0.7)})
    assert list(trials["kept"]) == [True, False, True]
    assert (recipe.learning_rate, recipe.label_smoothing) == (1e-3, 0.1)
    assert "the loss is not a number" in capsys.readouterr().out


def test_candidates_are_compared_on_what_each_leaves_to_train(monkeypatch):
    """The last epoch counts; the arguments before the recipe say what is trained."""
    seen, accuracies = [], iter([0.5, 0.75])

    def trial(study, model, data, recipe):
        seen.append((study, model, data, recipe))
        return {"history": {"accuracy": [0.1, 0.4], "val_accuracy": [0.9, next(accuracies)]}, "seconds": 1.2}

    monkeypatch.setattr(training, "trial", trial)
    longer = training.Recipe(epochs=2)
    trials = ablation.compare("study", lambda last, frozen: (f"last {last}", f"maps {frozen}"),
                              {"plain": (3, False, RECIPE), "longer": (6, True, longer)})
    assert seen == [("study", "last 3", "maps False", RECIPE), ("study", "last 6", "maps True", longer)]
    assert trials.to_dict("list") == {"recipe": ["plain", "longer"], "training accuracy": [0.4, 0.4],
                                      "validation accuracy": [0.5, 0.75], "seconds": [1, 1]}
