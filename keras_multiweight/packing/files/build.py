"""A model from a file: its config is checked, it is tried out without memory, and only then is it made, by Keras."""

import json
import pathlib
import tempfile
import threading
import warnings

import h5py
import keras

from keras_multiweight.packing.files import allowed
from keras_multiweight.packing.files.formats import CONFIG, METADATA, WEIGHTS

NO_CONFIG = (
    "it holds weights without a config. Pass template=: a model, or the path of a saved one or of a config "
    "(`model.to_json()`); or put the config beside the weights, as model.json"
)


def build(file, custom_objects=None, config=None):
    """The model in a file, uncompiled, with its weights and assets.

    Keras reads a copy that holds only what was checked, never the file itself.

    Args:
        file: An open `SavedFile`.
        custom_objects: Dict of names to the user's own classes and functions.
        config: The config to build from, in place of the file's own.

    Raises:
        UnsafeFileError: The file asks for what a file may not ask for.
        ValueError: The file is no whole model.
    """
    config = config or file.config()
    if config is None:
        raise ValueError(NO_CONFIG)
    custom_objects = allowed.check(config, file.path, custom_objects)
    with tempfile.TemporaryDirectory(prefix="keras-multiweight-") as folder:
        copy = _write_copy(file, config, pathlib.Path(folder))
        _try_out(copy, custom_objects)
        return _load(copy, custom_objects)


def load_weights(model, file):
    """Set a model's weights from a file, by Keras itself: for the layouts of older versions.

    Raises:
        ValueError: The file does not hold all weights of the model.
    """
    with tempfile.TemporaryDirectory(prefix="keras-multiweight-") as folder, warnings.catch_warnings():
        warnings.simplefilter("error")  # Keras warns where it leaves weights as they were
        path = pathlib.Path(folder, "copy.h5" if file.tensors().is_legacy() else WEIGHTS)
        _copy_weights(file, path)
        model.load_weights(path)


def _write_copy(file, config, folder):
    """What Keras loads: a folder with the contents of a `.keras` file, or a legacy file."""
    if file.legacy:
        _copy_weights(file, folder / "model.h5", {"model_config": json.dumps(config)})
        return folder / "model.h5"
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    (folder / METADATA).write_text("{}", encoding="utf-8")
    for name, data in file.assets().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    _copy_weights(file, folder / WEIGHTS)
    return folder


def _copy_weights(file, path, attributes=None):
    with h5py.File(path, "w") as copy:
        copy.attrs.update(attributes or {})
        file.tensors().copy_to(copy.create_group("model_weights") if attributes else copy)


def _load(path, custom_objects):
    return keras.models.load_model(path, custom_objects=custom_objects, compile=False, safe_mode=True)


def _try_out(copy, custom_objects):
    """Load into a scope in which variables have shapes but no memory, so that the shapes are those of the file's weights.

    A config can ask for any shape. Keras keeps a list of variables without values, and gives them some at the next chance;
    a thread has a list of its own, which ends with it.
    """
    failures = []

    def load():
        try:
            with keras.StatelessScope(initialize_variables=False):
                _load(copy, custom_objects)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    if failures and not (custom_objects and "while in a stateless scope" in str(failures[0])):
        raise failures[0]  # a layer of the user's own may make variables in ways that a scope refuses; it is trusted
