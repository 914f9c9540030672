"""Where members come from: models in memory, or files, of which only the first is built."""

import dataclasses
import glob
import json
import os
import re
import zipfile
from collections.abc import Callable

import keras

from keras_multiweight.packing.graph import is_graph
from keras_multiweight.packing.match import model_config

ENDINGS = (".keras", ".h5", ".hdf5")


@dataclasses.dataclass(frozen=True)
class Member:
    """One member on its way into a pack.

    Attributes:
        name: How messages call it.
        expected, received: The serialised config that it must equal, and its own.
        load: Gives a Keras model with this member's weights. It may be the same object for all members.
    """

    name: str
    expected: dict
    received: dict
    load: Callable


class LiveModels:
    """Members that are Keras models in memory."""

    def __init__(self, models):
        self._models = models
        self.names = [f"'{model.name}'" for model in models]
        for i, model in enumerate(models):
            _check_packable(model, i)

    def template(self):
        return self._models[0]

    def __iter__(self):
        expected = model_config(self._models[0])
        for name, model in zip(self.names, self._models):
            yield Member(name, expected, model_config(model), lambda model=model: model)


class ModelFiles:
    """Members that are saved models: the first is built, of the others only configs and weights are read."""

    def __init__(self, paths, custom_objects=None, safe_mode=True):
        self._paths = [os.fspath(path) for path in paths]
        self._custom_objects = custom_objects
        self._safe_mode = safe_mode
        self.names = list(self._paths)
        for path in self._paths:
            _check_file(path)
        self._first = self._load(self._paths[0])

    def template(self):
        return self._first

    def __iter__(self):
        expected = read_config(self._paths[0])
        for path in self._paths:
            if _ending(path) == _ending(self._paths[0]):
                yield Member(path, expected, read_config(path), lambda path=path: self._load_weights(path))
            else:
                model = self._load(path)
                yield Member(path, model_config(self._first), model_config(model), lambda model=model: model)

    def _load(self, path):
        options = {"compile": False, "safe_mode": self._safe_mode}
        model = _reading(path, keras.models.load_model, path, self._custom_objects, **options)
        _check_packable(model, path)
        return model

    def _load_weights(self, path):
        _reading(path, self._first.load_weights, path)
        return self._first


def open_members(models, custom_objects=None, safe_mode=True):
    """Models, paths or a glob string as a source of members.

    Raises:
        ValueError: No models, something that is neither a model nor a path, or a file that is no saved model.
        FileNotFoundError: A file that is not there, or a pattern that matches none.
    """
    if isinstance(models, (str, os.PathLike)):
        models = _matching(os.fspath(models))
    models = [models] if isinstance(models, keras.Model) or not hasattr(models, "__iter__") else list(models)
    if not models:
        raise ValueError("pack needs at least one model. Received: an empty list.")
    if all(isinstance(model, (str, os.PathLike)) for model in models):
        return ModelFiles(models, custom_objects, safe_mode)
    for i, model in enumerate(models):
        if not isinstance(model, keras.Model):
            what = f"the path '{model}'" if isinstance(model, (str, os.PathLike)) else f"a {type(model).__name__}"
            raise ValueError(f"pack takes Keras models, or paths of saved ones, not both. Received: {what} as member {i}.")
    return LiveModels(models)


def read_config(path):
    """The config in a saved model, without building it."""
    return _reading(path, _read_zip_config if _ending(path) == ".keras" else _read_h5_config, path)


def _read_zip_config(path):
    """With the vocabularies, which Keras keeps beside the config of layers that were adapted."""
    with zipfile.ZipFile(path) as archive:
        assets = [name for name in archive.namelist() if name.startswith("assets/") and not name.endswith("/")]
        lines = {name: archive.read(name).decode().splitlines() for name in assets}
        return {**json.loads(archive.read("config.json")), "assets": lines}


def _read_h5_config(path):
    import h5py

    with h5py.File(path, "r") as file:
        return json.loads(file.attrs["model_config"])


def _reading(path, read, *args, **kwargs):
    """Call `read`, and say which file it was that could not be read."""
    try:
        return read(*args, **kwargs)
    except Exception as error:
        raise ValueError(
            f"Every file must be a whole model saved by Keras ({', '.join(ENDINGS)}). Received: '{path}', which cannot be "
            f"read: {type(error).__name__}: {str(error).strip()[:600]}"
        ) from error


def _matching(pattern):
    paths = sorted(glob.glob(pattern), key=natural_order) if glob.has_magic(pattern) else [pattern]
    if not paths:
        raise FileNotFoundError(f"A pattern must match at least one file. Received: '{pattern}', which matches none.")
    return paths


def natural_order(path):
    """A sort key that takes numbers as numbers: `2.keras` before `10.keras`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]


def _check_file(path):
    if not os.path.exists(path):
        raise FileNotFoundError(f"Every member must be a file that exists. Received: '{path}'.")
    if _ending(path) not in ENDINGS:
        raise ValueError(f"A saved model ends in {', '.join(ENDINGS)}. Received: '{path}'.")


def _check_packable(model, which):
    if model.built and is_graph(model):
        return
    raise ValueError(
        "pack takes built Functional and Sequential models. Received: "
        f"{'an unbuilt' if not model.built else 'a subclassed'} {type(model).__name__} '{model.name}' as member {which}. "
        + ("Call it on data, or give it an Input." if not model.built else "Wrap its call in keras.Model(inputs, outputs).")
    )


def _ending(path):
    return os.path.splitext(path)[1].lower()
