"""Whatever is in a file from outside: its reader takes it, or refuses it in one line of its own kind with the path."""

import contextlib
import copy
import hashlib
import io
import json
import os
import pickle
import resource
import subprocess
import tarfile
import zipfile
from datetime import timedelta

from lib import data, parameters, photo, pictures, pipeline, project, records, site

import hypothesis
import numpy as np
import psutil
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from nbformat import v4
from PIL import Image
from test_data import archive, batch
from test_records import RECORD

fuzz = hypothesis.settings(
    derandomize=True, database=None, max_examples=150, deadline=timedelta(seconds=20),
    suppress_health_check=list(hypothesis.HealthCheck))  # a fixture's folder may be used by all examples
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9), lambda inner:
                    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3), max_leaves=6)


@st.composite
def damaged(draw, original):
    """A file with a few bytes changed, and perhaps its end cut off or something added."""
    content, changes = bytearray(original), st.tuples(st.integers(0, len(original) - 1), st.integers(0, 255))
    for place, byte in draw(st.lists(changes, max_size=4)):
        content[place] = byte
    return bytes(content[: draw(st.none() | st.integers(0, len(content)))]) + draw(st.just(b"") | st.binary(max_size=8))


def places(content, place=()):
    """Return the ways into nested dicts and lists."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place, *(found for key, value in inner for found in places(value, (*place, key)))]


@st.composite
def changed(draw, original, values=JSON):
    """Nested dicts and lists of which something, somewhere, is something else or not there."""
    content = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(places(content)[1:]))
        node = content
        for key in way:
            node = node[key]
        if draw(st.integers(0, 3)):
            node[last] = copy.deepcopy(draw(values))  # further changes must not reach the strategy
        else:
            del node[last]
        hypothesis.assume(len(places(content)) > 1)
    return content


@contextlib.contextmanager
def at_most(kind, path):
    """Let an error of this kind pass that is one line with the path, and no other."""
    try:
        yield
    except project.StudyError as error:
        assert type(error) is kind
        assert str(path) in str(error)
        assert "\n" not in str(error)
        assert len(str(error)) < len(str(path)) + 400


YAML = b"seed: 1\nrate: 1e-3\nnames: [a, b]\nflag: true\nlimit: null\n# why\ntext: 'x: y'\n"


@fuzz
@hypothesis.given(content=st.binary(max_size=99) | st.text(max_size=99).map(str.encode) | damaged(YAML))
@hypothesis.example(content=b"seed: !!bool x")
@hypothesis.example(content=b"seed: !!int ''")
@hypothesis.example(content=b"seed: !!timestamp x")
@hypothesis.example(content=b"seed: " + b"[" * 5000)
@hypothesis.example(content=b"seed: {" + b"? " * 5000)
@hypothesis.example(content=b"seed: " + b"9" * 5000)
@hypothesis.example(content=b"seed: " + b"x" * 100_000)
@hypothesis.example(content=b"se\xc2\x85ed: 1")
@hypothesis.example(content=b'"se\\ned": 1')
@hypothesis.example(content=b"limit: [&a [0, 0, 0, 0, 0, 0, 0, 0, 0]" + b"".join(
    b", &%c [%s]" % (name, b", ".join([b"*%c" % (name - 1)] * 9)) for name in b"bcdefghijklmno") + b"]")
def test_parameter_files(tmp_path, content):
    """Among them ten lines that stand for billions of values."""
    (tmp_path / "notebooks").mkdir(exist_ok=True)
    code = "seed = 0\nrate = 0.1\nnames = ['a']\nflag = False\nlimit = None\ntext = ''"
    notebook = v4.new_notebook(cells=[v4.new_code_cell(code, metadata={"tags": ["parameters"]})])
    (tmp_path / "notebooks" / "02_two.ipynb").write_text(json.dumps(notebook))
    path = tmp_path / "parameters" / "smoke" / "02_two.yaml"
    project.atomic_write(path.with_name("common.yaml"), "")
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch, at_most(parameters.ParameterError, "parameters/smoke/02_two.yaml"):
        patch.setattr(project, "ROOT", tmp_path)
        patch.setattr(project, "PARAMETERS", tmp_path / "parameters")
        assert isinstance(parameters.read("smoke", tmp_path / "notebooks" / "02_two.ipynb"), dict)


NOTEBOOK = json.loads(json.dumps(v4.new_notebook(metadata={"study": {"reads_records": True}}, cells=[
    v4.new_markdown_cell("# 02"), v4.new_code_cell("x = 1\ny = ['a']", metadata={"tags": ["parameters"]}),
    v4.new_code_cell(["import numpy\n", "from lib import data"], outputs=[v4.new_output("stream", text="1")])])))


@fuzz
@hypothesis.given(content=st.binary(max_size=99) | damaged(json.dumps(NOTEBOOK).encode())
                  | (changed(NOTEBOOK) | JSON).map(lambda content: json.dumps(content).encode()))
@hypothesis.example(content=b"[" * 100_000)
@hypothesis.example(content=json.dumps(v4.new_notebook(cells=[
    v4.new_code_cell("x = " + "(" * 5000, metadata={"tags": ["parameters"]})])).encode())
@hypothesis.example(content=json.dumps(v4.new_notebook(cells=[v4.new_code_cell("from . import x\0\ud800")])).encode())
def test_notebooks(tmp_path, content):
    """Where a run looks into them, before it starts, and the site."""
    path = tmp_path / "02_two.ipynb"
    path.write_bytes(content)
    task = {"path": path, "parameters": {}, "root": project.ROOT, "folder": tmp_path}
    for look in (parameters.defaults, pipeline.reads_records, lambda path: pipeline.digest(task), site._read):
        try:
            look(path)
        except (project.NotebookError, parameters.ParameterError, site.SiteError) as error:
            assert path.name in str(error)
            assert "\n" not in str(error)


@fuzz
@hypothesis.given(content=st.binary(max_size=99) | damaged(json.dumps(RECORD).encode())
                  | (changed(RECORD) | JSON).map(lambda content: json.dumps(content).encode()))
def test_records(tmp_path, content):
    """What is taken has the accuracy that tables ask for."""
    path = tmp_path / "A1.json"
    path.write_bytes(content)
    with at_most(records.RecordError, path):
        assert records.read(path)["metrics"]["accuracy"]["value"] < float("inf")


def npz(**content):
    """Return the bytes of an .npz file."""
    np.savez(buffer := io.BytesIO(), **content)
    return buffer.getvalue()


ARRAY = arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, max_dims=3, max_side=4))


@fuzz
@hypothesis.given(content=st.binary(max_size=99) | damaged(npz(probabilities=np.eye(3), labels=np.arange(3)))
                  | st.builds(npz, probabilities=ARRAY, labels=ARRAY))
@hypothesis.example(content=npz(probabilities=np.array([print]), labels=np.arange(1)))  # it would be unpickled
@hypothesis.example(content=npz(probabilities=np.eye(3)))
def test_predictions(reports, content):
    """What is taken has a row for each label."""
    path = reports / "smoke" / "predictions" / "A1.npz"
    project.atomic_write(path, content)
    with at_most(records.RecordError, path):
        probabilities, labels = records.predictions("smoke", "A1")
        assert probabilities.shape[:1] == labels.shape


def test_predictions_that_unpack_to_too_much_are_refused(reports, monkeypatch):
    """Before they are unpacked: here 16 megabytes, as gigabytes take their time."""
    monkeypatch.setattr(records, "LARGEST", 2**24)
    path = reports / "smoke" / "predictions" / "A1.npz"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("labels.npy", "w") as bomb:
        bomb.write(bytes(2**24 + 1))
    assert path.stat().st_size < 20_000
    with pytest.raises(records.RecordError, match="too large"):
        records.predictions("smoke", "A1")


class Call:
    """Becomes a call when it is unpickled."""

    def __init__(self, function, arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


ADMITTED = (np.ndarray, np.dtype, np._core.multiarray._reconstruct)
HARMFUL = ((os.system, "touch HERE"), (subprocess.getoutput, "touch HERE"), (os.mkdir, "HERE"),
           (eval, "__import__('os').mkdir('HERE')"), (exec, "open('HERE', 'w')"))  # fmt: skip
SIMPLE = st.integers(-2, 10_000) | st.binary(max_size=4) | st.sampled_from(("u1", "O", "S9", "V3", "i8"))
ARGUMENT = st.recursive(SIMPLE, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)
CALL = st.builds(Call, st.sampled_from(ADMITTED), st.lists(ARGUMENT, max_size=3).map(tuple))
HARM = st.sampled_from(HARMFUL).map(lambda call: Call(call[0], call[1:]))
HIDDEN = HARM.map(lambda call: {b"data": np.zeros((1, 3072), np.uint8), b"labels": [0], b"filenames": call})
OBJECT = CALL | HARM | st.lists(st.integers(-1, 11), max_size=3) | ARGUMENT


@contextlib.contextmanager
def little_memory():
    """Let this process have 2 GB more than it has: some pickles ask for any amount."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 2**31, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class Everything:
    """A set that holds everything: the hashes of the published files stop nothing here."""

    def __contains__(self, item):
        return True


@fuzz
@hypothesis.given(content=st.binary(max_size=99) | damaged(batch(0)) | OBJECT.map(pickle.dumps)
                  | st.fixed_dictionaries({b"data": OBJECT, b"labels": OBJECT}).map(pickle.dumps)
                  | HIDDEN.map(pickle.dumps))
def test_cifar10_batches(tmp_path, monkeypatch, content):
    """Had they the hash of a published one: nothing is called but what makes arrays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "CIFAR10_MD5", Everything())
    path = tmp_path / "data_batch_1"
    with at_most(data.DataError, path), little_memory():
        images, labels = data._read_batch(path, content)
        assert images.shape == (len(labels), 32, 32, 3)
    assert list(tmp_path.iterdir()) == []


@st.composite
def archives(draw):
    """An archive whose members are called and are anything: links, devices, folders, beyond its own folder."""
    inside = [f"{data.FOLDERS[0]}/{name}" for name in data.BATCHES]
    names = st.sampled_from([*inside, "../HERE", "/tmp/HERE", "a/../../HERE"])
    kinds = st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE,
                             tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE])  # fmt: skip
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w") as file:
        for name, kind, target in draw(st.lists(st.tuples(names, kinds, names), max_size=8)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            member.size = len(batch(0)) if kind == tarfile.REGTYPE else 0
            file.addfile(member, io.BytesIO(batch(0)))
    return buffer.getvalue()


@fuzz
@hypothesis.given(content=st.binary(max_size=99) | damaged(archive()) | archives())
def test_cifar10_archives(tmp_path, content):
    """Had they the hash of the published one: nothing is written, inside or outside."""
    path = tmp_path / data.ARCHIVES[0]
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch, at_most(data.DataError, tmp_path):
        patch.setattr(data, "CIFAR10_SHA256", hashlib.sha256(content).hexdigest())
        patch.setattr(data, "CIFAR10_MD5", Everything())
        assert len(data._read_batches(path)) == 6
    assert list(tmp_path.iterdir()) == [path]
    assert not os.path.lexists("/tmp/HERE")


def picture(kind):
    """Return the bytes of a small photo."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)).save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")


@fuzz
@hypothesis.given(content=st.binary(max_size=99) | st.sampled_from(KINDS).flatmap(lambda kind: damaged(picture(kind))))
def test_photos(tmp_path, content):
    """As a file, and as bytes that a browser sends."""
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for source, name in ((path, None), (content, "a.jpg")):
        with at_most(pictures.PhotoError, "a.jpg"):
            assert pictures.open_photo(source, name).image.mode == "RGB"


@pytest.fixture(scope="module")
def model(study, tmp_path_factory):
    """The parts of a saved model."""
    import keras

    inputs = keras.Input((4, 4, 3))
    outputs = keras.layers.Dense(2, "softmax")(keras.layers.Flatten()(inputs))
    path = tmp_path_factory.mktemp("model") / "A1.keras"
    keras.Model(inputs, outputs).save(path)
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


HOSTILE = st.sampled_from([
    {"module": "keras.layers", "class_name": "Lambda", "registered_name": None, "config": {"function": {
        "class_name": "__lambda__", "config": {"code": "4wAAAAA=", "defaults": None, "closure": None}}}},
    *({"module": module, "class_name": name, "registered_name": name, "config": {"args": ["touch HERE"], "cmd": "HERE"}}
      for module, name in (("os", "system"), ("subprocess", "Popen"), ("builtins", "eval"), ("os", "mkdir"),
                           ("keras.utils", "get_file"))),
    "../HERE", "/etc/passwd", 10**9, -1])  # fmt: skip


@hypothesis.settings(fuzz, max_examples=30)
@hypothesis.given(data=st.data())
def test_models(model, tmp_path, monkeypatch, data):
    """In safe mode no code runs, whatever the file names."""
    monkeypatch.chdir(tmp_path)
    config = json.loads(model["config.json"])
    content = model | data.draw(st.fixed_dictionaries({}, optional={
        "config.json": changed(config, JSON | HOSTILE).map(lambda content: json.dumps(content).encode()),
        "metadata.json": st.binary(max_size=9), "model.weights.h5": damaged(model["model.weights.h5"])}))  # fmt: skip
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as file:
        for name, part in content.items():
            file.writestr(zipfile.ZipInfo(name), part)  # which bears no time of day
    path = tmp_path / "A1.keras"
    path.write_bytes(data.draw(st.just(buffer.getvalue()) | damaged(buffer.getvalue()) | st.binary(max_size=99)))
    with at_most(photo.ModelError, path):
        photo.load(photo.Saved("A1", path, "digits", ("a", "b"), None))
    assert list(tmp_path.iterdir()) == [path]
