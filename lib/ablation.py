"""What an ingredient or a recipe is worth on validation data.

Introduced in notebook 04; `compare` in 08.
"""

from dataclasses import replace

from lib import training

import keras
import pandas as pd


def climb(study, build, recipe, ingredients, data):
    """Add ingredients one after another, keep those that help, and return (network, recipe, DataFrame of all trials).

    An ingredient, by name, is a pair: arguments for `build`, which returns a model, and settings of the recipe. It
    stays if the validation accuracy after the last epoch is at least the best so far, so the first one always does; a
    training that diverges counts as 0. `network` holds the arguments that stayed. Test images are not touched.
    """
    network, best, trials = {}, 0.0, []
    for name, (arguments, settings) in ingredients.items():
        tried, changed = network | arguments, replace(recipe, **settings)
        keras.utils.set_random_seed(study.seed)
        model = build(**tried)
        try:
            run = training.trial(study, model, data, changed)
        except training.DivergedError as error:
            print(error)
            run = {"history": {"accuracy": [0.0], "val_accuracy": [0.0]}, "seconds": 0.0}
        accuracy = run["history"]["val_accuracy"][-1]
        kept = accuracy >= best
        if kept:
            network, recipe, best = tried, changed, accuracy
        trials.append({"ingredient": name, "training accuracy": run["history"]["accuracy"][-1],
                       "validation accuracy": accuracy, "kept": kept, "parameters": model.count_params(),
                       "seconds": round(run["seconds"])})
    return network, recipe, pd.DataFrame(trials).round(3)


def compare(study, part, candidates):
    """Return a DataFrame with the outcome of one trial for each of the candidates {name: (*arguments, recipe)}.

    `part(*arguments)` returns what the recipe is tried on: a model, or its thawed end, that always begins with the same
    weights, and its data. Test images are not touched.
    """
    trials = []
    for name, (*arguments, recipe) in candidates.items():
        run = training.trial(study, *part(*arguments), recipe)
        trials.append({"recipe": name, "training accuracy": run["history"]["accuracy"][-1],
                       "validation accuracy": run["history"]["val_accuracy"][-1], "seconds": round(run["seconds"])})
    return pd.DataFrame(trials).round(3)
