"""The start of every notebook that trains: a quiet and repeatable Keras, and what the record says about the machine.

Introduced in notebook 02. Import this module before Keras.
"""

import contextlib
import logging
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lib import project

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def quiet():
    """Keep what C++ libraries write to file descriptor 2 off the page."""
    sys.stderr.flush()
    saved = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


with quiet():
    import keras
    import numpy as np
logging.getLogger("tensorflow").setLevel(logging.ERROR)  # retracing is no news here: every experiment has a new model


@dataclass(frozen=True)
class Study:
    """What all experiments of one notebook share."""

    notebook: str
    profile: str
    seed: int
    threads: int
    precision: str
    retrain: bool = False


def start(notebook, profile="smoke", seed=0, threads=1, precision="float32", retrain=False):
    """Set seeds, deterministic operations, CPU threads (0: every core) and a precision; return them as a `Study`.

    It comes before the first operation. The precision is "float32", "mixed_bfloat16", "mixed_float16" or "auto":
    mixed_bfloat16 where the hardware computes in it. With `retrain`, experiments that have a record run again. Several
    devices that JAX finds train together, each on its part of a batch.
    """
    threads = threads or _cores()
    with quiet():
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
            tf.config.experimental.enable_op_determinism()
            _without_tuner(tf.data)
        if keras.backend.backend() == "jax" and len(keras.distribution.list_devices()) > 1:
            _share_batches()
        keras.utils.set_random_seed(seed)
        precision = _fastest() if precision == "auto" else precision
        keras.mixed_precision.set_dtype_policy(precision)
        keras.ops.zeros(1)  # the first operation makes the backend report its devices
    return Study(notebook, profile, seed, threads, precision, retrain)


def _without_tuner(data):
    plain = data.Dataset.__iter__
    if plain.__module__ == __name__:
        return
    options = data.Options()
    options.autotune.enabled = False
    # In TensorFlow 2.21 the thread that tunes input pipelines may sleep on after the last batch, and every `fit` and
    # `predict` waits for it, for up to as long as it took itself. What comes from memory needs no tuning.
    data.Dataset.__iter__ = lambda self: plain(self.with_options(options))


class _Shared(keras.distribution.DataParallel):
    """Data-parallel training in which each device computes the whole of a batch that cannot be divided among them."""

    def get_data_layout(self, data_shape):
        if data_shape[0] % self.num_model_replicas == 0:
            return super().get_data_layout(data_shape)
        return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)


def _share_batches():
    from keras.src.backend.jax import trainer

    # Keras 3.15 gives the last, smaller batch the layout of the first, which JAX refuses where it does not fit.
    def batches(iterator, _):
        return map(trainer._distribute_data, iterator.data_adapter.get_jax_iterator())

    trainer.JAXEpochIterator._get_distributed_iterator = batches
    keras.distribution.set_distribution(_Shared())


def _fastest():
    flags = ""
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    native = _capability() >= 8 if _accelerators() else "avx512_bf16" in flags or "amx_bf16" in flags
    return "mixed_bfloat16" if native else "float32"


def _capability():
    """The compute capability of the first GPU, of which bfloat16 needs 8; what has none, such as a TPU, counts as 8."""
    if keras.backend.backend() == "jax":
        import jax

        return float(getattr(jax.devices()[0], "compute_capability", 8))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_device_details(gpu).get("compute_capability", (8,))[0]
    return 8


def _accelerators():
    return [name for name in keras.distribution.list_devices() if not name.startswith("cpu")]


def device():
    """Return the processor or accelerator in words."""
    accelerators = _accelerators()
    if accelerators and keras.backend.backend() == "jax":
        import jax

        several = f"{len(accelerators)} × " if len(accelerators) > 1 else ""
        return f"{several}{jax.devices()[0].device_kind}"
    if accelerators and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_device_details(gpu).get("device_name", accelerators[0])
    if accelerators:
        return accelerators[0]
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        name = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("model name\t: ")[1].splitlines()[0].strip()
    return f"{name}, {_cores()} cores"


def _cores():
    """How many cores this process may use: a container or a job scheduler may grant fewer than there are."""
    from dask.system import CPU_COUNT

    return CPU_COUNT


def versions():
    """Return {package: version} of what a result depends on."""
    backend = keras.backend.backend()
    return {"python": platform.python_version(), "keras": keras.__version__, "backend": backend,
            backend: __import__(backend).__version__, "numpy": np.__version__}


def commit():
    """Return the git commit of the project, with "+" where files have changed since, or "unknown"."""
    command = ("git", "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+")
    try:
        return subprocess.run(command, cwd=project.ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
