"""Helpers for looking around in JupyterLab; a report shows a picture of where they start.

Introduced in notebook 07.
"""

import base64
import html

from lib import evaluation, plots, show

import ipywidgets
import numpy as np
from IPython.display import display


def errors(run, pictures, class_names, count=20):
    """Display a menu of true and one of predicted classes, and the test images of that pair, the surest answers first.

    `run` is a `training.Run`, `pictures` are its test images (n, height, width, 3). It starts with the pair that is
    confused most often, which is also the picture that stands here in a report.
    """
    predicted, confidence = run.probabilities.argmax(axis=1), run.probabilities.max(axis=1)

    def pair(truth, answer):
        """The PNG of a pair of classes, or None without such images, and what to say of it."""
        found = np.flatnonzero((run.labels == truth) & (predicted == answer))
        text = f"{class_names[truth]} → {class_names[answer]}: {len(found):,} test images"
        surest = found[np.argsort(-confidence[found], kind="stable")][:count]
        titles = [f"{share:.0%}" for share in confidence[surest]]
        return (show.png(plots.images(pictures[surest], titles, text)) if len(found) else None), text

    most = evaluation.confused_pairs(run.probabilities, run.labels, class_names, 1)
    start = [list(class_names).index(most[column].iloc[0]) if len(most) else 0 for column in ("true", "predicted")]
    options = [(name, label) for label, name in enumerate(class_names)]
    menus = [ipywidgets.Dropdown(options=options, value=label, description=name)
             for name, label in zip(("true", "predicted"), start, strict=True)]  # fmt: skip
    below = ipywidgets.HTML()

    def draw(change=None):
        png, text = pair(*(menu.value for menu in menus))
        address = f"data:image/png;base64,{base64.b64encode(png).decode()}" if png else ""
        below.value = f'<img alt="{html.escape(text)}" src="{address}">' if png else f"<p>{html.escape(text)}</p>"

    for menu in menus:
        menu.observe(draw, "value")
    draw()
    view = ipywidgets.VBox([ipywidgets.HBox(menus), below])
    png, text = pair(*start)
    still = {"text/plain": f"[In JupyterLab two menus choose the classes. {text}]", "image/png": png}
    still = {kind: value for kind, value in still.items() if value}
    alt = {"image/png": {"alt": f"{text}, the surest answers first."}} if png else {}
    display(view._repr_mimebundle_() | still, raw=True, metadata=alt)
    return view
