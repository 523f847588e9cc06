"""Training on several devices: two that JAX makes of the CPU, in a process of their own."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from lib import project

import numpy as np
import pytest

SCRIPT = """
import dataclasses, json
from conftest import make_noise
from lib import runtime, training
import keras

study = runtime.start("02_two")
data = make_noise()
data = dataclasses.replace(data, validation=data.validation.take(slice(7)), test=data.test.take(slice(11)))
inputs = keras.Input(data.image_shape, dtype="uint8")
x = keras.layers.Conv2D(8, 3, activation="relu")(keras.layers.Rescaling(1 / 255)(inputs))
x = keras.layers.GlobalMaxPooling2D()(keras.layers.BatchNormalization()(x))
model = keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(x))
run = training.experiment(study, "A1", model, data, training.Recipe(epochs=3, batch_size=16, flip="alternate"))
shared = keras.distribution.distribution()
layouts = [shared.get_data_layout((count, 8)).axes for count in (16, 7)] if shared else []
print(json.dumps([layouts, run.history, run.probabilities.tolist()]))
"""


def trained(devices, folder):
    """Return what the script prints, run on so many devices."""
    environment = os.environ | {
        "KERAS_BACKEND": "jax", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "STUDY_REPORTS": str(folder / str(devices)), "STUDY_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join([str(project.ROOT), str(Path(__file__).parent)])}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, cwd=folder, capture_output=True, text=True,
                          timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="needs JAX, which requirements.txt does not install")
def test_two_devices_learn_what_one_learns(tmp_path):
    """Also where the last batches, of 7 images to validate and 11 to test, cannot be divided between them."""
    none, *one = trained(1, tmp_path)
    layouts, *two = trained(2, tmp_path)
    assert (none, layouts) == ([], [["batch", None], [None, None]])
    for curve, values in one[0].items():
        np.testing.assert_allclose(two[0][curve], values, rtol=1e-4, err_msg=curve)
    np.testing.assert_allclose(two[1], one[1], rtol=1e-4)
    assert len(one[1]) == 11
