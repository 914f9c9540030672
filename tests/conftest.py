import gc
import os
import sys

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["COLUMNS"] = "300"  # tables whose cells do not wrap, however long the paths in them are
sys.path.insert(0, os.path.dirname(__file__))

import keras

import keras_multiweight  # noqa: F401  registers its classes before a test loads a file


def pytest_collection_modifyitems(items):
    """Tests of one case share what its fixture made, so that they belong in one worker."""
    for item in items:
        parameters = getattr(item, "callspec", None) and item.callspec.indices
        shared = [f"{name}-{index}" for name, index in (parameters or {}).items() if name in ("packed", "case")]
        item.add_marker(pytest.mark.xdist_group("-".join([item.path.stem, *shared]) if shared else item.nodeid))


@pytest.fixture(autouse=True)
def forget_compiled_programs(pytestconfig):
    """JAX keeps all that it compiles, several gigabytes in a whole run."""
    yield
    pytestconfig.tests_done = getattr(pytestconfig, "tests_done", 0) + 1
    if keras.backend.backend() == "jax" and pytestconfig.tests_done % 40 == 0:
        import jax

        gc.collect()
        jax.clear_caches()
