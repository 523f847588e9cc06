"""A photo of one's own: opening it safely, shrinking it to what a network takes, and asking the trained models.

Introduced in notebook 13. Keras is imported only where a model is loaded, so that a wrong path is answered at once.
"""

import contextlib
import io
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from lib import data, project, records

import numpy as np
from PIL import ExifTags, Image, ImageDraw, ImageOps, UnidentifiedImageError

# Formats of photos that Pillow can decode by itself; others of its formats call programs or are not pictures.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "HEIF", "BMP", "TIFF", "JPEG2000", "PPM")
HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypheim", b"ftypmif1")
KEEP = 512  # pixels of the shorter side that are kept: enough to look at, and for any network here
UNSURE = 0.5  # a first choice below this share is a guess
CLASSES = {"cifar10": data.CIFAR10_CLASSES, "digits": tuple("0123456789")}


class PhotoError(project.StudyError):
    """A photo that is not there, not a photo, damaged or too large."""


class ModelError(project.StudyError):
    """A trained model that is not there or cannot be loaded."""


@dataclass(frozen=True)
class Photo:
    """An upright photo: its name, (width, height) in pixels of the file, and an RGB image of it, perhaps smaller."""

    name: str
    size: tuple
    image: Image.Image

    @property
    def crop(self):
        """The square in the middle of the image."""
        width, height = self.image.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return self.image.crop((left, top, left + side, top + side))

    def shrunk(self, size=32):
        """Return the centre square as pixels (size, size, 3) uint8, each the mean colour of the field it covers.

        A layer that resizes, or any method that only picks points, would turn fine patterns into false ones.
        """
        crop = self.crop
        method = Image.Resampling.BOX if crop.width >= size else Image.Resampling.BICUBIC
        return np.asarray(crop.resize((size, size), method))

    def __str__(self):
        width, height = self.size
        return f"{self.name}: {width:,}×{height:,} pixels, of which the models see the middle, shrunk to a square"


def open_photo(source, name=None):
    """Return the `Photo` in a file, given by its path or, with a `name`, as bytes.

    It stands upright (EXIF), transparent parts are white, of an animation it is the first frame. A JPEG is decoded at a
    fraction of its size; other formats take four bytes of memory per pixel and little more, but AVIF, WebP and JPEG
    2000, which are decoded by libraries of their own, 10 to 20.
    Raises PhotoError where it is missing, not an image, damaged, or larger than what Pillow takes for a bomb.
    """
    name, path = name or str(source), source if isinstance(source, bytes) else Path(source).expanduser()
    try:
        if not isinstance(path, bytes) and not path.is_file():
            kind = "is a folder: name a photo in it" if path.is_dir() else "is not there: check the path"
            raise PhotoError(f"the photo {name} {kind}")
        Image.init()
        formats = [each for each in FORMATS if each in Image.OPEN]
        with (warnings.catch_warnings(action="ignore"),  # of what is large or odd, but can be read
              Image.open(io.BytesIO(path) if isinstance(path, bytes) else path, formats=formats) as file):  # fmt: skip
            return Photo(Path(name).name, *_upright(file))
    except PhotoError:
        raise
    except Image.DecompressionBombError:
        limit = 2 * Image.MAX_IMAGE_PIXELS // 1_000_000
        raise PhotoError(f"{name} has more than {limit} million pixels: make it smaller first") from None
    except UnidentifiedImageError:
        raise PhotoError(f"{name} {_what_it_is(path)}") from None
    except MemoryError:
        raise PhotoError(f"{name} does not fit into memory: make it smaller first") from None
    except OSError as error:
        why = f"cannot be read ({error.strerror})" if error.errno else f"is damaged ({project.one_line(error)})"
        raise PhotoError(f"{name} {why}") from None
    except Exception as error:  # damaged bytes give rise to many kinds
        raise PhotoError(f"{name} is damaged ({project.one_line(error)})") from None


def _what_it_is(source):
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        start = file.read(12)
    if not start:
        return "is empty: copy or download it again"
    if start[4:12] in HEIC:
        return "is HEIC, which Pillow does not read by itself: save it as JPEG first"
    return "is not an image that can be read here: save it as JPEG or PNG"


def _upright(file):
    """Return ((width, height) of the file when upright, RGB image) of an image that is open, but not yet decoded."""
    width, height = file.size
    file.draft(None, (KEEP, KEEP))
    file.load()
    orientation = 1
    with contextlib.suppress(Exception):  # damaged EXIF does not hide the picture
        orientation = file.getexif().get(ExifTags.Base.Orientation, 1)  # not before load(), which turns a TIFF itself
    small = _reduced(file)
    small.getexif()[ExifTags.Base.Orientation] = orientation
    turned = orientation in (5, 6, 7, 8)
    return ((height, width) if turned else (width, height)), ImageOps.exif_transpose(small)


def _reduced(image):
    """Return a decoded image of any mode in RGB, reduced by a whole factor: band by band, to need little memory."""
    (width, height), factor = image.size, max(1, min(image.size) // KEEP)
    small = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    extremes = image.getextrema() if image.mode in ("I", "F") else None
    rows = factor * max(1, 2**20 // (factor * width))
    for top in range(0, height, rows):
        band = _rgb(image.crop((0, top, width, min(top + rows, height))), extremes)
        small.paste(band.reduce(factor), (0, top // factor))
    return small


def _rgb(image, extremes):
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif extremes:  # 32 bits have no natural white
        low, high = extremes
        scaled = (np.asarray(image, np.float32) - low) * (255 / (high - low or 1))
        image = Image.fromarray(np.nan_to_num(scaled).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image.convert("RGBA"))
        image = paper
    return image.convert("RGB")


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
    profiles = sorted(path.name for path in project.PARAMETERS.iterdir() if path.is_dir())
    if profile and profile not in profiles:
        raise ModelError(f"there is no profile {profile}: choose one of {', '.join(profiles)}")
    found = [path for each in ([profile] if profile else profiles)
             for path in (records.folder(each) / "models").glob("[!.]*.keras")]
    if not found and missing_ok:
        return []
    if not found:
        option = f" --profile {profile}" if profile else ""
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
    dataset = record["dataset"]["name"] if record else "unknown"
    classes = CLASSES.get(dataset) or tuple(f"class {index}" for index in range(10_000))
    if record and record["pretrained"] == "random":
        dataset += " from random weights"  # it is no party to what the others agree on
    return Saved(name, path, dataset, classes, record and record["metrics"]["accuracy"]["value"])


def load(saved):
    """Return a saved model, ready to answer; safe mode keeps it from running code of its own."""
    from lib import models, runtime  # noqa: F401  (models registers the layers that saved files name)

    import keras

    try:
        with runtime.quiet():
            return keras.models.load_model(saved.path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged archive gives rise to many kinds
        why = f"cannot be loaded ({project.one_line(error)})"
        raise ModelError(f"{saved.path} {why}: delete it and run its notebook again") from error


def shares(model, pixels):
    """Return class probabilities (n, classes) float32 of a few images (n, height, width, 3), without compiling."""
    import keras

    answers = model(keras.ops.convert_to_tensor(pixels), training=False)  # an array would do, but not without a warning
    return keras.ops.convert_to_numpy(answers).astype(np.float32)


def ask(model, saved, photo):
    """Return the `Answer` of a model to a photo."""
    return Answer(saved, shares(model, photo.shrunk(model.input_shape[1])[None])[0])


def caveats(answers):
    """Return what should be said beside answers, in sentences: what the models cannot say, doubt and disagreement."""
    groups = {}
    for answer in answers:
        groups.setdefault(answer.saved.dataset, []).append(answer)
    lines = [f"What was trained on {name} knows only {', '.join(group[0].saved.classes[: len(group[0].probabilities)])}"
             f": it shares out 100 % among these, even if the photo shows none of them."
             for name, group in groups.items()]  # fmt: skip
    if answers and max(answer.top(1)[0][1] for answer in answers) < UNSURE:
        lines.append(f"All models are unsure: no first choice reaches {UNSURE:.0%}. It may be none of their classes.")
    for name, group in groups.items():
        votes = Counter(answer.top(1)[0][0] for answer in group).most_common()
        if len(votes) > 1:
            said = ", ".join(f"{choice} ({count})" for choice, count in votes)
            lines.append(f"The models trained on {name} disagree: {said}.")
    return lines


def predict(source, name=None, profile=None):
    """Print what the trained models of a profile, or the one called `name`, say to the photo at a path."""
    photo, models = open_photo(source), trained(profile, [name] if name else ())
    print(photo, flush=True)
    from lib import runtime

    runtime.start("predict", threads=0)
    answers, width = [], max(len(saved.name) for saved in models)
    for saved in models:
        answers.append(ask(load(saved), saved, photo))
        first = ", ".join(f"{choice} {share:.0%}" for choice, share in answers[-1].top())
        print(f"{saved.name:{width}} (trained on {saved.dataset}): {first}", flush=True)
    print(*caveats(answers), sep="\n")


def chooser(look):
    """Display a button that takes a photo from the reader's computer; below it stands what `look(photo)` shows."""
    import ipywidgets
    from IPython.display import display

    button = ipywidgets.FileUpload(accept="image/*", description="Choose a photo")
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
    bundle = ipywidgets.VBox([button, below])._repr_mimebundle_()
    display(bundle | {"text/plain": "[In JupyterLab a button to choose a photo stands here.]"}, raw=True)
    return button
