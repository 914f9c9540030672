import gc
import os
import pathlib
import sys

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["COLUMNS"] = "300"  # tables whose cells do not wrap, however long the paths in them are
sys.path.insert(0, os.path.dirname(__file__))

# The workers compile the same thousands of small programs, and the next run does so again: half of the time of JAX.
# `pytest --cache-clear` empties the folder.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "d" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

OWN = {"forget_compiled_programs", "capfd", "capsys", "monkeypatch", "pytestconfig", "recwarn", "request"}
OWN |= {"tmp_path", "tmp_path_factory"}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """Tests that share what a fixture made belong in one worker, or each worker makes it again."""
    for item in items:
        fixtures = [name for name in item.fixturenames if name not in OWN]
        indices = getattr(item, "callspec", None) and item.callspec.indices
        shared = [f"{name}-{(indices or {}).get(name, 0)}" for name in fixtures if not _is_argument(item, name)]
        item.add_marker(pytest.mark.xdist_group("-".join([item.path.stem, *shared]) if shared else item.nodeid))


def _is_argument(item, name):
    """Whether a name stands for values of `parametrize`, not for a fixture."""
    return name in {key for mark in item.iter_markers("parametrize") for key in _names(mark.args[0])}


def _names(names):
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else names


def pytest_collection_finish():
    """What is imported stays: looking for garbage in it, hundreds of times, took a twentieth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True)
def forget_compiled_programs(pytestconfig):
    """JAX keeps all that it compiles, several gigabytes in a whole run."""
    import keras

    import keras_multiweight  # noqa: F401  registers its classes before a test loads a file

    yield
    pytestconfig.tests_done = getattr(pytestconfig, "tests_done", 0) + 1
    if keras.backend.backend() == "jax" and pytestconfig.tests_done % 40 == 0:
        import jax

        gc.collect()
        jax.clear_caches()
