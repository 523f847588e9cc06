"""Images as arrays: CIFAR-10 from the Keras home or the network, and digits that need neither.

Introduced in notebook 01. Nothing here imports Keras, so the command line can ask where the data is.
"""

import hashlib
import io
import json
import os
import pickle
import tarfile
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from lib import project

import numpy as np

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"  # of the archive
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_MD5 = {  # of the extracted batches; the last two are the same test images in two orders
    "c99cafc152244af753f735de768cd75f", "d4bba439e000b95fd0a9bffe97cbabec", "54ebc095f3ab1f0389bbae665268c751",
    "634d18415352ddfa80567beed471001a", "482c414d41f54cd18b22e5b47cb7c3cb", "40351d587109b95175f43aff81a1287e",
    "28227fe9a59925071aeb56f68a33262d"}  # fmt: skip
BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-py-target/cifar-10-batches-py")  # official, Keras 3
ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-batches-py.tar.gz", "cifar-10-batches-py-target_archive")
SPLITS, PARTS = ("train", "validation", "test"), ("images", "labels", "indices")


class DataError(project.StudyError):
    """Data that is missing, damaged or not what its name says."""


class Split(NamedTuple):
    """Images (n, height, width, channels) uint8, labels (n,) int64, and their places (n,) in the original files.

    Where cached features stand in for images (see `transfer`), `mirrored` (n, ...) holds those of the mirror images.
    """

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    mirrored: np.ndarray | None = None

    def take(self, rows):
        """Return the split with only these rows (a slice keeps the memory map, an index array copies)."""
        return Split(self.images[rows], self.labels[rows], self.indices[rows])


@dataclass(frozen=True)
class Dataset:
    """A labelled image collection with fixed splits; `fingerprint` names its content."""

    name: str
    class_names: tuple
    source: str
    fingerprint: str
    train: Split
    validation: Split
    test: Split

    @property
    def image_shape(self):
        """(height, width, channels)."""
        return self.train.images.shape[1:]

    @property
    def num_classes(self):
        """Number of classes."""
        return len(self.class_names)

    def __str__(self):
        sizes = " / ".join(f"{len(getattr(self, split).labels):,}" for split in SPLITS)
        return f"{self.name}: {sizes} images for training / validation / test, {self.source}"


def load_dataset(name, train_limit=None, test_limit=None):
    """Return the `Dataset` called "cifar10" or "digits"; its splits are the same in every run and for every seed.

    A limit keeps a stratified part: every smaller part is contained in every larger one, and the validation set
    shrinks in proportion to the training set. Raises DataError where the data is missing, damaged or unknown.
    """
    loaders = {"cifar10": _load_cifar10, "digits": _load_digits}
    if name not in loaders:
        raise DataError(f"unknown dataset {name!r}: choose one of {', '.join(loaders)}")
    data = loaders[name]()
    share = min(1, (train_limit or np.inf) / len(data.train.labels))
    train, validation = (split.take(slice(round(share * len(split.labels)))) for split in (data.train, data.validation))
    test = data.test.take(np.sort(stratified_order(data.test.labels)[: test_limit or None]))
    return replace(data, train=train, validation=validation, test=test)


def stratified_order(labels):
    """Return indices (n,) in a fixed random order of which every leading part has the class shares of the whole."""
    position, generator = np.empty(len(labels)), np.random.default_rng(0)
    for label in np.unique(labels):  # each class shuffled and spread evenly
        members = generator.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((labels, position))


def find_or_download_cifar10():
    """Return (path of the extracted folder or the archive, how it came there); raises DataError if impossible."""
    path = find_cifar10()
    if path:
        return path, f"found in the Keras home as {path.name}"
    import pooch
    import requests

    path = keras_home() / "datasets" / ARCHIVES[0]
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=10)  # seconds to connect, and between two packets
    try:  # nothing is left behind if it is cut short
        pooch.retrieve(CIFAR10_URL, f"sha256:{CIFAR10_SHA256}", path.name, path.parent, downloader=downloader)
    except (OSError, ValueError) as error:  # their messages are paragraphs
        offline = isinstance(error, (requests.ConnectionError, requests.Timeout))
        reason = "no connection" if offline else str(error).splitlines()[0].partition(": ")[0]
        raise DataError(f"{path.name} is not in {path.parent} and could not be downloaded ({reason}): "
                        f"put the file there, or use --profile smoke, which needs no download") from None
    return path, "downloaded"


def find_cifar10():
    """Return the path of CIFAR-10 under the Keras home, extracted or as an archive, or None."""
    paths = (keras_home() / "datasets" / name for name in FOLDERS + ARCHIVES)
    return next((path for path in paths if path.exists()), None)


def keras_home():
    """Return the folder in which Keras keeps data sets and weights."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")


def stamp(name):
    """Return a short text that changes when the files behind a dataset change (by size and modification time)."""
    path = find_cifar10() if name == "cifar10" else None
    if path is None:
        return name
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(states).encode()).hexdigest()[:16]


def _split(name, class_names, source, train, test):
    """Build a Dataset from (images, labels) pairs, keeping a tenth of the training images for validation."""
    images, labels = train
    order, cut = stratified_order(labels), round(len(labels) / 10)
    validation, training = (Split(images[rows], labels[rows], rows) for rows in (order[:cut], order[cut:]))
    digest = hashlib.sha256()
    for array in (*train, *test):
        digest.update(np.ascontiguousarray(array))
    testing = Split(*test, np.arange(len(test[1])))
    return Dataset(name, tuple(class_names), source, digest.hexdigest()[:16], training, validation, testing)


def _load_digits():
    """scikit-learn's 1,797 scanned digits, 8×8 greyscale, enlarged to 32×32×3: real images without a download."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = (digits.images * (255 / 16)).round().astype(np.uint8)
    large = np.stack([np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC)) for image in grey])
    images, labels = np.repeat(large[..., None], 3, axis=3), digits.target.astype(np.int64)
    order = stratified_order(labels)
    train, test = ((images[rows], labels[rows]) for rows in (np.sort(order[360:]), np.sort(order[:360])))
    return _split("digits", map(str, digits.target_names), "embedded in scikit-learn", train, test)


def _load_cifar10():
    """CIFAR-10 (Krizhevsky, 2009), parsed once and from then on memory-mapped from the cache."""
    path, _ = find_or_download_cifar10()
    folder = project.CACHE / "datasets" / f"cifar10-{stamp('cifar10')}"
    if not folder.exists():
        *batches, test = _read_batches(path)
        train = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        _store(folder, _split("cifar10", CIFAR10_CLASSES, "Krizhevsky 2009", train, test))
    try:
        meta = json.loads((folder / "meta.json").read_text())
        splits = {split: Split(*(np.load(folder / f"{split}_{part}.npy", mmap_mode="r") for part in PARTS))
                  for split in SPLITS}
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is damaged ({error}): delete it and run again") from error
    return Dataset(**meta | {"class_names": tuple(meta["class_names"])} | splits)


def _store(folder, data):
    """Write a Dataset as .npy files that appear in `folder` all at once."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=project.unfinished("")) as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            (new / "meta.json").write_text(json.dumps({key: vars(data)[key] for key in vars(data).keys() - SPLITS}))
            for split in SPLITS:
                for part in PARTS:
                    np.save(new / f"{split}_{part}.npy", getattr(getattr(data, split), part))
            new.rename(folder)
    except OSError as error:
        if not folder.exists():  # another process may have been first, with the same content
            raise DataError(f"cannot write the cache in {folder.parent} ({error}): free some space") from error


def _read_batches(path):
    """Return six (images, labels) pairs from the extracted folder or the archive."""
    try:
        if path.is_dir():
            return [_read_batch(path / name, (path / name).read_bytes()) for name in BATCHES]
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != CIFAR10_SHA256:
                raise DataError(f"{path} is damaged or incomplete: delete it and run again")
        with tarfile.open(path) as archive:  # read member by member: nothing is extracted to disk
            return [_read_batch(path / name, archive.extractfile(f"{FOLDERS[0]}/{name}").read()) for name in BATCHES]
    except DataError:
        raise
    except Exception as error:  # whatever damaged bytes give rise to
        raise DataError(f"{path} cannot be read ({project.one_line(error)}): delete it and run again") from error


def _read_batch(path, content):
    """Return images (10000, 32, 32, 3) uint8 and labels (10000,) int64 of one official batch."""
    if hashlib.md5(content, usedforsecurity=False).hexdigest() not in CIFAR10_MD5:
        raise DataError(f"{path} is not the published file (damaged or incomplete): delete its folder and run again")
    try:
        with warnings.catch_warnings(action="ignore"):
            batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        images = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = np.asarray(batch[b"labels"], np.int64)
        if images.dtype != np.uint8 or labels.shape != (len(images),) or not 0 <= labels.min() <= labels.max() < 10:
            raise ValueError("not ten classes of 8-bit images")
    except Exception as error:  # whatever damaged bytes give rise to
        what = f"{path} is not a CIFAR-10 batch ({project.one_line(error)})"
        raise DataError(f"{what}: delete its folder and run again") from error
    return np.ascontiguousarray(images), labels


class _ArrayUnpickler(pickle.Unpickler):
    """Admits arrays, lists, strings and numbers: no pickled data set can run code here."""

    def find_class(self, module, name):
        module = module.replace("numpy.core", "numpy._core")  # as it was called before NumPy 2
        if (module, name) in {("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
