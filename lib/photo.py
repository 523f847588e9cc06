"""A photo of one's own, and what the trained models say to it.

Introduced in notebook 13. Keras is imported only where a model is loaded, so that a wrong path is answered at once.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from lib import data, project, records
from lib.pictures import Photo, open_photo

import numpy as np
from PIL import Image, ImageDraw

UNSURE = 0.5  # a first choice below this share is a guess
RANDOM = " from random weights"
CLASSES = {"cifar10": data.CIFAR10_CLASSES, "digits": tuple("0123456789")}


class ModelError(project.StudyError):
    """A trained model that is not there or cannot be loaded."""


def sample():
    """Return a truck on a road, drawn here: for those who have no photo at hand."""
    image = Image.new("RGB", (640, 480), "#a9c9e6")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 350, 640, 480), fill="#77746f")
    draw.rectangle((90, 120, 380, 340), fill="#e8e4da", outline="#8d897f", width=6)
    draw.polygon([(390, 340), (390, 175), (480, 175), (545, 255), (545, 340)], fill="#b5342b")
    draw.polygon([(410, 255), (410, 195), (470, 195), (515, 255)], fill="#2f4858")
    draw.rectangle((90, 335, 550, 352), fill="#3a3a3a")
    for x in (150, 235, 470):
        draw.ellipse((x - 42, 310, x + 42, 394), fill="#1c1c1c")
        draw.ellipse((x - 18, 334, x + 18, 370), fill="#b9b9b9")
    return Photo("a drawn truck", image.size, image)


@dataclass(frozen=True)
class Saved:
    """A model that training saved: experiment, file, name and classes of its data set, test accuracy if recorded."""

    name: str
    path: Path
    dataset: str
    classes: tuple
    accuracy: float | None

    @property
    def title(self):
        """What a sentence calls that on which it was trained."""
        name = self.dataset.removesuffix(RANDOM)
        return data.title(name) + self.dataset[len(name):]


@dataclass(frozen=True)
class Answer:
    """What a model said to a photo: probabilities (classes,) float32."""

    saved: Saved
    probabilities: np.ndarray

    def top(self, count=3):
        """Return [(class, probability)], the most probable first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.saved.classes[index], float(self.probabilities[index])) for index in order]


def trained(profile=None, names=(), missing_ok=False):
    """Return the `Saved` models of a profile (default: the one trained last), all or those of a name, the best first.

    Raises ModelError where a name is unknown, or where there are none and that is not `missing_ok`.
    """
    profiles = records.profiles()
    if profile and profile not in profiles and not missing_ok:
        raise ModelError(f"there is no profile {profile}: choose one of {', '.join(profiles)}")
    found = [path for each in ([profile] if profile else profiles)
             for path in (records.folder(each) / "models").glob("[!.]*.keras")]
    if not found and missing_ok:
        return []
    if not found:
        option = f" {records.options(profile)}" if profile else ""
        with_it = f" with profile {profile}" if profile else ""
        raise ModelError(f"no model was trained yet{with_it}: `invoke run-all{option}` trains them")
    newest = max(found, key=lambda path: path.stat().st_mtime).parent
    models = {path.stem: path for path in sorted(newest.glob("[!.]*.keras"))}
    unknown = [name for name in names if name not in models]
    if unknown:
        raise ModelError(f"there is no trained model {', '.join(unknown)}: choose one of {', '.join(models)}")
    saved = [_saved(name, path) for name, path in models.items() if not names or name in names]
    return sorted(saved, key=lambda each: -(each.accuracy or 0))


def _saved(name, path):
    record = path.parent.parent / "records" / f"{name}.json"
    record = records.read(record) if record.exists() else None
    record = record if record and _belongs(record, path) else None
    dataset = record["dataset"]["name"] if record else "unknown"
    known = record["dataset"].get("classes") if record else None
    classes = tuple(known or CLASSES.get(dataset) or (f"class {index}" for index in range(10_000)))
    if record and record["pretrained"] == "random":
        dataset += RANDOM  # it is no party to what the others agree on
    return Saved(name, path, dataset, classes, record and record["metrics"]["accuracy"]["value"])


def _belongs(record, path):
    """Whether a record is of these weights, and not of earlier ones: a run may have been cut short between the two."""
    try:
        return record.get("weights") == records.checksum(path)
    except records.RecordError:  # loading the file will tell what is wrong with it
        return True


def load(saved):
    """Return a saved model, ready to answer; safe mode keeps it from running code of its own.

    Raises ModelError where the file cannot be loaded.
    """
    from lib import models, runtime  # noqa: F401  (models registers the layers that saved files name)

    import keras

    try:
        with runtime.quiet():
            return keras.models.load_model(saved.path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged archive gives rise to many kinds
        why = f"cannot be loaded ({project.one_line(error)})"
        raise ModelError(f"{saved.path} {why}: delete it and run its notebook again") from error


def shares(model, pixels):
    """Return class probabilities (n, classes) float32 of a few images (n, height, width, 3), as in the evaluation.

    A direct call of the model would be quicker, but in it Keras 3.15 rounds what `Resizing` makes of 8-bit images, and
    without `training=False` has all layers behind `Resizing` act as in training.
    """
    from lib import evaluation  # it imports Keras

    return evaluation.predict(model, pixels)


def ask(model, saved, photo):
    """Return the `Answer` of a model to a photo."""
    return Answer(saved, shares(model, photo.shrunk(model.input_shape[1])[None])[0])


def caveats(answers):
    """Return what should be said beside answers, in sentences: what the models cannot say, doubt and disagreement."""
    groups = {}
    for answer in answers:
        groups.setdefault(answer.saved.title, []).append(answer)
    lines = [f"What was trained on {name} knows only {_listed(group[0])}: it shares out 100 % among these, even if the "
             "photo shows none of them." for name, group in groups.items()]  # fmt: skip
    if answers and max(answer.top(1)[0][1] for answer in answers) < UNSURE:
        lines.append(f"All models are unsure: no first choice reaches {UNSURE:.0%}. It may be none of their classes.")
    for name, group in groups.items():
        votes = Counter(answer.top(1)[0][0] for answer in group).most_common()
        if len(votes) > 1:
            said = ", ".join(f"{choice} ({count})" for choice, count in votes)
            lines.append(f"The models trained on {name} disagree: {said}.")
    return lines


def _listed(answer, most=20):
    """The classes that a model knows, or the first of many."""
    names = answer.saved.classes[: len(answer.probabilities)]
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])


def predict(source, name=None, profile=None):
    """Print what the trained models of a profile, or the one called `name`, say to the photo at a path.

    Raises pictures.PhotoError where it is no photo, ModelError where there is no such model.
    """
    photo, models = open_photo(source), trained(profile, [name] if name else ())
    print(photo, flush=True)
    from lib import runtime

    runtime.start("predict", threads=0)
    answers, width = [], max(len(saved.name) for saved in models)
    for saved in models:
        answers.append(ask(load(saved), saved, photo))
        first = ", ".join(f"{choice} {share:.0%}" for choice, share in answers[-1].top())
        print(f"{saved.name:{width}} (trained on {saved.title}): {first}", flush=True)
    print(*caveats(answers), sep="\n")


def chooser(look):
    """Display a button that takes a photo from the reader's computer; below it stands what `look(photo)` shows."""
    from lib import show

    import ipywidgets

    button = ipywidgets.FileUpload(accept="image/*", description="Choose a photo", layout={"width": "max-content"})
    below = ipywidgets.Output()

    def chosen(change):
        below.clear_output()
        with below:
            for file in change["new"]:
                try:
                    look(open_photo(bytes(file["content"]), file["name"]))
                except project.StudyError as error:
                    print(error)

    button.observe(chosen, "value")
    show.widget(ipywidgets.VBox([button, below]), "In JupyterLab a button to choose a photo stands here.")
    return button
