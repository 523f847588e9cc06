"""Images as arrays: CIFAR-10 and CIFAR-100 from the Keras home or the network, digits, and any folder (`lib.folders`).

Introduced in notebook 01. Nothing here imports Keras, so the command line can ask where the data is.
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import re
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
CIFAR100_URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
CIFAR100_SHA256 = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
CIFAR100_MD5 = {"16019d7e3df5f24257cddd939b257f8d", "f0ef6b0ae62326f3e7ffdfab6717acfc"}
CIFAR100_CLASSES = tuple("""apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
    dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
    lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew
    skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split())  # noqa: SIM905
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "digits": "handwritten digits (scikit-learn)"}
NAMES = tuple(TITLES)  # all else is the path of a folder
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
        return Split(*(array if array is None else array[rows] for array in self))

    def join(self, other):
        """Return a split with the rows of this one, then of another one."""
        return Split(*(mine if mine is None else np.concatenate([mine, theirs])
                       for mine, theirs in zip(self, other, strict=True)))  # fmt: skip

    def digest(self):
        """Return a hash of the labels, the places, and of the images unless they are mapped from the cache.

        Those `Dataset.fingerprint` names, and nobody can have changed them; what is in memory may be anything.
        """
        found = hashlib.sha256(repr((self.images.shape, self.mirrored is None)).encode())
        mapped = isinstance(self.images, np.memmap) and not self.images.flags.writeable
        for array in (self.labels, self.indices, *([] if mapped else [self.images])):
            found.update(np.ascontiguousarray(array))
        return found.hexdigest()[:16]


@dataclass(frozen=True)
class Dataset:
    """A labelled image collection with fixed splits; `fingerprint` names its content.

    `problems` says, in sentences, what was wrong with the files.
    """

    name: str
    class_names: tuple
    source: str
    fingerprint: str
    train: Split
    validation: Split
    test: Split
    problems: tuple = ()

    @property
    def title(self):
        """What a sentence or a table calls the images."""
        return title(self.name)

    @property
    def image_shape(self):
        """(height, width, channels)."""
        return self.train.images.shape[1:]

    @property
    def num_classes(self):
        """Number of classes."""
        return len(self.class_names)

    def join_validation(self, held):
        """Return the same data with all but `held` validation images, which still watch, among the training images.

        It is for the last training of a recipe that is chosen, when validation images have nothing left to decide.
        """
        watching, joining = self.validation.take(slice(held)), self.validation.take(slice(held, None))
        return replace(self, train=self.train.join(joining), validation=watching)

    def __str__(self):
        sizes = " / ".join(f"{len(getattr(self, split).labels):,}" for split in SPLITS)
        return f"{self.title}: {sizes} images for training / validation / test, {self.source}"


class Published(NamedTuple):
    """Where the files of CIFAR-10 or CIFAR-100 (Krizhevsky 2009) are found, and by what they are known."""

    classes: tuple
    labels: bytes  # their key in a batch
    url: str
    sha256: str  # of the archive
    md5: set  # of the extracted batches
    batches: tuple  # the last holds the test images
    folders: tuple
    archives: tuple


def published(name):
    """Return what is known of "cifar10" or "cifar100"."""
    if name == "cifar10":
        return Published(CIFAR10_CLASSES, b"labels", CIFAR10_URL, CIFAR10_SHA256, CIFAR10_MD5, BATCHES, FOLDERS,
                         ARCHIVES)
    folder = "cifar-100-python"
    return Published(CIFAR100_CLASSES, b"fine_labels", CIFAR100_URL, CIFAR100_SHA256, CIFAR100_MD5, ("train", "test"),
                     (folder, f"{folder}-target/{folder}"),
                     (f"{folder}.tar.gz", f"{folder}-target_archive"))


def load_dataset(name, train_limit=None, test_limit=None, large=False):
    """Return the `Dataset` of a name in `NAMES`, or of the folder at a path; its splits are the same for every seed.

    A limit keeps a stratified part: every smaller part is contained in every larger one, the validation set shrinks in
    proportion to the training set, and of each class a test image is kept. Images have 32 pixels a side; with `large`,
    for networks that were trained on large photos, those of a folder have 128. Raises DataError where the data is
    missing, damaged or unknown, and for a limit below 0.
    """
    if min(train_limit or 0, test_limit or 0) < 0:
        raise DataError("train_limit and test_limit must be numbers of images, or 0, which takes all")
    if name == "digits":
        data = _load_digits()
    elif name in NAMES:
        data = _load_cifar(name)
    else:
        from lib import folders  # it builds on this module

        data = folders.load(name, large)
    share = min(1, (train_limit or np.inf) / len(data.train.labels))
    train, validation = (split.take(slice(max(1, round(share * len(split.labels)))))
                         for split in (data.train, data.validation))
    labels = data.test.labels
    few = max(test_limit or len(labels), len(np.unique(labels)))
    test = data.test.take(np.sort(stratified_order(labels)[:few])) if few < len(labels) else data.test
    return replace(data, train=train, validation=validation, test=test)


def stratified_order(labels):
    """Return indices (n,) in a fixed random order of which every leading part has the class shares of the whole.

    One of each class comes first, or the small ones of many would be left out of a small part.
    """
    position, generator = np.empty(len(labels)), np.random.default_rng(0)
    for label in np.unique(labels):  # each class shuffled and spread evenly
        members = generator.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = np.lexsort((labels, position))
    first = np.sort(np.unique(labels[order], return_index=True)[1])
    return np.concatenate([order[first], np.delete(order, first)])


def find_or_download_cifar(name="cifar10"):
    """Return (path of the extracted folder or the archive, how it came there); raises DataError if impossible."""
    path, known = find_cifar(name), published(name)
    if path:
        return path, f"found in the Keras home as {path.name}"
    import pooch
    import requests

    path = keras_home() / "datasets" / known.archives[0]
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=10)  # seconds to connect, and between two packets
    try:  # nothing is left behind if it is cut short
        pooch.retrieve(known.url, f"sha256:{known.sha256}", path.name, path.parent, downloader=downloader)
    except (OSError, ValueError) as error:  # their messages are paragraphs
        kinds = {(requests.ConnectionError, requests.Timeout): "no connection",
                 requests.exceptions.ChunkedEncodingError: "the connection broke off"}
        reason = next((text for kind, text in kinds.items() if isinstance(error, kind)),
                      project.one_line(error).partition(": ")[0])
        raise DataError(f"{path.name} is not in {path.parent} and could not be downloaded ({reason}): "
                        f"put the file there, or use --profile smoke, which needs no download") from None
    return path, "downloaded"


def find_cifar(name="cifar10"):
    """Return the path of CIFAR-10 or CIFAR-100 under the Keras home, extracted or as an archive; else None."""
    if name not in ("cifar10", "cifar100"):
        return None
    known = published(name)
    paths = (keras_home() / "datasets" / place for place in known.folders + known.archives)
    return next((path for path in paths if path.exists()), None)


def keras_home():
    """Return the folder in which Keras keeps data sets and weights."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")


def title(name):
    """Return what a sentence calls a data set of this name: CIFAR-10, not cifar10; a folder is called by its name."""
    return TITLES.get(name, name)


def slug(name):
    """Return a data set's name as a part of a file name: letters, digits, dots, hyphens, underscores.

    Raises DataError where a path leads to no folder.
    """
    from lib import folders

    name = name if name in NAMES else folders.display_name(folders.path_of(name))
    return re.sub(r"[^\w.]+", "-", name).strip("-.")[:60] or "images"


def stamp(name):
    """Return a short text that changes when the files behind a dataset change (by size and modification time)."""
    if name not in (None, *NAMES):
        from lib import folders

        return folders.stamp(name)
    path = find_cifar(name)
    if path is None:
        return name
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return stamp_of((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def stamp_of(states):
    """Return 16 hexadecimal digits for the names, sizes and modification times of files."""
    return hashlib.sha256(repr(list(states)).encode()).hexdigest()[:16]


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
    return _split("digits", map(str, digits.target_names), "embedded in the package", train, test)


def _load_cifar(name):
    """CIFAR-10 or CIFAR-100, parsed once and from then on memory-mapped from the cache."""
    path, _ = find_or_download_cifar(name)
    folder = project.CACHE / "datasets" / f"{name}-{stamp(name)}"
    if not folder.exists():
        *batches, test = _read_batches(path, name)
        train = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        data = _split(name, published(name).classes, "Krizhevsky 2009", train, test)
        with appearing(folder) as new:
            for split in SPLITS:
                for part in PARTS:
                    np.save(new / f"{split}_{part}.npy", getattr(getattr(data, split), part))
            write_meta(new, data)
    return cached(folder)


def cached(folder, images="images"):
    """Return the memory-mapped Dataset in a folder of the cache; `images` begins the names of the files to take.

    Raises DataError where the folder is damaged.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        meta = {name: tuple(value) if isinstance(value, list) else value for name, value in meta.items()}
        splits = {split: Split(*(np.load(folder / f"{split}_{part}.npy", mmap_mode="r")
                                 for part in (images, *PARTS[1:]))) for split in SPLITS}  # fmt: skip
        return Dataset(**meta | splits)
    except (OSError, ValueError, EOFError, TypeError, AttributeError) as error:
        raise DataError(f"{folder} is damaged ({error}): delete it and run again") from error


def write_meta(folder, data):
    """Write all that a Dataset knows but its arrays."""
    content = {name: value for name, value in vars(data).items() if name not in SPLITS}
    (folder / "meta.json").write_text(json.dumps(content), encoding="utf-8")


@contextlib.contextmanager
def appearing(folder):
    """Yield an empty folder that takes the place of `folder` whole, or not at all on an error.

    Raises DataError where it cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=project.unfinished("")) as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            yield new
            new.rename(folder)
    except OSError as error:
        if not folder.exists():  # another process may have been first, with the same content
            raise DataError(f"cannot write the cache in {folder.parent} ({error}): free some space") from error


def _read_batches(path, name="cifar10"):
    """Return an (images, labels) pair for each batch in the extracted folder or the archive."""
    known = published(name)
    try:
        if path.is_dir():
            return [_read_batch(path / batch, (path / batch).read_bytes(), name) for batch in known.batches]
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != known.sha256:
                raise DataError(f"{path} is damaged or incomplete: delete it and run again")
        with tarfile.open(path) as archive:  # read member by member: nothing is extracted to disk
            return [_read_batch(path / batch, archive.extractfile(f"{known.folders[0]}/{batch}").read(), name)
                    for batch in known.batches]
    except DataError:
        raise
    except Exception as error:  # whatever damaged bytes give rise to
        raise DataError(f"{path} cannot be read ({project.one_line(error)}): delete it and run again") from error


def _read_batch(path, content, name="cifar10"):
    """Return images (n, 32, 32, 3) uint8 and labels (n,) int64 of one official batch."""
    known = published(name)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() not in known.md5:
        raise DataError(f"{path} is not the published file (damaged or incomplete): delete its folder and run again")
    try:
        with warnings.catch_warnings(action="ignore"):
            batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        images = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = np.asarray(batch[known.labels], np.int64)
        if images.dtype != np.uint8 or labels.shape != (len(images),):
            raise ValueError("not 8-bit images and their labels")
        if not 0 <= labels.min() <= labels.max() < len(known.classes):
            raise ValueError(f"not {len(known.classes)} classes")
    except Exception as error:  # whatever damaged bytes give rise to
        what = f"{path} is not a {title(name)} batch ({project.one_line(error)})"
        raise DataError(f"{what}: delete its folder and run again") from error
    return np.ascontiguousarray(images), labels


class _ArrayUnpickler(pickle.Unpickler):
    """Admits arrays, lists, strings and numbers: no pickled data set can run code here."""

    def find_class(self, module, name):
        module = module.replace("numpy.core", "numpy._core")  # as it was called before NumPy 2
        if (module, name) in {("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
