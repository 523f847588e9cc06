"""Images as arrays: CIFAR-10 from the Keras home or the network, and digits that need neither.

Introduced in notebook 01. Nothing here imports Keras, so the command line can ask where the data is.
"""

import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
import tempfile
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
VALIDATION_SHARE = 0.1
PARTS = ("images", "labels", "indices")  # of a split, as cached


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
        sizes = " / ".join(f"{len(split.labels):,}" for split in (self.train, self.validation, self.test))
        return f"{self.name}: {sizes} images for training / validation / test, {self.source}"


def load_dataset(name, train_limit=None, test_limit=None):
    """Return the `Dataset` called "cifar10" or "digits".

    The splits are the same in every run and for every seed. A limit keeps a stratified part: every smaller part is
    contained in every larger one, and the validation set shrinks in proportion to the training set.

    Raises DataError where the data is missing or damaged, or the name is unknown.
    """
    loaders = {"cifar10": _load_cifar10, "digits": _load_digits}
    if name not in loaders:
        raise DataError(f"unknown dataset {name!r}: choose one of {', '.join(loaders)}")
    data = loaders[name]()
    share = min(1, (train_limit or np.inf) / len(data.train.labels))
    train, validation = (split.take(slice(round(share * len(split.labels)))) for split in (data.train, data.validation))
    tested = np.sort(stratified_order(data.test.labels)[: test_limit or None])
    test = data.test if len(tested) == len(data.test.labels) else data.test.take(tested)
    return replace(data, train=train, validation=validation, test=test)


def stratified_order(labels):
    """Return indices (n,) in an order of which every leading part has the class shares of the whole.

    Shuffles with a fixed seed within each class, then interleaves the classes.
    """
    position = np.empty(len(labels))
    generator = np.random.default_rng(0)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((labels, position))


def find_or_download_cifar10():
    """Return (path of the extracted folder or the archive, how it came there); raises DataError if impossible."""
    path = find_cifar10()
    if path:
        return path, f"found in the Keras home as {path.name}"
    return download(CIFAR10_URL, f"sha256:{CIFAR10_SHA256}", keras_home() / "datasets" / ARCHIVES[0]), "downloaded"


def find_cifar10():
    """Return the path of CIFAR-10 under the Keras home, extracted or as an archive, or None."""
    folder = keras_home() / "datasets"
    found = [folder / name for name in FOLDERS if (folder / name).is_dir()]
    found += [folder / name for name in ARCHIVES if (folder / name).is_file()]
    return found[0] if found else None


def keras_home():
    """Return the folder in which Keras keeps data sets and weights."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")


def download(url, known_hash, path):
    """Download `url` to `path` with a progress bar and return `path`; nothing is left behind if it is cut short."""
    import pooch
    import requests

    downloader = pooch.HTTPDownloader(progressbar=True, timeout=10)  # seconds to connect, and between two packets
    try:
        pooch.retrieve(url, known_hash, fname=path.name, path=path.parent, downloader=downloader)
    except (requests.RequestException, OSError, ValueError) as error:
        # The message of a connection error is a paragraph of nested exceptions.
        offline = isinstance(error, (requests.ConnectionError, requests.Timeout))
        reason = "no connection" if offline else str(error).splitlines()[0]
        raise DataError(f"{path.name} is not in {path.parent} and could not be downloaded ({reason}): "
                        f"put the file there, or use --profile smoke, which needs no download") from None
    return path


def stamp(name):
    """Return a short text that changes when the files behind a dataset change (by size and modification time)."""
    path = find_cifar10() if name == "cifar10" else None
    if path is None:
        return name
    files = [path] if path.is_file() else [path / batch for batch in BATCHES]
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]
    return hashlib.sha256(repr(states).encode()).hexdigest()[:16]


def _split(name, class_names, source, train, test):
    """Build a Dataset from (images, labels) pairs, keeping a tenth of the training images for validation."""
    images, labels = train
    order = stratified_order(labels)
    cut = round(VALIDATION_SHARE * len(labels))
    validation, training = (Split(images[rows], labels[rows], rows) for rows in (order[:cut], order[cut:]))
    digest = hashlib.sha256()
    for array in (images, labels, *test):
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
    test, train = np.sort(order[:360]), np.sort(order[360:])
    names = [str(label) for label in digits.target_names]
    return _split("digits", names, "embedded in scikit-learn", (images[train], labels[train]),
                  (images[test], labels[test]))


def _load_cifar10():
    """CIFAR-10 (Krizhevsky, 2009), parsed once and from then on memory-mapped from the cache."""
    path, _ = find_or_download_cifar10()
    folder = project.CACHE / "datasets" / f"cifar10-{stamp('cifar10')}"
    if not folder.exists():
        batches = _read_batches(path)
        images, labels = (np.concatenate(parts) for parts in zip(*batches[:5], strict=True))
        _store(folder, _split("cifar10", CIFAR10_CLASSES, "Krizhevsky 2009", (images, labels), batches[5]))
    meta = json.loads((folder / "meta.json").read_text())
    splits = {name: Split(*(np.load(folder / f"{name}_{part}.npy", mmap_mode="r") for part in PARTS))
              for name in ("train", "validation", "test")}
    return Dataset(**meta | {"class_names": tuple(meta["class_names"])}, **splits)


def _store(folder, data):
    """Write a Dataset as .npy files that appear in `folder` all at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    try:
        meta = {key: value for key, value in vars(data).items() if not isinstance(value, Split)}
        (temporary / "meta.json").write_text(json.dumps(meta))
        for name in ("train", "validation", "test"):
            for part in PARTS:
                np.save(temporary / f"{name}_{part}.npy", getattr(getattr(data, name), part))
        temporary.rename(folder)
    except OSError as error:
        if not folder.exists():  # another process may have been first, with the same content
            raise DataError(f"cannot write the cache in {folder.parent} ({error.strerror}): free some space") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read_batches(path):
    """Return six (images, labels) pairs from the extracted folder or the archive."""
    try:
        if path.is_dir():
            contents = {name: (path / name).read_bytes() for name in BATCHES}
        else:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != CIFAR10_SHA256:
                    raise DataError(f"{path} is damaged or incomplete: delete it and run again")
            with tarfile.open(path) as archive:  # read member by member: nothing is extracted to disk
                contents = {name: archive.extractfile(f"{FOLDERS[0]}/{name}").read() for name in BATCHES}
    except (OSError, KeyError, tarfile.TarError) as error:
        raise DataError(f"{path} cannot be read ({error}): delete it and run again") from error
    return [_read_batch(path / name, contents[name]) for name in BATCHES]


def _read_batch(path, content):
    """Return images (10000, 32, 32, 3) uint8 and labels (10000,) int64 of one official batch."""
    if hashlib.md5(content, usedforsecurity=False).hexdigest() not in CIFAR10_MD5:
        raise DataError(f"{path} is not the published file (damaged or incomplete): delete its folder and run again")
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        images = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = np.asarray(batch[b"labels"], np.int64)
        if images.dtype != np.uint8 or labels.shape != (len(images),) or not 0 <= labels.min() <= labels.max() < 10:
            raise ValueError("not ten classes of 8-bit images")
    except (pickle.UnpicklingError, EOFError, MemoryError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is not a CIFAR-10 batch ({error}): delete its folder and run again") from error
    return np.ascontiguousarray(images), labels


class _ArrayUnpickler(pickle.Unpickler):
    """Admits arrays, lists, strings and numbers: no pickled data set can run code here."""

    def find_class(self, module, name):
        if (module, name) in {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}:
            return np._core.multiarray._reconstruct
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
