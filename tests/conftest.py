"""What tests of different modules share. None of it needs a network, a Keras home or a certain working directory."""

import contextlib
import resource

from lib import data, project

import numpy as np
import pytest


def pytest_configure(config):
    """Leave out warnings that Keras 3.15 gives rise to by itself."""
    for message in ("__array__ implementation doesn't accept a copy keyword", "The structure of `inputs` doesn't match",
                    "Even though the `tf.config.experimental_run_functions_eagerly`"):
        config.addinivalue_line("filterwarnings", f"ignore:{message}")


@pytest.fixture(scope="session")
def study():
    """Keras, started as a notebook starts it: one CPU thread, deterministic operations. Before any other operation."""
    from lib import runtime

    return runtime.start("00_test", "smoke", seed=0, threads=1)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder in place of the project's cache."""
    monkeypatch.setattr(project, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def reports(tmp_path, monkeypatch):
    """An empty folder in place of the project's reports."""
    monkeypatch.setattr(project, "REPORTS", tmp_path / "reports")
    return tmp_path / "reports"


@pytest.fixture
def full_disk():
    """A context in which no file can grow beyond some bytes: the system refuses the rest, as on a full disk."""

    @contextlib.contextmanager
    def limit(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


@pytest.fixture
def noise():
    """A data set of random 8×8 colour images."""
    return make_noise()


def make_noise():
    """Return 40 images to train, 8 to validate and 12 to test, no two alike, in 4 classes."""
    generator = np.random.default_rng(0)

    def split(count):
        images = generator.integers(0, 256, (count, 8, 8, 3), np.uint8)
        return data.Split(images, np.arange(count) % 4, np.arange(count))

    return data.Dataset("noise", tuple("abcd"), "made up", "0123", split(40), split(8), split(12))


def one_line(error):
    """Return an error's message after making sure that a user can read it at a glance."""
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 400
    return message
