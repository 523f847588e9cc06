"""What each step bought, from the decks' simplest network to the best model: the pictures that open the index.

Steps are compared on the same test images; the ingredients of a recipe were tried on validation images, and have an
axis of their own.
"""

import io
import textwrap
from dataclasses import dataclass

from lib import data, decks, findings

GAIN, LOSS, QUIET = "#0173b2", "#d55e00", "#949494"  # of seaborn's colour-blind palette, as in all figures


@dataclass(frozen=True)
class Step:
    """What changed, the accuracy after it and the one that it is compared with (None for the first), in per cent.

    `interval` is the length of the 95 % interval below and above, where one is known; a step that was tried and not
    `kept` is not what the next one starts from.
    """

    change: str
    value: float
    before: float | None
    interval: tuple | None = None
    kept: bool = True

    @property
    def gain(self):
        """Points gained as a reader subtracts them, such as "+1.3"; "" for the first step."""
        return "" if self.before is None else f"{self.value - self.before:+.1f}".replace("-", "−")


def chain(group):
    """Return the steps to the best of models that answered the same test images, from records {experiment: record}.

    They are the first family of `story` in decks.yaml, the best other network without pre-training if it is better, and
    the family of the best model, or that model alone if it has none. A change without a record of its own is named with
    the next one of its family that has one.
    """
    first, *families = decks.load()["story"]
    best = max(group, key=lambda name: _accuracy(group[name]), default=None)
    scratch = max((name for name in group if not group[name]["pretrained"]), default=None,
                  key=lambda name: _accuracy(group[name]))
    path = [first]
    if scratch and scratch not in first and all(_accuracy(group[scratch]) > _accuracy(group[name])
                                                for name in first if name in group):
        path.append({scratch: f"another network: {decks.title(scratch)}"})
    alone = {best: f"a new start: {decks.title(best)}"} if best and group[best]["pretrained"] else {}
    path.append(next((family for family in families if best in family), alone))
    steps = []
    for family in path:
        changes = []
        for name, change in family.items():
            changes.append(change)
            if name in group:
                accuracy = {key: round(100 * value, 1) for key, value in group[name]["metrics"]["accuracy"].items()}
                interval = (accuracy["value"] - accuracy["low"], accuracy["high"] - accuracy["value"])
                before = steps[-1].value if steps else None
                steps.append(Step("; ".join(changes), accuracy["value"], before, interval))
                changes = []
    return steps


def ladders(group):
    """Return [(experiment, steps)], the best first: recipes of networks without pre-training, chosen step by step.

    One for each notebook, that of the network in the trials, if they say which, or else of its best. The accuracies are
    those of the trials on validation images.
    """
    best = {}
    for name, record in sorted(group.items(), key=lambda item: (not _tried(item[1]), -_accuracy(item[1]))):
        settings, notebook = record["settings"], record["notebook"]
        steps, before = [], None
        for trial in settings.get("chosen_from") or []:
            label = trial.get("ingredient") or trial.get("recipe")
            value = trial.get("validation accuracy", trial.get(settings.get("chosen_on")))
            if label and value is not None:
                value, kept = round(100 * value, 1), trial.get("kept", True)
                steps.append(Step(label.removeprefix("+ "), value, before, kept=kept))
                before = value if kept else before
        if len(steps) > 1 and not record["pretrained"]:
            best.setdefault(notebook, (name, steps))
    return sorted(best.values(), key=lambda item: -_accuracy(group[item[0]]))


def _tried(record):
    """Whether a record's network is as large as one of the trials that its recipe was chosen from."""
    trials = record["settings"].get("chosen_from") or []
    return record["model"]["total_parameters"] in [trial.get("parameters") for trial in trials]


def story(found):
    """Return (title, [(PNG, alt text)]) of the steps to the best of the records {experiment: record}, or None without.

    The others show the ingredients of the recipes without pre-training, the best first.
    """
    group = findings.models(found)
    steps = chain(group)
    if len(steps) < 2:
        return None
    images = next(iter(group.values()))["dataset"]
    parts = [(f"Accuracy on the {images['test']:,} test images of {data.title(images['name'])}",
              "test accuracy (%), 95 % intervals", steps)]
    unit = "validation accuracy (%), one step more in each trial, one seed"
    parts += [(f"Short trials for “{decks.title(name)}”, on a part of the images", unit, tried)
              for name, tried in ladders(group)]
    title = f"From {steps[0].value:.1f} to {steps[-1].value:.1f} %: what each step bought"
    return title, [(_draw(*part), f"{part[0]}: {_told(part[-1])}.") for part in parts]


def _accuracy(record):
    return record["metrics"]["accuracy"]["value"]


def _told(steps):
    return ", then ".join(f"{step.change} {step.value:.1f} %{f' ({step.gain})' if step.gain else ''}"
                          f"{'' if step.kept else ', not kept'}" for step in steps)


def _draw(heading, unit, steps):
    from matplotlib.figure import Figure  # slow to import, and only needed where a picture is drawn
    from matplotlib.text import Text

    figure = Figure(figsize=(5, 0.42 * len(steps) + 0.9), layout="constrained")
    axis = figure.subplots()
    _bars(axis, steps)
    axis.set_xlabel(unit)
    axis.set_title(textwrap.fill(heading, 58), fontsize=11, loc="left")
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a folder of images may be called $x$
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=150)
    return buffer.getvalue()


def _ends(step):
    below, above = step.interval or (0, 0)
    return step.value - below, step.value + above


def _bars(axis, steps):
    """A dot for the first step, for each further one a bar from what it is compared with to what it reached.

    What changed stands above its bar, so that the picture is narrow enough for a phone.
    """
    for place, step in enumerate(steps):
        if step.before is None:
            axis.plot(step.value, place, "o", color=GAIN)
        else:
            colour = LOSS if step.value < step.before else GAIN if step.kept else QUIET
            axis.barh(place, step.value - step.before, left=step.before, height=0.36, color=colour)
        if step.interval:
            axis.errorbar(step.value, place, xerr=[[length] for length in step.interval], color="black", capsize=3)
        right = max(step.value, step.before or 0) + (step.interval[1] if step.interval else 0)
        text = f"{step.value:.1f} %" + (f" ({step.gain})" if step.gain else "") + ("" if step.kept else ", not kept")
        axis.annotate(text, (right, place), (6, 0), textcoords="offset points", va="center")
        change = textwrap.shorten(step.change, 60, placeholder=" …")
        axis.annotate(change, (0.01, place - 0.42), xycoords=axis.get_yaxis_transform(), va="center",
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
        if place + 1 < len(steps) and step.kept:
            axis.plot([step.value] * 2, [place, place + 1], ":", color=QUIET, zorder=0)
    values = [value for step in steps for value in _ends(step)]
    width = max(max(values) - min(values), 1)
    axis.set(xlim=(min(values) - 0.06 * width, max(values) + 0.42 * width), ylim=(len(steps) - 0.6, -0.8), yticks=[])
    axis.xaxis.get_major_locator().set_params(integer=True, nbins=6)
    axis.set_xticks([tick for tick in axis.get_xticks()[1:-1] if tick <= 100])
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="x", color="#e0e0e0")
    axis.set_axisbelow(True)
