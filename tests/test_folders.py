"""Folders of images of one's own: formats, sizes, splits, what is wrong with them, and the cache."""

import itertools
import os
import re
import shutil
import threading

import tasks
from lib import data, folders, photo, pictures, records

import numpy as np
import pytest
from conftest import one_line
from PIL import ExifTags, Image

pytestmark = pytest.mark.usefixtures("cache")
COLOURS = {"cats": (200, 30, 30), "dogs": (30, 30, 200)}
FORMATS = {"a.png": "RGB", "b.jpg": "RGB", "c.bmp": "RGB", "d.gif": "P", "e.webp": "RGB", "f.png": "L", "g.png": "RGBA",
           "h.jpg": "CMYK", "i.png": "I;16", "j.png": "LA", "k.ppm": "RGB", "l.png": "1"}  # fmt: skip


def picture(colour=(90, 120, 150), size=(40, 30)):
    """Return an image of one colour with a white upper half, which makes each one different from the others."""
    image = Image.new("RGB", size, colour)
    image.paste("white", (0, 0, size[0], size[1] // 2))
    return image


def write(folder, count=10, colour=(90, 120, 150)):
    """Write so many PNGs, each of a size of its own, into a new folder."""
    folder.mkdir(parents=True)
    for index in range(count):
        picture(colour, (33 + index, 40)).save(folder / f"{index:03}.png")
    return folder


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes, ten images each."""
    for name, colour in COLOURS.items():
        write(tmp_path / "photos" / name, 10, colour)
    return tmp_path / "photos"


def sizes(images):
    """Return the numbers of training, validation and test images."""
    return [len(split.labels) for split in (images.train, images.validation, images.test)]


def places(images):
    """Return {split: {index of a file}}, after making sure that no file is in two."""
    found = {name: set(getattr(images, name).indices.tolist()) for name in data.SPLITS}
    assert sum(map(len, found.values())) == len(set.union(*found.values()))
    return found


# ---------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("mode", sorted(set(FORMATS.values())))
@pytest.mark.parametrize("size", [(40, 30), (500, 700), (9, 200)])
def test_formats_modes_and_sizes_come_out_alike(photos, mode, size):
    """RGB squares of 32 and 128 pixels, light above and darker below."""
    for name, its_mode in FORMATS.items():
        if its_mode == mode:
            image = picture(size=size)
            deep = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 256)  # 16 bits a pixel
            (deep if mode == "I;16" else image.convert(mode)).save(photos / "cats" / f"x{name}")
    for large, side in ((False, 32), (True, 128)):
        images = data.load_dataset(photos, large=large)
        assert images.problems == ()
        assert sum(sizes(images)) == 20 + sum(each == mode for each in FORMATS.values())
        for name in data.SPLITS:
            pixels = getattr(images, name).images
            assert pixels.shape[1:] == (side, side, 3)
            assert pixels.dtype == np.uint8
            assert (pixels[:, : side // 4].mean(axis=(1, 2, 3)) > pixels[:, -side // 4 :].mean(axis=(1, 2, 3))).all()


def test_a_photo_is_turned_upright(photos):
    """As its EXIF data say."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for file in photos.glob("*/*"):
        file.unlink()
    for name in COLOURS:
        for index in range(3):
            picture(size=(60 + index, 80)).transpose(Image.Transpose.ROTATE_90).save(
                photos / name / f"{index}.jpg", exif=exif, quality=95)
    images = data.load_dataset(photos)
    for name in data.SPLITS:
        assert (getattr(images, name).images[:, :8] > 240).all()
        assert (getattr(images, name).images[:, -8:] < 170).all()


def test_both_sizes_are_those_that_a_photo_is_shrunk_to(photos):
    """As `invoke predict` shows it to a model."""
    small, large = data.load_dataset(photos), data.load_dataset(photos, large=True)
    files = sorted(photos.glob("*/*"))
    for index, row in zip(small.train.indices, range(len(small.train.labels)), strict=True):
        opened = pictures.open_photo(files[index])
        np.testing.assert_array_equal(small.train.images[row], opened.shrunk(32))
        np.testing.assert_array_equal(large.train.images[row], opened.shrunk(128))
    assert small.fingerprint == large.fingerprint


# ---------------------------------------------------------------------------------------------- splits


def test_without_a_test_folder_a_fifth_is_set_aside_and_a_tenth_of_the_rest(tmp_path):
    """In each class, and the same ones each time."""
    for name, count in (("a", 100), ("b", 20), ("c", 3)):
        write(tmp_path / "own" / name, count)
    images = data.load_dataset(tmp_path / "own")
    counts = {name: np.bincount(getattr(images, name).labels).tolist() for name in data.SPLITS}
    assert counts == {"train": [72, 14, 1], "validation": [8, 2, 1], "test": [20, 4, 1]}
    before = places(images)
    shutil.rmtree(folders.project.CACHE)
    assert places(data.load_dataset(tmp_path / "own")) == before


@pytest.mark.parametrize(("names", "expected"), [
    (("train", "test"), [18, 2, 8]), (("train", "val"), [16, 8, 4]), (("training", "valid", "testing"), [20, 8, 8]),
    (("Train", "Validation", "Test"), [20, 8, 8]), (("train",), [14, 2, 4]),
])  # fmt: skip
def test_folders_of_splits_are_kept(tmp_path, names, expected):
    """Whatever their names, and what is lacking is taken from the training images."""
    for place, name in enumerate(names):
        for label in COLOURS:
            write(tmp_path / name / label, 4 if place else 10)
    images = data.load_dataset(tmp_path)
    assert sizes(images) == expected
    assert images.class_names == ("cats", "dogs")
    places(images)
    for name in names[1:]:
        files = sorted(file for file in tmp_path.glob("*/*/*") if file.parts[-3] == name)
        split = images.validation if name.lower().startswith("v") else images.test
        assert len(files) == len(split.labels)


def test_a_class_may_be_called_train(tmp_path):
    """A folder of vehicles is no folder of splits."""
    for name in ("train", "car"):
        write(tmp_path / name)
    assert data.load_dataset(tmp_path).class_names == ("car", "train")


@pytest.mark.parametrize("names", [("train", "test", "annotations"), ("Training", "val", "models")])
def test_a_folder_beside_the_splits_is_no_class(tmp_path, names):
    """Nor would the splits be classes then, which is what nobody wants."""
    for name in names:
        write(tmp_path / name / "a")
        write(tmp_path / name / "b")
    with pytest.raises(data.DataError, match=f"folders of splits, and beside them {names[2]}: take that away$"):
        data.load_dataset(tmp_path)


def test_a_class_without_test_images_is_said(tmp_path):
    """It is no reason to stop."""
    for name in ("train/a", "train/b", "test/a"):
        write(tmp_path / name)
    assert data.load_dataset(tmp_path).problems == ("There is no test image of b.",)


def test_a_small_part_has_every_class(tmp_path):
    """Of 120 classes, most of them tiny: one image of each comes first."""
    for index in range(120):
        write(tmp_path / "own" / f"class {index:03}", 30 if index < 5 else 3)
    images, part = data.load_dataset(tmp_path / "own"), data.load_dataset(tmp_path / "own", train_limit=120)
    assert images.num_classes == 120
    for split in (images.train, images.validation, images.test, part.train):
        assert set(split.labels.tolist()) == set(range(120))
    assert len(part.train.labels) == 120


def test_smaller_parts_are_contained_in_larger_ones(tmp_path):
    """As they are of CIFAR-10; a limit beyond the end takes all."""
    for name, count in (("a", 60), ("b", 20)):
        write(tmp_path / "own" / name, count)
    parts = [data.load_dataset(tmp_path / "own", limit, limit) for limit in (5, 20, 0)]
    for few, many in itertools.pairwise(parts):
        for name in data.SPLITS:
            assert places(few)[name] <= places(many)[name]
    assert min(sizes(parts[0])) >= 1


# ---------------------------------------------------------------------------------------------- what is wrong


def test_what_cannot_be_read_is_left_out_and_named(photos):
    """A few by name, the others by number; the other images come as if it were not there."""
    (photos / "cats" / "broken.jpg").write_bytes((photos / "cats" / "000.png").read_bytes()[:60])
    (photos / "cats" / "empty.png").write_bytes(b"")
    (photos / "dogs" / "notes.txt").write_text("hello")
    (photos / "dogs" / "more").mkdir()
    (photos / "dogs" / "more" / "video.mp4").write_bytes(os.urandom(500))
    picture().save(photos / "dogs" / "more" / "deep.png")
    images = data.load_dataset(photos)
    assert sum(sizes(images)) == 21
    assert images.problems[0].startswith("4 of 25 files cannot be read as images and are left out: cats")
    assert images.problems[0].endswith("and 1 more.")
    assert "\n" not in images.problems[0]
    for name in data.SPLITS:
        assert (getattr(images, name).images[:, :4] > 250).all()  # every row was filled


def test_two_classes_whose_names_read_alike_are_not_taken_for_one(photos):
    """Names from a ZIP file of Windows, which are not UTF-8."""
    for name in (b"b\xe4r", b"b\xf6r"):
        shutil.copytree(os.fsencode(photos / "cats"), os.fsencode(photos) + b"/" + name)
    with pytest.raises(data.DataError, match="two folders whose names both read b�r: rename one"):
        data.load_dataset(photos)


def test_a_decompression_bomb_is_left_out(photos, monkeypatch):
    """Without being decoded."""
    picture(size=(400, 400)).save(photos / "cats" / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 * 100)
    images = data.load_dataset(photos)
    assert sum(sizes(images)) == 20
    assert "bomb.png has more than" in images.problems[0]


def test_links_and_hidden_files_do_no_harm(photos, tmp_path):
    """Circles, a device, a broken link, what macOS and editors leave; a link to a class is followed."""
    (photos / "cats" / "circle").symlink_to(photos)
    for place in (photos, photos / "cats"):
        (place / "itself").symlink_to(place / "itself")
    (photos / "cats" / "zero.png").symlink_to("/dev/zero")
    (photos / "cats" / "nowhere.png").symlink_to(tmp_path / "nowhere.png")
    write(tmp_path / "elsewhere")
    (photos / "birds").symlink_to(tmp_path / "elsewhere")
    for name in (".hidden", "__MACOSX", "@eaDir"):
        write(photos / name)
    (photos / "cats" / ".DS_Store").write_bytes(b"x")
    (photos / "readme.txt").write_text("x")
    images = data.load_dataset(photos)
    assert (sum(sizes(images)), images.class_names, images.problems) == (30, ("birds", "cats", "dogs"), ())


@pytest.mark.parametrize("name", ["$x$ & <b>", "a\nb", b"\xff\xfe", "ä" * 80, "…", "C:", "'quoted\""])
def test_odd_names_do_no_harm(photos, name):
    """They are shown in one line of printable characters."""
    odd = os.fsencode(photos) + b"/" + os.fsencode(name)
    shutil.copytree(os.fsencode(photos / "cats"), odd)
    images = data.load_dataset(photos)
    assert images.num_classes == 3
    assert all(each.isprintable() for each in images.class_names)


@pytest.mark.parametrize("name", ["a\nb", "ä" * 80, "…"])
def test_an_odd_root_does_no_harm(photos, name):
    """Its name is a part of the names of files."""
    odd = photos.rename(photos.with_name(name))
    assert data.load_dataset(odd).name.isprintable()
    assert re.fullmatch(r"[\w.-]{1,60}", data.slug(odd))


def test_a_root_that_is_not_unicode_is_one_line(photos):
    """Parameters, which are Unicode, could not name it to a notebook."""
    odd = photos.rename(photos.with_name(os.fsdecode(b"ph\xfftos")))
    assert "ph\N{REPLACEMENT CHARACTER}tos has a name that is not Unicode: rename the folder" in refusal(odd)


def test_small_classes_keep_a_test_image(tmp_path, cache):
    """Where few of many images are tested, and of fewer than there are classes."""
    for index in range(60):
        write(tmp_path / "many" / f"{index:02}", count=5)
    write(tmp_path / "many" / "large", count=200)
    for limit in (10, 70):
        tested = data.load_dataset(tmp_path / "many", test_limit=limit).test.labels
        assert (len(tested), len(np.unique(tested))) == (max(limit, 61), 61)


def refusal(path):
    """Return the one line with which a folder is refused, after making sure that nothing is left in the cache."""
    with pytest.raises(data.DataError) as error:
        data.load_dataset(path)
    assert not list(folders.project.CACHE.glob("datasets/*"))
    return one_line(error)


def test_a_folder_that_cannot_be_used_is_one_line(photos, tmp_path):
    """Missing, a file, without classes, with one class, with an empty one, with one that has too few."""
    assert "there is no data set" in refusal(tmp_path / "missing")
    assert "is a file: give the folder" in refusal(photos / "cats" / "000.png")
    (tmp_path / "empty").mkdir()
    assert "empty has no class subfolders" in refusal(tmp_path / "empty")
    assert "cats has no class subfolders" in refusal(photos / "cats")
    write(tmp_path / "single" / "cats")
    assert "has one class only (cats)" in refusal(tmp_path / "single")
    write(photos / "tiny", 2)
    assert f"the class tiny of {photos} has too few images that can be read, 2: training and test" in refusal(photos)
    for file in (photos / "tiny").iterdir():
        file.unlink()
    assert "the class tiny" in refusal(photos)


def test_a_class_of_which_nothing_can_be_read_is_one_line(photos):
    """It would have no place in any split."""
    (photos / "notes").mkdir()
    for index in range(5):
        (photos / "notes" / f"{index}.png").write_text("no image")
    assert "the class notes" in refusal(photos)


def test_a_class_that_was_never_trained_cannot_be_tested(tmp_path):
    """Its images could only be wrong."""
    for name in ("train/a", "train/b", "test/a", "test/c"):
        write(tmp_path / name)
    assert "has test images of c, but no training images" in refusal(tmp_path)


def test_more_than_a_thousand_classes_are_refused(tmp_path):
    """Before anything is decoded."""
    for index in range(1001):
        (tmp_path / str(index)).mkdir()
    assert "has 1,001 class subfolders" in refusal(tmp_path)


def test_a_full_disk_is_one_line(photos, monkeypatch):
    """A memory map beyond the end of the disk would kill the process."""
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 1000))
    assert "free some space" in refusal(photos)


# ---------------------------------------------------------------------------------------------- cache


def test_the_second_time_nothing_is_decoded(photos, monkeypatch):
    """Not for the other size either; only when a file has changed."""
    first = data.load_dataset(photos)
    opened = []
    monkeypatch.setattr(folders.pictures, "open_photo", lambda path: opened.append(path) or photo.sample())
    second = data.load_dataset(photos, 5, 2, large=True)
    assert opened == []
    assert second.fingerprint == first.fingerprint
    os.utime(photos / "cats" / "000.png", ns=(1, 1))
    assert data.load_dataset(photos).fingerprint != first.fingerprint
    assert len(opened) == 20
    assert len(list(folders.project.CACHE.glob("datasets/*"))) == 1  # what it was before takes no room


def test_images_stay_on_disk(photos):
    """Memory does not grow with their number: all three splits are maps of files, of both sizes, and read-only."""
    for large in (False, True):
        images = data.load_dataset(photos, large=large)
        for name in data.SPLITS:
            pixels = getattr(images, name).images
            assert isinstance(pixels, np.memmap)
            assert not pixels.flags.writeable
    (folder,) = folders.project.CACHE.glob("datasets/*")
    assert not list(folder.glob("all*"))


def test_images_are_decoded_side_by_side(photos, monkeypatch):
    """Two threads are in the decoder at the same time."""
    monkeypatch.setattr("dask.system.CPU_COUNT", 2)
    both, opened = threading.Barrier(2), pictures.open_photo

    def wait(path):
        both.wait(timeout=30)
        return opened(path)

    monkeypatch.setattr(folders.pictures, "open_photo", wait)
    assert sum(sizes(data.load_dataset(photos))) == 20


def test_a_run_of_ones_own_images_has_a_folder_of_its_own(photos, monkeypatch, reports):
    """The same rule for the notebooks' parameters and the reports."""
    from lib import parameters

    assert data.slug(photos) == "photos"
    assert parameters.results("quick", str(photos)) == "photos-quick"
    assert parameters.results("quick", "cifar100") == "cifar100-quick"
    assert parameters.results("quick", "cifar10") == parameters.results("quick") == "quick"
    path = next(parameters.project.NOTEBOOKS.glob("01_*.ipynb"))
    read = parameters.read("quick", path, str(photos))
    assert (read["profile"], read["dataset"]) == ("photos-quick", str(photos))
    assert tasks.choose_profile(None, str(photos))[0] == "quick"
    assert tasks.choose_profile("smoke", str(photos))[1].startswith("profile smoke on photos: 14 / 2 / 4 images")
    assert "photos-quick" not in records.profiles()
    (reports / "photos-quick").mkdir(parents=True)
    (reports / "photos-quick" / "run.json").write_text('{"line": ""}')
    assert "photos-quick" in records.profiles()
    assert records.dataset("photos-quick") is records.dataset("quick") is None
    (reports / "photos-quick" / "run.json").write_text('{"dataset": "/photos"}')
    assert records.dataset("photos-quick") == "/photos"


def test_a_folder_is_never_taken_for_a_known_data_set(photos):
    """The decks' claims are about CIFAR-10, not about a folder of that name."""
    photos.rename(photos.with_name("cifar10"))
    images = data.load_dataset(photos.with_name("cifar10"))
    assert images.name == "cifar10 folder"
    assert data.slug(photos.with_name("cifar10")) == "cifar10-folder"
