"""Any folder of class subfolders as a data set: listed, split, and decoded once into the cache.

Introduced in notebook 01.
"""

import hashlib
import os
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from lib import data, pictures, project, records

import numpy as np

# Pixels a side. Networks trained from scratch here are built for 32. Pre-trained ones know large photos: they take 128
# and resize it to what they run at, 64 to 160 mostly; 100,000 images take 5 GB.
SMALL, LARGE = 32, 128
MOST_CLASSES = 1000
HELD_OUT = {"test": 0.2, "validation": 0.1}  # shares that are set aside where the folder does not, one after the other
SPLIT_NAMES = {"train": "train", "training": "train", "val": "validation", "valid": "validation",
               "validation": "validation", "test": "test", "testing": "test"}  # fmt: skip
IGNORED = (".", "__", "@")  # beginnings of names that systems give to folders of their own
NAMED = 3  # problems that are named, of those that are counted


class File(NamedTuple):
    """A file below a class folder; `split` is None where the folder has no train and test folders."""

    path: str
    split: str | None
    label: str
    size: int
    time: int


def load(name, large=False):
    """Return the `data.Dataset` of the folder at a path, its images 32 pixels a side, or 128 if `large`.

    Every image is cut to the square in its middle and shrunk to the means of the fields that its new pixels cover, both
    sizes in one pass that fills a memory-mapped cache: memory does not grow with the number of images. What cannot be
    read is left out and stands in `problems`. Validation and test images are those of folders of such names, or a fixed
    tenth of the training images and a fifth of all, class by class.

    Raises data.DataError where there is no such folder, or a class has too few images that can be read.
    """
    root = path_of(name)
    files = _files(root)
    folder = project.CACHE / "datasets" / f"{data.slug(root)}-{_stamp(root, files)}"
    if not folder.exists():
        with data.appearing(folder) as new:
            _decode(root, files, new)
        _forget(folder, root)
    return data.cached(folder, f"images{LARGE if large else SMALL}")


def _forget(newest, root):
    """Delete what the cache holds of a folder of images as it was before."""
    for folder in newest.parent.glob(f"{data.slug(root)}-*"):
        if folder != newest and records.peek(folder / "meta.json").get("source") == _source(root):
            shutil.rmtree(folder, ignore_errors=True)  # Windows keeps what another process reads


def _source(root):
    return f"from {project.printable(root)}"


def stamp(name):
    """Return a short text that changes with the names, sizes and modification times of a folder's files."""
    root = path_of(name)
    return _stamp(root, _files(root))


def _stamp(root, files):
    return data.stamp_of([str(root), SMALL, LARGE, *(tuple(file) for file in files)])


def path_of(name):
    """Return the absolute path of a folder of images; relative ones count from the project's root.

    Raises data.DataError where there is none, or where its path is not Unicode: no notebook could take it.
    """
    root = project.ROOT / project.expanded(name)
    if os.fsencode(root).decode("utf-8", "replace") != str(root):
        raise data.DataError(f"{project.printable(root)} has a name that is not Unicode: rename the folder")
    if not root.is_dir():
        if root.exists():
            raise data.DataError(f"{root} is a file: give the folder whose subfolders hold the images of the classes")
        raise data.DataError(f"there is no data set {name}: choose one of {', '.join(data.NAMES)}, or give the path of "
                             "a folder of class subfolders")
    return root.resolve()


def display_name(root):
    """Return what a folder's data set is called: never as one of the data sets that the project knows."""
    name = project.printable(root.name) or "images"
    return f"{name} folder" if name in data.NAMES else name


def _files(root):
    """Return every `File` in the class folders of `root`, sorted; raises data.DataError where they cannot be used."""
    try:
        folders, files, classes = _subfolders(root), [], {}
        names = {folder.name.lower() for folder in folders}
        known = {SPLIT_NAMES.get(name) for name in names} - {None}
        splits = "train" in known and names <= set(SPLIT_NAMES)
        if "train" in known and len(known) > 1 and not splits:
            raise data.DataError(f"{root} has folders of splits, and beside them {min(names - set(SPLIT_NAMES))}: take "
                                 "that away")
        for part in folders if splits else [root]:
            split = SPLIT_NAMES[part.name.lower()] if splits else None
            seen = set()
            for folder in _subfolders(part):
                label = project.printable(folder.name)
                if label in seen:  # names that are not UTF-8 may read alike
                    raise data.DataError(f"{root} has two folders whose names both read {label}: rename one")
                seen.add(label)
                classes.setdefault(split, set()).add(label)
                for path in _below(folder):
                    state = path.stat()
                    files.append(File(str(path), split, label, state.st_size, state.st_mtime_ns))
    except OSError as error:
        raise data.DataError(f"{error.filename} cannot be read ({error.strerror})") from error
    names = classes.pop("train" if splits else None, set())
    _check_classes(root, names, classes)
    _check_counts(root, names, files)
    return files


def _check_classes(root, classes, others):
    """Raise data.DataError unless there are some training classes, and the `others`, by split, are among them."""
    if not 2 <= len(classes) <= MOST_CLASSES:
        there = {0: "no class subfolders", 1: f"one class only ({''.join(classes)})"}
        raise data.DataError(f"{root} has {there.get(len(classes), f'{len(classes):,} class subfolders')}: put the "
                             f"images of each class into a folder of its name, 2 to {MOST_CLASSES:,} of them")
    for split, names in others.items():
        if names - classes:
            raise data.DataError(f"{root} has {split} images of {min(names - classes)}, but no training images: rename "
                                 "the folder or take it away")


def _subfolders(path):
    with os.scandir(path) as entries:
        return sorted((entry for entry in entries if Path(entry).is_dir() and not entry.name.startswith(IGNORED)),
                      key=lambda entry: entry.name)


def _below(path):
    """The paths of all files below a folder, sorted; links to folders are left out, or one might lead in a circle."""

    def refuse(error):
        raise error

    found = []
    for folder, folders, names in os.walk(path, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(filter(Path.is_file, found))  # no device, no broken link


def _check_counts(root, classes, files):
    """Raise data.DataError where a class has too few files for every split that it must fill."""
    held_out = set(HELD_OUT) - {file.split for file in files}
    counts = dict.fromkeys(sorted(classes), 0)
    for file in files:
        counts[file.label] += file.split in (None, "train")
    for name, count in counts.items():
        if count < 1 + len(held_out):
            wanted = " and ".join(["training", *sorted(held_out)])
            raise data.DataError(f"the class {name} of {root} has too few images that can be read, {count}: {wanted} "
                                 "need one each")


def _decode(root, files, new):
    """Write the data set of a folder into the cache folder `new`."""
    needed = 2 * len(files) * 3 * (SMALL**2 + LARGE**2)
    if needed > shutil.disk_usage(new).free:  # a map beyond the disk's end would kill the process
        raise data.DataError(f"the cache in {project.CACHE} needs {needed / 1e9:.1f} GB for {root}: free some space")
    maps = {size: _map(new / f"all{size}.npy", len(files), size) for size in (SMALL, LARGE)}
    errors = _fill(maps, root, files)
    readable = np.array([index for index, error in enumerate(errors) if error is None], int)
    classes = sorted({file.label for file in files})
    _check_counts(root, classes, [files[index] for index in readable])
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number[file.label] for file in files])
    digest, problems = hashlib.sha256(repr(classes).encode()), _unreadable(errors)
    for split, rows in _split(readable, labels, [file.split for file in files]).items():
        np.save(new / f"{split}_indices.npy", rows)
        np.save(new / f"{split}_labels.npy", labels[rows])
        digest.update(labels[rows])
        for size in maps:
            part = _map(new / f"{split}_images{size}.npy", len(rows), size)
            for start in range(0, len(rows), 256):
                part[start : start + 256] = maps[size][rows[start : start + 256]]
                digest.update(part[start : start + 256])
            part.flush()
        missing = [classes[label] for label in sorted(set(labels) - set(labels[rows]))]
        problems += [f"There is no {split} image of {_some(missing)}."] * bool(missing)
    for size in list(maps):
        del maps[size]  # Windows keeps what is mapped
        (new / f"all{size}.npy").unlink()
    data.write_meta(new, data.Dataset(display_name(root), tuple(classes), _source(root),
                                      digest.hexdigest()[:16], None, None, None, tuple(problems)))  # fmt: skip


def _map(path, count, size):
    return np.lib.format.open_memmap(path, "w+", np.uint8, (count, size, size, 3))


def _fill(maps, root, files):
    """Decode every file into its place in the maps; return for each what is wrong with it, or None."""
    from dask.system import CPU_COUNT
    from tqdm.auto import tqdm

    def decode(index):
        try:
            photo = pictures.open_photo(files[index].path)
        except pictures.PhotoError as error:
            return str(error).removeprefix("the photo ").removeprefix(f"{project.printable(root)}{os.sep}")
        for size, images in maps.items():
            images[index] = photo.shrunk(size)
        return None

    executor = ThreadPoolExecutor(min(8, CPU_COUNT))  # Pillow lets other threads run while it decodes
    try:
        with warnings.catch_warnings(action="ignore"):  # each thread sets this, and might undo it for the others
            return list(tqdm(executor.map(decode, range(len(files))), f"reading {root.name}", len(files), leave=False,
                             unit=" images", mininterval=1))  # fmt: skip
    finally:
        executor.shutdown(cancel_futures=True)


def _unreadable(errors):
    found = [error for error in errors if error is not None]
    said = f"{len(found):,} of {len(errors):,} files cannot be read as images and are left out: {_some(found, '; ')}."
    return [said] * bool(found)


def _some(texts, separator=", "):
    """The first few of some texts."""
    more = f"{separator}and {len(texts) - NAMED:,} more" if len(texts) > NAMED else ""
    return separator.join(texts[:NAMED]) + more


def _split(readable, labels, given):
    """Return {split: indices of its files}, in an order of which every leading part is stratified; test sorted."""
    given = np.array([given[index] or "train" for index in readable])
    rows = {split: readable[given == split] for split in data.SPLITS}
    for split, share in HELD_OUT.items():
        if not len(rows[split]):
            rows["train"], rows[split] = _deal(rows["train"], labels, share)
    for split in ("train", "validation"):
        rows[split] = rows[split][data.stratified_order(labels[rows[split]])]
    return rows | {"test": np.sort(rows["test"])}


def _deal(rows, labels, share):
    """Return (others, share) of rows: of each class the same share, at least one row."""
    order = rows[data.stratified_order(labels[rows])]
    taken = np.zeros(len(order), bool)
    for label in np.unique(labels[order]):
        members = np.flatnonzero(labels[order] == label)
        taken[members[: max(1, round(share * len(members)))]] = True
    return order[~taken], order[taken]
