"""Models in other formats: run there, compared with Keras, and refused where they answer otherwise."""

import json
import shutil
from pathlib import Path

from lib import export, models, photo, project, runtime

import keras
import numpy as np
import pytest
from conftest import one_line
from keras import layers
from PIL import Image

pytestmark = pytest.mark.usefixtures("study")
ANSWERS = np.eye(10, dtype=np.float32)[np.arange(export.IMAGES) % 10]  # of another network, and quite sure


def cnn():
    """Return a small network with the project's own layers."""
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(models.ReverseChannels()(layers.Resizing(20, 20)(inputs)))
    x = layers.Concatenate()([x, models.Grayscale()(x)])
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(x)))
    return keras.Model(inputs, layers.Dense(10, activation="softmax", dtype="float32")(x))


@pytest.fixture
def saved(reports, monkeypatch):
    """One model in the folder of profile smoke, without a record. Keras was started before."""
    monkeypatch.setattr(runtime, "start", lambda *_, **__: None)
    models.save(cnn(), reports / "smoke" / "models" / "A1.keras")
    return reports / "smoke"


def model_of(dataset):
    """Return what is known of a model that profile smoke trained on some images."""
    return photo.Saved("A1", project.REPORTS / "smoke" / "models" / "A1.keras", dataset, (), None)


@pytest.fixture
def fake(monkeypatch):
    """A runtime that needs no package, and answers what it is told."""
    def answering(answers):
        monkeypatch.setattr(export, "missing", lambda packages: [])
        monkeypatch.setattr(keras.Model, "export", lambda self, path, **_: Path(path).touch())
        monkeypatch.setattr(export, "_run_onnx", lambda path, images: answers(images))

    return answering


@pytest.mark.parametrize("kind", export.FORMATS)
def test_the_file_answers_as_keras_does(saved, capsys, kind):
    """It is written, run by its own runtime and compared on 256 images."""
    suffix, packages = export.FORMATS[kind]
    for package in packages:
        pytest.importorskip(package, reason=f'{package} is not installed: pip install -e ".[export]"')
    export.export(kind, profile="smoke")
    out = capsys.readouterr().out
    assert f"A1.{suffix}: 0.0 MB; on 256 images it differs from Keras in float32 by" in out
    assert out.endswith("names the same class in 100.0%\n")
    assert [path.name for path in (saved / "exported").iterdir()] == [f"A1.{suffix}"]


def test_a_missing_package_is_one_line(saved, monkeypatch):
    """With the command that installs it."""
    monkeypatch.setattr(export, "missing", list)
    for kind, names in (("onnx", "onnx, tf2onnx, onnxruntime"), ("litert", "ai_edge_litert")):
        with pytest.raises(export.ExportError, match=r'install them with `pip install -e "\.\[export\]"`') as error:
            export.export(kind)
        assert f"format {kind} needs {names}:" in one_line(error)


def test_unknown_names_are_one_line(saved):
    """Of a format or a model; the known ones are listed."""
    for arguments, says in ((("pdf",), "there is no format pdf: choose one of onnx, litert"),
                            (("onnx", "Z9"), "there is no trained model Z9: choose one of A1")):
        with pytest.raises((export.ExportError, photo.ModelError), match=says) as error:
            export.export(*arguments)
        one_line(error)


@pytest.mark.parametrize("answers", [ANSWERS, np.full_like(ANSWERS, np.nan)], ids=["others", "none"])
def test_a_file_that_answers_otherwise_is_not_kept(saved, fake, capsys, answers):
    """The one before it stays, and the command fails."""
    (saved / "exported").mkdir()
    (saved / "exported" / "A1.onnx").write_text("before")
    fake(lambda images: answers)
    with pytest.raises(export.ExportError, match="1 of 1 models were not exported: A1") as error:
        export.export("onnx")
    one_line(error)
    assert "A1: its onnx file differs from Keras by" in capsys.readouterr().out
    assert [path.read_text() for path in (saved / "exported").iterdir()] == ["before"]


def test_a_converter_that_fails_is_one_line(saved, fake, capsys):
    """Whatever it raises."""
    def fails(images):
        raise RuntimeError("no such\noperation")

    fake(fails)
    with pytest.raises(export.ExportError, match="not exported: A1"):
        export.export("onnx")
    assert capsys.readouterr().out == "A1: cannot be converted to onnx (no such)\n"


def test_mixed_precision_is_exported_as_float32(reports):
    """With the same weights: other runtimes have no bfloat16."""
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = cnn()
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    plain = export.as_float32(mixed)
    assert "bfloat16" in mixed.to_json()
    assert "bfloat16" not in plain.to_json()
    images = export.images_for(model_of("digits"), (32, 32, 3))
    assert images.shape == (256, 32, 32, 3)
    np.testing.assert_allclose(plain.predict(images, verbose=0), mixed.predict(images, verbose=0), atol=0.02)
    assert export.as_float32(plain) is plain


def test_images_are_those_that_the_model_was_trained_on(tmp_path, reports, cache):
    """Also of one's own; where they are gone, digits, or noise of the size that the model takes."""
    for index, name in enumerate(("cats", "dogs")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(5):
            picture = Image.new("RGB", (150, 150), (100 * index, number, 0))
            picture.save(tmp_path / "photos" / name / f"{number}.png")
    project.atomic_write(reports / "smoke" / "run.json", json.dumps({"dataset": str(tmp_path / "photos")}))
    images = export.images_for(model_of("photos"), (128, 128, 3))
    assert (images.shape, sorted(images[:, 0, 0, 0])) == ((2, 128, 128, 3), [0, 100])
    shutil.rmtree(tmp_path / "photos")
    assert export.images_for(model_of("photos"), (32, 32, 3)).shape == (256, 32, 32, 3)
    assert export.images_for(model_of("photos"), (8, 9, 3)).shape == (256, 8, 9, 3)
