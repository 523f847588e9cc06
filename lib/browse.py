"""Helpers for looking around in JupyterLab; a report shows a picture of where they start.

Introduced in notebook 02.
"""

import base64
import html
from dataclasses import replace
from functools import cache

from lib import augmentation, evaluation, plots, show

import ipywidgets
import numpy as np


def _explore(controls, look, hint):
    """Display widgets and below them the picture of `look(*values)`, which is drawn again when one is used.

    `look` takes the values of those that have one, and returns (PNG or None, text); `hint` says what the widgets do.
    The first picture is also what stands in a report and in any other place that shows no widgets.
    """
    below = ipywidgets.HTML()

    def draw(_=None):
        png, text = look(*(control.value for control in controls if control.has_trait("value")))
        address = f"data:image/png;base64,{base64.b64encode(png).decode()}" if png else ""
        image = f'<img alt="{html.escape(text)}" src="{address}" style="max-width: 100%">'
        below.value = image if png else f"<p>{html.escape(text)}</p>"
        return png, text

    for control in controls:
        control.observe(draw, "value") if control.has_trait("value") else control.on_click(draw)
    png, text = draw()
    view = ipywidgets.VBox([ipywidgets.HBox(controls), below])
    show.widget(view, f"{text}. In JupyterLab {hint}.", png)
    return view


def errors(run, pictures, class_names, count=20):
    """Display a menu of true and one of predicted classes, and the test images of that pair, the surest answers first.

    `run` is a `training.Run`, `pictures` are its test images (n, height, width, 3). It starts with the pair that is
    confused most often.
    """
    predicted, confidence = run.probabilities.argmax(axis=1), run.probabilities.max(axis=1)

    def pair(truth, answer):
        """The PNG of a pair of classes, or None without such images, and what to say of it."""
        found = np.flatnonzero((run.labels == truth) & (predicted == answer))
        order = ", the surest answers first" if len(found) else ""
        text = f"{class_names[truth]} → {class_names[answer]}: {len(found):,} of the test images{order}"
        surest = found[np.argsort(-confidence[found], kind="stable")][:count]
        titles = [f"{share:.0%}" for share in confidence[surest]]
        return (show.png(plots.images(pictures[surest], titles, text)) if len(found) else None), text

    most = evaluation.confused_pairs(run.probabilities, run.labels, class_names, 1)
    start = [list(class_names).index(most[column].iloc[0]) if len(most) else 0 for column in ("true", "predicted")]
    options = [(name, label) for label, name in enumerate(class_names)]
    menus = [ipywidgets.Dropdown(options=options, value=label, description=name)
             for name, label in zip(("true", "predicted"), start, strict=True)]  # fmt: skip
    return _explore(menus, pair, "two menus choose the classes")


def threshold(run, pictures, class_names, count=10):
    """Display a slider of the confidence (%) below which a model declines, what it reaches, and images on either side.

    `run` is a `training.Run`, `pictures` are its test images (n, height, width, 3). It starts where half of them are
    answered.
    """
    predicted, confidence = run.probabilities.argmax(axis=1), run.probabilities.max(axis=1)
    right, order = predicted == run.labels, np.argsort(confidence, kind="stable")

    def at(percent):
        """The PNG of the images closest to a threshold, in the order of confidence, and what to say of it."""
        first = np.searchsorted(confidence[order], percent / 100)
        answered, near = order[first:], order[max(0, first - count) : first + count]
        reached = f", {right[answered].mean():.1%} of these correctly" if len(answered) else ""
        text = f"Declining below {percent}%, it answers {len(answered) / len(order):.1%} of the test images{reached}"
        titles = [f"{class_names[predicted[i]]} {'✓' if right[i] else '✗'}\n{confidence[i]:.0%} "
                  f"{'declined' if confidence[i] < percent / 100 else 'answered'}" for i in near]
        return show.png(plots.images(pictures[near], titles, text)), text

    start = int(100 * np.median(confidence))
    slider = ipywidgets.IntSlider(start, 0, 100, description="confidence (%)", layout={"width": "32em"},
                                  style={"description_width": "initial"})  # fmt: skip
    return _explore([slider], at, "a slider sets the confidence")


def augmented(split, recipe, count=10, seed=0):
    """Display the first images of a `data.Split`, what two epochs of a `training.Recipe` make of them, and a button.

    The button draws the next two epochs.
    """
    few = split.take(slice(count))
    images = np.asarray(few.images)
    batches = augmentation.Batches(few, few.labels.max() + 1, replace(recipe, batch_size=count), seed)

    def again():
        """The PNG of the images and of their next two versions, and what to say of it."""
        rows = [images]
        for _ in range(2):
            rows.append(batches[0][0])
            batches.on_epoch_end()
        epochs = batches.epoch - 1, batches.epoch
        text = f"{len(images)} training images, and what the network sees of them in epochs {epochs[0]} and {epochs[1]}"
        titles = np.repeat(["as it is", *(f"epoch {epoch}" for epoch in epochs)], len(images))
        return show.png(plots.images(np.concatenate(rows), titles, text, columns=len(images))), text

    return _explore([ipywidgets.Button(description="Draw again")], again, "a button draws again")


def two_photos(photos, look):
    """Display two menus of {name: `pictures.Photo`}, both photos with a heat map, and what each model says to them.

    `look(photo)` returns a list of `photo.Answer` and {title: heat map over the photo's middle}, of which the first is
    shown. It starts with the first and the last photo, and asks about each only once.
    """
    ask = cache(lambda name: look(photos[name]))

    def beside(*names):
        """The PNG of two photos, and the first choice of the first model for each."""
        found = [ask(name) for name in names]
        rows = [np.hstack([photos[name].crop, *list(maps.values())[:1]])
                for name, (_, maps) in zip(names, found, strict=True)]  # fmt: skip
        said = [[f"{answer.saved.name}: " + ", ".join(f"{choice} {share:.0%}" for choice, share in answer.top())
                 for answer in answers] for answers, _ in found]  # fmt: skip
        text = " · ".join(f"{name} – {lines[0]}" for name, lines in zip(names, said, strict=True))
        return show.png(plots.captioned(rows, names, said)), text

    names = list(photos)
    menus = [ipywidgets.Dropdown(options=names, value=name, description=place)
             for name, place in ((names[0], "first"), (names[-1], "second"))]  # fmt: skip
    return _explore(menus, beside, "two menus choose the photos")
