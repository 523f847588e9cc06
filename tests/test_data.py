"""Data sets: fixed splits, and CIFAR-10 from files that may be damaged, hostile or missing."""

import functools
import hashlib
import http.server
import io
import os
import pickle
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from collections import Counter

from lib import data, project

import numpy as np
import pytest
from conftest import one_line

PER_BATCH = 20  # images in a batch of the toy CIFAR-10


def batch(seed):
    """Return a pickle like the official ones: ten classes, two images each."""
    images = np.random.default_rng(seed).integers(0, 256, (PER_BATCH, 3072), np.uint8)
    labels = [index % 10 for index in range(PER_BATCH)]
    return pickle.dumps({b"batch_label": b"toy", b"labels": labels, b"data": images, b"filenames": [b"x.png"]}, 3)


@functools.cache  # gzip writes the time into its header
def archive():
    """Return the bytes of an archive like the official one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for seed, name in enumerate(data.BATCHES):
            member = tarfile.TarInfo(f"{data.FOLDERS[0]}/{name}")
            member.size = len(batch(seed))
            file.addfile(member, io.BytesIO(batch(seed)))
    return buffer.getvalue()


@pytest.fixture
def home(tmp_path, monkeypatch, cache):
    """An empty Keras home; toy batches and the toy archive count as the published ones."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(data, "CIFAR10_MD5", {hashlib.md5(batch(seed)).hexdigest() for seed in range(6)})
    monkeypatch.setattr(data, "CIFAR10_SHA256", hashlib.sha256(archive()).hexdigest())
    (tmp_path / "keras" / "datasets").mkdir(parents=True)
    return tmp_path / "keras" / "datasets"


def extract(folder):
    """Write the toy batches into a folder."""
    folder.mkdir(parents=True)
    for seed, name in enumerate(data.BATCHES):
        (folder / name).write_bytes(batch(seed))
    return folder


@pytest.fixture
def batches(home):
    """The folder of an extracted toy CIFAR-10."""
    return extract(home / data.FOLDERS[0])


def refusal():
    """Return the one line with which CIFAR-10 is refused, after making sure that nothing was half-written."""
    with pytest.raises(data.DataError) as error:
        data.load_dataset("cifar10")
    folder = project.CACHE / "datasets"
    assert not folder.is_dir() or list(folder.iterdir()) == []
    return one_line(error)


# ---------------------------------------------------------------------------------------------- splits


def test_digits_need_nothing_but_scikit_learn():
    """Real images in the shape of CIFAR-10's."""
    digits = data.load_dataset("digits")
    sizes = [len(split.labels) for split in (digits.train, digits.validation, digits.test)]
    assert sizes == [1293, 144, 360]
    assert sum(sizes) == 1797
    assert digits.image_shape == (32, 32, 3)
    assert digits.num_classes == 10
    for split in (digits.train, digits.validation, digits.test):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert len(split.images) == len(split.labels) == len(split.indices)
    assert digits.train.images.max() > 200
    assert str(digits) == ("handwritten digits (scikit-learn): 1,293 / 144 / 360 images for training / validation / "
                           "test, embedded in the package")


@pytest.mark.parametrize(("name", "title"), [
    ("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100"), ("digits", "handwritten digits (scikit-learn)"),
    ("flowers", "flowers"), ("cifar10 folder", "cifar10 folder"),
])  # fmt: skip
def test_readers_see_a_title(name, title):
    """A folder is called by its name."""
    assert data.title(name) == title


def test_no_image_is_in_two_splits():
    """By place and by content: scikit-learn's digits hold no duplicates."""
    digits = data.load_dataset("digits")
    assert not set(digits.train.indices) & set(digits.validation.indices)
    splits = (digits.train, digits.validation, digits.test)
    assert len({image.tobytes() for split in splits for image in split.images}) == 1797


def shares(labels):
    """Return the share of each of ten classes."""
    return np.bincount(labels, minlength=10) / len(labels)


def test_the_validation_images_have_the_class_shares_of_the_training_images():
    """To within one image."""
    digits = data.load_dataset("digits")
    assert abs(shares(digits.validation.labels) - shares(digits.train.labels)).max() < 1 / 144


def test_validation_images_join_the_training_images_but_for_those_that_watch():
    images = data.load_dataset("digits")
    joined = images.join_validation(held=30)
    assert joined.validation.indices.tolist() == images.validation.indices[:30].tolist()
    together = [*images.train.indices, *images.validation.indices[30:]]
    assert joined.train.indices.tolist() == together
    source = {index: image for part in (images.train, images.validation)
              for index, image in zip(part.indices, part.images, strict=True)}  # fmt: skip
    assert np.array_equal(joined.train.images, [source[index] for index in together])
    assert joined.test is images.test
    assert joined.train.mirrored is None


@pytest.mark.parametrize("limit", [50, 500, 1000])
def test_a_smaller_part_is_contained_in_a_larger_one(limit):
    """And has its class shares: learning curves over the amount of data compare like with like."""
    whole, part = data.load_dataset("digits"), data.load_dataset("digits", limit, limit // 5)
    assert len(part.train.labels) == limit
    assert len(part.test.labels) == limit // 5
    assert len(part.validation.labels) == round(limit / 1293 * 144)
    for name in ("train", "validation", "test"):
        few, all_of_them = getattr(part, name), getattr(whole, name)
        assert set(few.indices) < set(all_of_them.indices)
        assert abs(shares(few.labels) - shares(all_of_them.labels)).max() <= 1 / len(few.labels)
    np.testing.assert_array_equal(part.train.images, whole.train.images[:limit])


def test_every_leading_part_of_the_order_is_stratified():
    """Where classes differ in size, too."""
    labels = np.repeat([0, 1, 2], [600, 300, 30])[np.random.default_rng(1).permutation(930)]
    order = data.stratified_order(labels)
    assert sorted(order) == list(range(930))
    for count in range(1, 931):
        expected = count * np.array([600, 300, 30]) / 930
        assert abs(np.bincount(labels[order[:count]], minlength=3) - expected).max() <= 1.5


@pytest.mark.parametrize("limits", [(-1, 0), (0, -400)])
def test_a_limit_below_zero_is_one_line(limits):
    with pytest.raises(data.DataError, match="train_limit and test_limit must be numbers of images, or 0"):
        data.load_dataset("digits", *limits)


def test_no_limit_and_a_limit_beyond_the_end_take_all():
    """0 stands for all in parameter files."""
    for limit in (None, 0, 10**6):
        assert len(data.load_dataset("digits", limit, limit).train.labels) == 1293


def test_another_process_has_the_same_splits():
    """Whatever its hash seed."""
    def digest(dataset):
        indices = b"".join(split.indices.tobytes() for split in (dataset.train, dataset.validation, dataset.test))
        return f"{dataset.fingerprint} {hashlib.sha256(indices).hexdigest()}"

    code = """
        import hashlib
        from lib import data
        digits = data.load_dataset("digits", 500, 100)
        indices = b"".join(split.indices.tobytes() for split in (digits.train, digits.validation, digits.test))
        print(digits.fingerprint, hashlib.sha256(indices).hexdigest())"""
    out = python(code, PYTHONHASHSEED="7").communicate(timeout=60)[0]
    assert out.strip() == digest(data.load_dataset("digits", 500, 100))


def python(code, *arguments, **variables):
    """Start another Python process in the project's root."""
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], cwd=project.ROOT,
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | variables)


def test_an_unknown_data_set_is_refused():
    """With the names of those there are."""
    with pytest.raises(data.DataError, match="no data set cifar: choose one of cifar10, cifar100, digits, or give"):
        data.load_dataset("cifar")


# ---------------------------------------------------------------------------------------------- CIFAR-10 from files


def check(dataset):
    """Assert that a toy CIFAR-10 holds what was written."""
    assert [len(split.labels) for split in (dataset.train, dataset.validation, dataset.test)] == [90, 10, 20]
    assert set(Counter(dataset.train.labels.tolist()).values()) == {9}
    written = np.random.default_rng(5).integers(0, 256, (PER_BATCH, 3072), np.uint8)  # the last is the test batch
    np.testing.assert_array_equal(dataset.test.images[7], written[7].reshape(3, 32, 32).transpose(1, 2, 0))
    first = np.random.default_rng(0).integers(0, 256, (PER_BATCH, 3072), np.uint8)
    row = int(np.flatnonzero(dataset.train.indices < PER_BATCH)[0])
    place = int(dataset.train.indices[row])
    np.testing.assert_array_equal(dataset.train.images[row], first[place].reshape(3, 32, 32).transpose(1, 2, 0))
    assert dataset.train.labels[row] == place % 10


@pytest.mark.parametrize("folder", data.FOLDERS)
def test_cifar10_is_read_from_both_folders(home, folder):
    """The official one, and the one that Keras 3 makes."""
    extract(home / folder)
    assert data.find_or_download_cifar()[1].startswith("found in the Keras home")
    check(data.load_dataset("cifar10"))


@pytest.mark.parametrize("name", data.ARCHIVES)
def test_cifar10_is_read_from_the_archive(home, name):
    """Without extracting it to disk."""
    (home / name).write_bytes(archive())
    check(data.load_dataset("cifar10"))
    assert [path.name for path in home.iterdir()] == [name]


def test_the_second_load_is_memory_mapped(batches):
    """From the cache, read-only, at once; the source counts as unchanged by its size and time."""
    first = data.load_dataset("cifar10")
    source = batches / "data_batch_1"
    time_of_change = source.stat().st_mtime_ns
    source.write_bytes(bytes(len(batch(0))))  # would be refused if it were read
    os.utime(source, ns=(time_of_change, time_of_change))
    start = time.perf_counter()
    second = data.load_dataset("cifar10", train_limit=50)
    assert time.perf_counter() - start < 0.3
    assert isinstance(second.train.images, np.memmap)
    assert not second.train.images.flags.writeable
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.train.images, first.train.images[:50])


def test_the_stamp_changes_with_the_files(batches):
    """Not with their content alone, as hashing 180 MB takes a second."""
    stamps = [data.stamp("cifar10"), data.stamp("cifar10")]
    os.utime(batches / "test_batch", ns=(1, 1))
    stamps.append(data.stamp("cifar10"))
    (batches / "test_batch").write_bytes(batch(5)[:-1])
    os.utime(batches / "test_batch", ns=(1, 1))
    stamps.append(data.stamp("cifar10"))
    assert stamps[0] == stamps[1]
    assert len(set(stamps)) == 3
    assert data.stamp("digits") == "digits"


def test_two_processes_may_fill_the_cache_at_once(batches, cache):
    """Both get the data, one folder stays."""
    code = """
        import pathlib, sys, time
        from lib import data
        data.CIFAR10_MD5 = set(sys.argv[2:])
        pathlib.Path(sys.argv[1], f"ready-{time.time_ns()}").touch()
        start = time.monotonic()
        while len(list(pathlib.Path(sys.argv[1]).glob("ready-*"))) < 2 and time.monotonic() < start + 30:
            time.sleep(0.001)
        print(data.load_dataset("cifar10").fingerprint)"""
    processes = [python(code, batches.parent, *data.CIFAR10_MD5, STUDY_CACHE=str(cache)) for _ in range(2)]
    results = [process.communicate(timeout=60) for process in processes]
    assert [err for _, err in results] == ["", ""]
    assert results[0][0] == results[1][0] == data.load_dataset("cifar10").fingerprint + "\n"
    assert len(list((cache / "datasets").iterdir())) == 1


def test_another_writer_may_finish_first(batches, monkeypatch):
    """Between our look into the cache and our writing to it."""
    read, others = data._read_batches, []

    def slowly(path, name):
        if not others:
            others.append(path)
            others.append(data.load_dataset("cifar10"))
        return read(path, name)

    monkeypatch.setattr(data, "_read_batches", slowly)
    assert data.load_dataset("cifar10").fingerprint == others[1].fingerprint
    assert len(list((project.CACHE / "datasets").iterdir())) == 1


# ---------------------------------------------------------------------------------------------- CIFAR-100


def batch_of_100(name, count):
    """Return a pickle like the official ones of CIFAR-100: so many images of each class."""
    labels = [index % 100 for index in range(100 * count)]
    images = np.random.default_rng(len(name)).integers(0, 256, (len(labels), 3072), np.uint8)
    content = {b"fine_labels": labels, b"coarse_labels": labels, b"data": images, b"filenames": [b"x.png"]}
    return pickle.dumps(content, 3)


@functools.cache
def archive_of_100():
    """Return the bytes of an archive like the official one of CIFAR-100."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, count in (("train", 10), ("test", 2)):
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(batch_of_100(name, count))
            file.addfile(member, io.BytesIO(batch_of_100(name, count)))
    return buffer.getvalue()


@pytest.fixture
def home_of_100(home, monkeypatch):
    """A Keras home in which the toy CIFAR-100 counts as the published one."""
    hashes = {hashlib.md5(batch_of_100(*each)).hexdigest() for each in (("train", 10), ("test", 2))}
    monkeypatch.setattr(data, "CIFAR100_MD5", hashes)
    monkeypatch.setattr(data, "CIFAR100_SHA256", hashlib.sha256(archive_of_100()).hexdigest())
    return home


@pytest.mark.parametrize("place", ["cifar-100-python", "cifar-100-python-target/cifar-100-python",
                                   "cifar-100-python.tar.gz", "cifar-100-python-target_archive"])
def test_cifar100_is_read_from_folders_and_archives(home_of_100, place):
    """The official ones and those that Keras 3 makes; a hundred classes, a tenth of each for validation."""
    path = home_of_100 / place
    if "python" in place.rpartition("/")[2] and not place.endswith(("gz", "archive")):
        path.mkdir(parents=True)
        for name, count in (("train", 10), ("test", 2)):
            (path / name).write_bytes(batch_of_100(name, count))
    else:
        path.write_bytes(archive_of_100())
    images = data.load_dataset("cifar100")
    assert [len(split.labels) for split in (images.train, images.validation, images.test)] == [900, 100, 200]
    assert (images.num_classes, images.class_names[0], images.class_names[99]) == (100, "apple", "worm")
    assert set(np.bincount(images.validation.labels)) == {1}
    written = np.random.default_rng(4).integers(0, 256, (200, 3072), np.uint8)
    np.testing.assert_array_equal(images.test.images[7], written[7].reshape(3, 32, 32).transpose(1, 2, 0))
    assert isinstance(data.load_dataset("cifar100", large=True).train.images, np.memmap)
    assert data.stamp("cifar100") != data.stamp("cifar10")


def test_a_hostile_or_changed_batch_of_cifar100_is_refused(home_of_100, monkeypatch, tmp_path):
    """By its hash, and if that were known, by the unpickler."""
    monkeypatch.chdir(tmp_path)
    folder = home_of_100 / "cifar-100-python"
    folder.mkdir()
    (folder / "test").write_bytes(batch_of_100("test", 2))
    hostile = pickle.dumps({b"data": Reduced(os.system, "touch HERE"), b"fine_labels": [0]}, 3)
    for content, says in ((hostile, "is not the published file"), (hostile, "is not a CIFAR-100 batch")):
        (folder / "train").write_bytes(content)
        with pytest.raises(data.DataError, match=says):
            data.load_dataset("cifar100")
        monkeypatch.setattr(data, "CIFAR100_MD5", data.CIFAR100_MD5 | {hashlib.md5(content).hexdigest()})
    assert not (tmp_path / "HERE").exists()


# ---------------------------------------------------------------------------------------------- damage


def test_a_truncated_batch_is_refused(batches):
    """With its path."""
    (batches / "data_batch_3").write_bytes(batch(2)[:-100])
    assert str(batches / "data_batch_3") in refusal()


def test_a_flipped_bit_is_refused(batches):
    """Even in a pixel."""
    content = bytearray(batch(5))
    content[len(content) // 2] ^= 1
    (batches / "test_batch").write_bytes(content)
    assert f"{batches / 'test_batch'} is not the published file" in refusal()


def test_a_missing_batch_is_refused(batches):
    """With the path of what is missing."""
    (batches / "data_batch_5").unlink()
    assert str(batches / "data_batch_5") in refusal()


def test_an_empty_folder_is_refused(home):
    """As an extraction that was stopped may leave it."""
    (home / data.FOLDERS[0]).mkdir()
    assert str(home / data.FOLDERS[0]) in refusal()


@pytest.mark.parametrize("content", [
    archive()[:-200], b"", b"not an archive", archive()[:5000] + b"x" + archive()[5001:],
])  # fmt: skip
def test_a_damaged_archive_is_refused(home, content):
    """With its path and what to do."""
    path = home / data.ARCHIVES[0]
    path.write_bytes(content)
    assert refusal() == f"{path} is damaged or incomplete: delete it and run again"


def accept(path, content, monkeypatch):
    """Write a batch and have it pass for a published one, so that the unpickler is what must stop it."""
    path.write_bytes(content)
    monkeypatch.setattr(data, "CIFAR10_MD5", data.CIFAR10_MD5 | {hashlib.md5(content).hexdigest()})


class Reduced:
    """Becomes a call of any function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("hostile", [
    Reduced(os.system, "touch HERE"),
    Reduced(eval, "open('HERE', 'w')"),
    {b"data": Reduced(os.system, "touch HERE"), b"labels": [0]},
    {b"data": np.array([None] * 3072), b"labels": [0]},
    {b"data": Reduced(np.ndarray, (10**15, 3072), np.dtype("u1")), b"labels": [0]},
    {b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 1]},
    {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]},
    {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]},
    {b"data": np.zeros((2, 3072), np.uint8), b"labels": ["cat", "dog"]},
    {b"data": np.zeros((2, 3000), np.uint8), b"labels": [0, 1]},
    {b"data": np.zeros((0, 3072), np.uint8), b"labels": []},
    {b"data": 7, b"labels": [0]},
    {b"labels": [0]},
    ["data"],
    7,
])  # fmt: skip
def test_a_hostile_batch_runs_nothing_and_is_refused(batches, monkeypatch, tmp_path, hostile):
    """Though its hash were known."""
    monkeypatch.chdir(tmp_path)
    accept(batches / "data_batch_2", pickle.dumps(hostile, 3), monkeypatch)
    assert f"{batches / 'data_batch_2'} is not a CIFAR-10 batch" in refusal()
    assert not (tmp_path / "HERE").exists()


def test_random_damage_is_refused_or_harmless(batches, cache):
    """400 batches with a few bytes changed or the end cut off, in a process that may not take much memory."""
    code = """
        import pathlib, resource, sys
        import numpy as np
        from lib import data
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

        class Any:
            def __contains__(self, item):
                return True

        data.CIFAR10_MD5 = Any()
        path = pathlib.Path(sys.argv[1])
        original, generator = path.read_bytes(), np.random.default_rng(0)
        # Half of the changes fall where the structure is, and not the pixels.
        structure = [place for place in range(len(original)) if place < 300 or place > len(original) - 300]
        good, bad, unexpected = 0, 0, set()
        for round in range(400):
            content = bytearray(original)
            for _ in range(generator.integers(1, 4)):
                place = generator.choice(structure) if round % 2 else generator.integers(len(content))
                content[place] = generator.integers(256)
            if round % 10 == 0:
                del content[generator.integers(len(content)):]
            try:
                images, labels = data._read_batch(path, bytes(content))
                assert images.dtype == np.uint8 and images.shape == (len(labels), 32, 32, 3)
                good += 1
            except data.DataError as error:
                assert str(path) in str(error) and "\\n" not in str(error), repr(str(error))
                bad += 1
            except Exception as error:
                unexpected.add(repr(error)[:80])
        print(good > 100, bad > 100, sorted(unexpected))"""
    out, _ = python(code, batches / "data_batch_1", OPENBLAS_NUM_THREADS="1").communicate(timeout=60)
    assert out == "True True []\n"  # on stderr NumPy remarks on some dtypes that cannot be


# ---------------------------------------------------------------------------------------------- no space


def test_a_full_disk_is_one_line(batches, cache, full_disk):
    """And leaves nothing behind."""
    with full_disk(20_000):
        message = refusal()
    assert message.startswith(f"cannot write the cache in {cache / 'datasets'}")
    assert "None" not in message


def test_a_cache_folder_that_cannot_be_made_is_one_line(batches, cache):
    """Here a file stands where the folder should be."""
    cache.write_text("")
    with pytest.raises(data.DataError) as error:
        data.load_dataset("cifar10")
    assert str(cache) in one_line(error)


@pytest.mark.parametrize(("file", "content"), [
    ("train_images.npy", lambda whole: whole[:1000]), ("train_images.npy", lambda _: b""),
    ("meta.json", lambda _: b"{}"), ("meta.json", lambda _: b"[]"), ("meta.json", lambda _: b"")])
def test_a_damaged_cache_is_one_line(batches, cache, file, content):
    """A copy that was cut short, for example."""
    data.load_dataset("cifar10")
    (path,) = cache.glob(f"datasets/*/{file}")
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(data.DataError, match=r"is damaged .*: delete it and run again$") as error:
        data.load_dataset("cifar10")
    assert str(cache) in str(error.value)


# ---------------------------------------------------------------------------------------------- download


class Server(http.server.ThreadingHTTPServer):
    """A web server on this machine: it promises `content` and sends the first `sent` bytes of it."""

    def __init__(self, content, sent=None, status=200):
        outer = self
        self.requests = 0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests += 1
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[:sent])

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


@pytest.fixture
def web(home, monkeypatch):
    """A function that starts a server and has CIFAR-10 downloaded from it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def start(*arguments, **options):
        server = Server(*arguments, **options)
        monkeypatch.setattr(data, "CIFAR10_URL", f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz")
        return server

    return start


def test_what_is_missing_is_downloaded_once(home, web):
    """Into the Keras home, where everybody looks for it."""
    with web(archive()) as server:
        path, how = data.find_or_download_cifar()
        check(data.load_dataset("cifar10"))
    assert (path, how) == (home / data.ARCHIVES[0], "downloaded")
    assert path.read_bytes() == archive()
    assert [path.name for path in home.iterdir()] == [data.ARCHIVES[0]]
    assert server.requests == 1
    assert "found" in data.find_or_download_cifar()[1]


@pytest.mark.parametrize("case", ["cut in the middle", "another file", "not found", "empty"])
def test_a_failed_download_leaves_nothing_behind(home, web, case):
    """And says in one line where to put the file, or which profile needs none."""
    server = {"cut in the middle": lambda: web(archive(), sent=5000), "another file": lambda: web(archive()[:-1]),
              "not found": lambda: web(b"", status=404), "empty": lambda: web(b"")}[case]()  # fmt: skip
    with server:
        message = refusal()
    assert message.startswith(f"{data.ARCHIVES[0]} is not in {home} and could not be downloaded (")
    assert message.endswith("put the file there, or use --profile smoke, which needs no download")
    assert ("(the connection broke off)" in message) is (case == "cut in the middle")
    assert list(home.iterdir()) == []


def test_no_connection_is_one_line_at_once(home, web):
    """Nobody listens."""
    web(b"").server_close()  # for the port of a server that is gone
    start = time.perf_counter()
    message = refusal()
    assert "could not be downloaded (no connection)" in message
    assert time.perf_counter() - start < 5
    assert list(home.iterdir()) == []


def test_a_keras_home_that_cannot_be_made_is_one_line(home, web, monkeypatch, tmp_path):
    """Here a file stands where the folder should be."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    with web(archive()):
        assert str(tmp_path / "file") in refusal()


def test_the_keras_home_is_the_users_unless_it_is_set(monkeypatch, tmp_path):
    """As Keras has it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", "")
    assert data.keras_home() == tmp_path / ".keras"
    monkeypatch.delenv("KERAS_HOME")
    assert data.keras_home() == tmp_path / ".keras"
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "other"))
    assert data.keras_home() == tmp_path / "other"


# ---------------------------------------------------------------------------------------------- the real CIFAR-10


@pytest.fixture(scope="module")
def cifar10():
    """The real thing, where it is."""
    if data.find_cifar() is None:
        pytest.skip(f"CIFAR-10 is not in {data.keras_home()} (KERAS_HOME)")
    return data.load_dataset("cifar10")


def test_only_cifar_is_looked_for(tmp_path, monkeypatch):
    """Another name is not taken for CIFAR-100, which is there."""
    (tmp_path / "datasets" / data.published("cifar100").folders[0]).mkdir(parents=True)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert data.find_cifar("cifar100") is not None
    assert (data.find_cifar("cifar10"), data.find_cifar("digits"), data.find_cifar("/a/folder")) == (None, None, None)


@pytest.mark.real_data
def test_real_cifar10_has_its_published_shape(cifar10):
    """50,000 images, a tenth of them for validation, and 10,000 to test; all classes alike."""
    assert str(cifar10).startswith("CIFAR-10: 45,000 / 5,000 / 10,000 images")
    assert cifar10.image_shape == (32, 32, 3)
    for split, count in ((cifar10.train, 4500), (cifar10.validation, 500), (cifar10.test, 1000)):
        assert np.bincount(split.labels).tolist() == [count] * 10
    assert not set(cifar10.train.indices) & set(cifar10.validation.indices)


@pytest.mark.real_data
def test_real_cifar10_has_its_published_pixels(cifar10):
    """The mean of each channel over all training images, as it is quoted everywhere: 0.4914, 0.4822, 0.4465."""
    total = sum(split.images.sum((0, 1, 2), dtype=np.int64) for split in (cifar10.train, cifar10.validation))
    assert (total / 50_000 / 1024 / 255).round(4).tolist() == [0.4914, 0.4822, 0.4465]
    assert cifar10.class_names[cifar10.test.labels[0]] == "cat"  # the first test image is the well-known cat


@pytest.mark.real_data
def test_real_cifar10_has_the_splits_of_the_committed_results(cifar10):
    """On every machine: another order would make training images of validation images."""
    digest = hashlib.sha256(cifar10.train.indices.astype("<i8").tobytes() + cifar10.train.images[:1000].tobytes())
    assert digest.hexdigest()[:16] == "8044a93bcea90456"
    assert data.load_dataset("cifar10").fingerprint == cifar10.fingerprint


@pytest.mark.real_data
def test_real_cifar10_loads_at_once_the_second_time(cifar10):
    """In any process: under 0.3 s."""
    code = "import time; from lib import data; s = time.perf_counter(); data.load_dataset('cifar10', 5000, 2000); "
    out, err = python(code + "print(time.perf_counter() - s)").communicate(timeout=60)
    assert err == ""
    assert float(out) < 0.3
