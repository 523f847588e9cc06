"""Opening a picture safely, standing it upright, shrinking it to what a network takes; and many on one sheet.

Introduced in notebook 13.
"""

import contextlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

from lib import project

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# Formats of photos that Pillow can decode by itself; others of its formats call programs or are not pictures.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "HEIF", "BMP", "TIFF", "JPEG2000", "PPM")
HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypheim", b"ftypmif1")
COLUMNS, SIDE = 20, 32  # of a sheet: pictures side by side, and the pixels of each
KEEP = 512  # pixels of the shorter side that are kept: enough to look at, and for any network here


class PhotoError(project.StudyError):
    """A photo that is not there, not a photo, damaged or too large."""


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
    name = project.printable(name or str(source))
    path = source if isinstance(source, bytes) else project.expanded(source)
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
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            start = file.read(12)
    except OSError as error:  # it has gone since
        return f"cannot be read ({error.strerror})"
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
    extremes = _extremes(image)
    rows = factor * max(1, 2**20 // (factor * width))
    for top in range(0, height, rows):
        band = _rgb(image.crop((0, top, width, min(top + rows, height))), extremes)
        small.paste(band.reduce(factor), (0, top // factor))
    return small


def _extremes(image):
    """The values that become black and white: of 32 bits, which have no natural white, the lowest and the highest."""
    if image.mode not in ("I", "F"):
        return None
    if image.format == "PPM":  # to whose white Pillow gives this number
        return 0, 65535
    low, high = image.getextrema()
    if not np.isfinite([low, high]).all():
        values, finite = np.asarray(image), np.isfinite(image)
        low, high = values.min(where=finite, initial=np.inf), values.max(where=finite, initial=-np.inf)
    return (low, high) if low < high else (low - 1, low + 1)  # one shade is a grey


def _rgb(image, extremes):
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif extremes:
        low, high = extremes
        scaled = (np.asarray(image, np.float32) - low) * (255 / (high - low))
        image = Image.fromarray(np.nan_to_num(scaled).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image.convert("RGBA"))
        image = paper
    return image.convert("RGB")


def sheet(images, quality):
    """Return a WebP, as bytes, of images (n, height, width, 3) uint8, row by row and `COLUMNS` in a row.

    A page loads one such file faster than many small ones, and shows a part of it for each image.
    """
    paper = Image.new("RGB", (SIDE * COLUMNS, SIDE * -(-len(images) // COLUMNS)))
    for number, image in enumerate(images):
        small = Image.fromarray(np.ascontiguousarray(image)).resize((SIDE, SIDE))
        paper.paste(small, (SIDE * (number % COLUMNS), SIDE * (number // COLUMNS)))
    paper.save(buffer := io.BytesIO(), "webp", quality=quality)
    return buffer.getvalue()
