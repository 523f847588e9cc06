"""What the five slide decks report, from `decks.yaml`, and how it compares with a record.

Introduced in notebook 12.
"""

import functools
from pathlib import Path

import yaml


@functools.cache
def load():
    """Return the content of `decks.yaml`: {"experiments", "classes", "confused", "inconsistent"}."""
    return yaml.safe_load(Path(__file__).with_name("decks.yaml").read_text(encoding="utf-8"))


def reported(experiment):
    """Return the deck's numbers for an experiment, such as {"accuracy": 0.675, "loss": 1.1}, or None."""
    row = load()["experiments"].get(experiment, {})
    return {name: value for name, value in row.items() if name not in ("deck", "title", "notebook")} or None


def title(experiment):
    """Return the model in a few words, or the experiment's own name where no deck has it."""
    return load()["experiments"].get(experiment, {}).get("title", experiment)
