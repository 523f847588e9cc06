"""Photos of every kind, and what trained models are asked and answer."""

import io
import json
import os
import resource
import struct
import subprocess
import sys
import zlib
from datetime import UTC, datetime

from lib import photo, pictures, project, records

import numpy as np
import pytest
from conftest import one_line
from PIL import Image, UnidentifiedImageError

RED, BLUE = (250, 10, 10), (10, 10, 250)


@pytest.fixture
def file(tmp_path):
    """A function that saves an image and returns its path."""
    def save(image, name, **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return save


def halves(mode="RGB", size=(60, 40), left=RED, right=BLUE):
    """Return an image whose left half is red and whose right half is blue."""
    image = Image.new("RGB", size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image.convert(mode)


def corners(opened):
    """Return which of the four corners are reddish: left and right of the top, then of the bottom."""
    pixels = np.asarray(opened.image).astype(int)
    return [bool(pixels[y, x, 0] > pixels[y, x, 2] + 50) for y in (2, -3) for x in (2, -3)]


# ---------------------------------------------------------------------------------------------- kinds of photos


@pytest.mark.parametrize(("mode", "name"), [
    ("RGB", "a.jpg"), ("RGB", "a.png"), ("RGB", "a.webp"), ("RGB", "a.bmp"), ("RGB", "a.tiff"), ("RGB", "a.ppm"),
    ("RGBA", "a.png"), ("P", "a.png"), ("P", "a.gif"), ("CMYK", "a.jpg"), ("CMYK", "a.tiff"), ("RGBA", "a.tiff"),
])  # fmt: skip
def test_every_mode_and_format_has_its_colours(file, mode, name):
    """The left half is red, the right half is blue."""
    opened = pictures.open_photo(file(halves(mode), name))
    assert (opened.size, opened.image.size, opened.image.mode) == ((60, 40), (60, 40), "RGB")
    assert corners(opened) == [True, False, True, False]
    assert (opened.crop.size, opened.shrunk().shape, opened.shrunk().dtype) == ((40, 40), (32, 32, 3), np.uint8)


@pytest.mark.parametrize(("image", "name"), [
    (halves("L", left="white", right="black"), "a.png"),
    (halves("1", left="white", right="black"), "a.png"),
    (halves("LA", left="white", right="black"), "a.png"),
    (halves("L", left="white", right="black"), "a.jpg"),
    (Image.fromarray(np.repeat([[65000] * 30 + [300] * 30], 40, axis=0).astype(np.uint16)), "a.png"),
    (Image.fromarray(np.repeat([[65000] * 30 + [300] * 30], 40, axis=0).astype(np.uint16)), "a.tiff"),
    (Image.fromarray(np.repeat([[0.9] * 30 + [0.1] * 30], 40, axis=0).astype(np.float32)), "a.tiff"),
    (Image.fromarray(np.repeat([[90000] * 30 + [-7] * 30], 40, axis=0).astype(np.int32)), "a.tiff"),
], ids=["8 bit", "1 bit", "alpha", "jpeg", "16 bit", "16 bit tiff", "float", "32 bit"])
def test_grey_is_grey_at_every_depth(file, image, name):
    """White is white and black is black, in all three channels."""
    pixels = np.asarray(pictures.open_photo(file(image, name)).image)
    assert pixels.shape == (40, 60, 3)
    assert pixels[20, 5].min() > 240
    assert pixels[20, -5].max() < 10


def test_sixteen_bits_are_the_same_shades_in_every_format(file):
    """A dark picture stays dark, and a white one white."""
    for shades in (np.linspace(30000, 35000, 60), np.full(60, 65535)):
        image = Image.fromarray(np.tile(shades, (40, 1)).astype(np.uint16))
        png, tiff, pgm = (np.asarray(pictures.open_photo(file(image, f"a.{kind}")).image, int)
                          for kind in ("png", "tiff", "pgm"))
        assert np.array_equal(png, tiff) and abs(png - pgm).max() <= 1


@pytest.mark.parametrize(("values", "shades"), [
    ([0.8] * 60, (127, 127)), ([np.nan, np.inf] + [0.1, 0.9] * 29, (0, 255)), ([np.nan] * 60, (0, 0)),
])  # fmt: skip
def test_numbers_without_a_scale_get_one(file, values, shades):
    """One shade is grey; what is not a number changes nothing else."""
    image = Image.fromarray(np.tile(values, (40, 1)).astype(np.float32))
    pixels = np.asarray(pictures.open_photo(file(image, "a.tiff")).image)[:, 2:]
    assert (pixels.min(), pixels.max()) == shades


def test_sixteen_bits_of_each_colour_are_colours(tmp_path):
    """In a PNG, which Pillow reads but does not write."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = b"\0" + struct.pack(">3H", 65000, 300, 300) * 30 + struct.pack(">3H", 300, 300, 65000) * 30
    parts = (b"IHDR", struct.pack(">2I5B", 60, 40, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(row * 40)), (b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    assert corners(pictures.open_photo(tmp_path / "a.png")) == [True, False, True, False]


def test_what_is_transparent_is_white(file):
    """With an alpha channel, and with a transparent colour of a palette."""
    image = halves("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    assert np.asarray(pictures.open_photo(file(image, "a.png")).image).min() == 255
    image = halves().quantize(2)
    transparent = image.getpixel((0, 0))
    pixels = np.asarray(pictures.open_photo(file(image, "b.png", transparency=transparent)).image)
    assert (pixels[5, 5].tolist(), pixels[5, -5].argmax()) == ([255] * 3, 2)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.mpo"])
def test_of_an_animation_it_is_the_first_frame(file, name):
    """Not the last; nor in a telephone's JPEG with more than one picture."""
    opened = pictures.open_photo(file(halves(), name, save_all=True, append_images=[halves(left=BLUE, right=RED)]))
    assert corners(opened) == [True, False, True, False]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_upright(file, orientation, name):
    """However the camera was held: EXIF's eight orientations."""
    upright = halves(size=(64, 40))
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    stored = upright.transpose(Image.Transpose[undo[orientation]]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = pictures.open_photo(file(stored, name, exif=exif))
    assert (opened.size, opened.image.size) == ((64, 40), (64, 40))
    assert corners(opened) == [True, False, True, False]


def test_damaged_exif_does_not_hide_the_picture(file):
    """It is taken as it is."""
    opened = pictures.open_photo(file(halves(), "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff nonsense"))
    assert corners(opened) == [True, False, True, False]


def test_the_middle_is_what_is_seen():
    """A third of each side is cut off here."""
    wide = Image.new("RGB", (90, 30), RED)
    wide.paste(BLUE, (30, 0, 60, 30))
    assert (photo.Photo("a", wide.size, wide).shrunk() == BLUE).all()


def test_shrinking_averages():
    """Fine stripes become grey, not a false pattern; a photo smaller than asked is enlarged."""
    stripes = np.zeros((320, 320, 3), np.uint8)
    stripes[:, ::2] = 255
    shrunk = photo.Photo("stripes", (320, 320), Image.fromarray(stripes)).shrunk()
    assert np.unique(shrunk).tolist() in ([127], [128])
    assert photo.Photo("dot", (1, 1), Image.new("RGB", (1, 1), RED)).shrunk().shape == (32, 32, 3)


def test_a_photo_can_come_as_bytes(file):
    """As an upload does."""
    opened = pictures.open_photo(file(halves(), "a.png").read_bytes(), "mine.png")
    assert (opened.name, opened.size) == ("mine.png", (60, 40))
    with pytest.raises(pictures.PhotoError, match=r"mine\.txt is not an image") as error:
        pictures.open_photo(b"text", "mine.txt")
    one_line(error)


# ---------------------------------------------------------------------------------------------- size


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_the_decks_size_is_fine(file, name):
    """3605×3605, as on deck A's slide."""
    opened = pictures.open_photo(file(halves(size=(3605, 3605)), name))
    assert opened.size == (3605, 3605)
    assert 512 <= min(opened.image.size) < 1024
    assert corners(opened) == [True, False, True, False]
    shrunk = opened.shrunk().astype(int)
    assert abs(shrunk[:, :15] - RED).max() < 5
    assert abs(shrunk[:, 17:] - BLUE).max() < 5


@pytest.mark.parametrize(("mode", "name", "megabytes"), [("L", "a.jpg", 80), ("1", "a.png", 200), ("L", "a.gif", 250)])
def test_a_hundred_megapixels_need_little_memory(file, mode, name, megabytes):
    """A JPEG is decoded small; anything else needs its own pixels, and hardly more."""
    path = file(Image.new(mode, (10_000, 10_000)), name)
    code = ("import resource, sys; from lib import pictures; pictures.open_photo(sys.argv[2])\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "opened = pictures.open_photo(sys.argv[1])\n"
            "print(opened.size, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)")
    command = [sys.executable, "-c", code, str(path), str(file(halves(), "small.png"))]
    result = subprocess.run(command, capture_output=True, text=True, cwd=project.ROOT, check=True)
    assert result.stdout.startswith("(10000, 10000) ")
    assert int(result.stdout.split()[-1]) < megabytes, result.stdout


def test_a_decompression_bomb_is_refused(file, monkeypatch):
    """At the size at which Pillow does: here the limit is lowered instead of writing one."""
    path = file(halves(), "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 40 // 2 - 1)
    with pytest.raises(pictures.PhotoError, match="million pixels: make it smaller") as error:
        pictures.open_photo(path)
    one_line(error)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 40 - 1)  # Pillow would warn of this one
    assert pictures.open_photo(path).size == (60, 40)


def test_a_header_that_promises_too_much_costs_nothing(tmp_path):
    """2³¹ pixels, of which there is not one."""
    image = io.BytesIO()
    Image.new("L", (1, 1)).save(image, "PPM")
    (tmp_path / "a.ppm").write_bytes(b"P5 46341 46341 255\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(pictures.PhotoError, match="more than 178 million pixels"):
        pictures.open_photo(tmp_path / "a.ppm")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


# ---------------------------------------------------------------------------------------------- what is no photo


@pytest.mark.parametrize(("name", "content", "says"), [
    ("a.jpg", b"", "is empty: copy or download it again"),
    ("a.jpg", b"<html>404", "is not an image"),
    ("a.png", b"hello", "is not an image"),
    ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0", "is HEIC, which Pillow does not read by itself: save it as JPEG"),
    ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
    ("a.png", b"\x89PNG\r\n\x1a\n" + 30 * b"\0", "is not an image"),
])  # fmt: skip
def test_what_is_not_a_photo_is_one_line(tmp_path, name, content, says):
    """That says what to do."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(pictures.PhotoError, match=rf"/{name} {says}") as error:
        pictures.open_photo(tmp_path / name)
    one_line(error)


def test_a_name_is_shown_in_one_line(file):
    """Whatever is in it."""
    assert str(pictures.open_photo(file(halves(), "a\nb.png"))).startswith("a\N{REPLACEMENT CHARACTER}b.png: 60×40")
    with pytest.raises(pictures.PhotoError, match=r"c.d\.png is not there") as error:
        pictures.open_photo("c\033d.png")
    one_line(error)


def test_a_file_that_goes_while_it_is_looked_at_is_one_line(tmp_path, monkeypatch):
    """Pillow finds no picture, and there is nothing left to say why."""
    def vanish(path, **_):
        path.unlink()
        raise UnidentifiedImageError

    monkeypatch.setattr(Image, "open", vanish)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(pictures.PhotoError, match=r"a.txt cannot be read \(No such file or directory\)") as error:
        pictures.open_photo(tmp_path / "a.txt")
    one_line(error)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.webp", "a.tiff", "a.bmp"])
def test_a_truncated_photo_is_one_line(file, name):
    """Wherever it ends, and whatever was changed in it."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    path = file(noise, name)
    whole = path.read_bytes()
    for share in (0.02, 0.3, 0.6):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(pictures.PhotoError) as error:
            pictures.open_photo(path)
        one_line(error)
    generator = np.random.default_rng(1)
    for _ in range(40):
        damaged = bytearray(whole)
        for place in generator.integers(0, len(whole), 5):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            assert pictures.open_photo(path).image.mode == "RGB"
        except pictures.PhotoError as error:
            assert "\n" not in str(error)


def test_a_path_that_leads_nowhere_is_one_line(tmp_path):
    """Or to a folder, a pipe, or what may not be read."""
    os.mkfifo(tmp_path / "pipe")
    for path, says in ((tmp_path / "no.jpg", "is not there: check the path"), (tmp_path, "is a folder"),
                       ("~nobody.here/no.jpg", "is not there"),
                       (tmp_path / "pipe", "is not there"), (tmp_path / ("x" * 300), "cannot be read")):
        with pytest.raises(pictures.PhotoError, match=says) as error:
            pictures.open_photo(path)
        message = str(error.value)
        assert "\n" not in message


def test_the_button_shows_what_was_chosen(file, capsys):
    """Below itself; what is not a photo is one line there."""
    seen = []
    button = photo.chooser(lambda opened: seen.append((opened.name, opened.size)))
    assert "[In JupyterLab a button to choose a photo stands here.]" in capsys.readouterr().out
    assert button.layout.width == "max-content"  # by itself it would be 148 pixels wide, which cut its text
    for name, content in (("mine.png", file(halves(), "a.png").read_bytes()), ("mine.txt", b"text")):
        button.value = ({"name": name, "type": "", "size": len(content), "content": memoryview(content),
                         "last_modified": datetime.now(UTC)},)  # fmt: skip
    assert seen == [("mine.png", (60, 40))]
    assert capsys.readouterr().out.endswith("mine.txt is not an image that can be read here: save it as JPEG or PNG\n")


# ---------------------------------------------------------------------------------------------- models and answers


def answer(name, probabilities, dataset="digits"):
    """Return an `Answer` of a made-up model."""
    saved = photo.Saved(name, None, dataset, photo.CLASSES[dataset], 0.5)
    return photo.Answer(saved, np.array(probabilities + [0.0] * (10 - len(probabilities)), np.float32))


def test_it_is_always_said_that_it_may_be_none_of_them():
    """Once for the models of each data set, with its classes."""
    lines = photo.caveats([answer("a", [0.9, 0.1]), answer("b", [0.8, 0.2]), answer("c", [0.7, 0.3], "cifar10")])
    assert [line.split(":")[0] for line in lines] == [
        "What was trained on handwritten digits (scikit-learn) knows only 0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
        "What was trained on CIFAR-10 knows only airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck"]
    assert all("even if the photo shows none of them" in line for line in lines)


def test_doubt_and_disagreement_are_said():
    """Doubt if no model is sure; disagreement only among those that know the same classes."""
    assert "All models are unsure: no first choice reaches 50%" in photo.caveats([answer("a", [0.4, 0.3, 0.3])])[1]
    lines = photo.caveats([answer("a", [0.4, 0.6]), answer("b", [0.9, 0.1]), answer("c", [0.1, 0.5, 0.4])])
    assert lines[1:] == ["The models trained on handwritten digits (scikit-learn) disagree: 1 (2), 0 (1)."]
    assert len(photo.caveats([answer("a", [0.9, 0.1]), answer("b", [0.1, 0.9], "cifar10")])) == 2


def test_the_top_three_are_in_order():
    """Ties in the order of the classes."""
    top = answer("a", [0.1, 0.2, 0.6, 0.1], "cifar10").top()
    assert [(name, round(share, 2)) for name, share in top] == [("bird", 0.6), ("automobile", 0.2), ("airplane", 0.1)]


@pytest.fixture
def saved(reports, monkeypatch):
    """Two models that were trained with profile smoke, one of them with a record. Keras was started before."""
    from lib import runtime

    import keras

    monkeypatch.setattr(runtime, "start", lambda *_, **__: None)

    for name in ("A1", "B1"):
        inputs = keras.Input((32, 32, 3), dtype="uint8")
        x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
        model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))
        path = reports / "smoke" / "models" / f"{name}.keras"
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    (path.parent / ".123-C1.keras").write_bytes(b"")
    record = json.loads((project.ROOT / "reports" / "reference" / "records" / "A1.json").read_text())
    record["weights"] = records.checksum(path.with_name("A1.keras"))
    (reports / "smoke" / "records").mkdir()
    (reports / "smoke" / "records" / "A1.json").write_text(json.dumps(record))
    return reports


def test_nothing_trained_is_one_line(reports):
    """With the command that trains."""
    for profile, says in ((None, "no model was trained yet: `invoke run-all` trains them"),
                          ("quick", "no model was trained yet with profile quick: `invoke run-all --profile quick`"),
                          ("huge", "there is no profile huge: choose one of full, quick, smoke")):
        with pytest.raises(photo.ModelError, match=says) as error:
            photo.trained(profile)
        one_line(error)


@pytest.mark.usefixtures("study")
def test_random_weights_are_named(saved):
    """In the name of what a model was trained on, so that it takes no part in what the others agree on."""
    path = saved / "smoke" / "records" / "A1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pretrained": "random"}))
    best = photo.trained()[0]
    assert (best.dataset, best.classes[3]) == ("cifar10 from random weights", "cat")
    assert best.title == "CIFAR-10 from random weights"


@pytest.mark.usefixtures("study")
def test_a_record_beside_other_weights_says_nothing_of_them(saved):
    """A run that was cut short has written its model, but not yet the record."""
    path = saved / "smoke" / "records" / "A1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights": 1}))
    assert [(each.dataset, each.accuracy) for each in photo.trained()] == 2 * [("unknown", None)]
    (saved / "smoke" / "models" / "A1.keras").write_bytes(b"damaged")
    assert len(photo.trained()) == 2  # one damaged file does not keep the other from answering


def test_many_classes_are_not_all_listed():
    """Twenty fit into a sentence."""
    saved = photo.Saved("a", None, "photos", tuple(f"kind {index}" for index in range(120)), None)
    line = photo.caveats([photo.Answer(saved, np.full(120, 1 / 120, np.float32))])[0]
    assert "knows only kind 0, kind 1, " in line
    assert ", kind 19, 100 more: it shares out 100 %" in line


@pytest.mark.usefixtures("study")
def test_a_model_of_ones_own_images_knows_their_classes(saved):
    """From its record; its run has the name of the folder of images, and is found by it."""
    (saved / "smoke").rename(saved / "photos-quick")
    (saved / "photos-quick" / "run.json").write_text('{"line": "quick on photos"}')
    path = saved / "photos-quick" / "records" / "A1.json"
    record = json.loads(path.read_text())
    record["dataset"] |= {"name": "photos", "classes": [f"kind {index}" for index in range(10)]}
    path.write_text(json.dumps(record))
    for found in (photo.trained(), photo.trained("photos-quick")):
        assert (found[0].dataset, found[0].classes[3]) == ("photos", "kind 3")


@pytest.mark.usefixtures("study")
def test_what_was_trained_is_found_and_answers(saved, file, capsys):
    """The best first; what has no record, too; what is being written, not. A damaged file is one line."""
    found = photo.trained()
    assert [(each.name, each.dataset, each.classes[3]) for each in found] == [
        ("A1", "cifar10", "cat"), ("B1", "unknown", "class 3")]
    assert [each.name for each in photo.trained("smoke", ["B1"])] == ["B1"]
    with pytest.raises(photo.ModelError, match="there is no trained model Z9: choose one of A1, B1") as error:
        photo.trained("smoke", ["Z9"])
    one_line(error)

    opened = pictures.open_photo(file(halves(), "a.png"))
    probabilities = photo.ask(photo.load(found[0]), found[0], opened).probabilities
    assert (probabilities.shape, probabilities.dtype) == ((10,), np.float32)
    assert abs(probabilities.sum() - 1) < 1e-5

    photo.predict(file(halves(), "a.png"))
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "a.png: 60×40 pixels, of which the models see the middle, shrunk to a square"
    assert out[1].startswith("A1 (trained on CIFAR-10): ")
    assert out[1].count("%") == 3
    assert out[2].startswith("B1 (trained on unknown): class ")
    assert "even if the photo shows none of them" in out[3]

    found[0].path.write_bytes(b"no model")
    with pytest.raises(photo.ModelError, match=r"A1\.keras cannot be loaded .*: delete it and run") as error:
        photo.load(found[0])
    assert "\n" not in str(error.value)


def test_a_photo_is_answered_as_in_the_evaluation():
    """Called directly, a Keras model rounds what it resizes; in `predict`, by which it was tested, it does not."""
    import keras
    from keras import layers

    inputs = keras.Input((32, 32, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(layers.Resizing(48, 48)(inputs))  # no answer is so sure that rounding is lost in it
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.Flatten()(x)))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    np.testing.assert_allclose(photo.shares(model, pixels), model.predict(pixels, verbose=0), atol=1e-6)
    rounded = model(keras.ops.convert_to_tensor(pixels), training=False)
    assert np.abs(keras.ops.convert_to_numpy(rounded) - photo.shares(model, pixels)).max() > 1e-4
