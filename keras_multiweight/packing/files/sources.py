"""Where members come from: models in memory, or files, of which only the first is built."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable

import keras

from keras_multiweight.packing.files import allowed
from keras_multiweight.packing.files.build import NO_CONFIG, build, load_weights
from keras_multiweight.packing.files.formats import ENDINGS
from keras_multiweight.packing.files.layout import RANDOM_STATE, assign, learned_layout, legacy_layout, values_of
from keras_multiweight.packing.files.limits import reading
from keras_multiweight.packing.files.paths import check_file, model_paths
from keras_multiweight.packing.files.template import check_packable, dialect_of, open_template, opened
from keras_multiweight.packing.match import (
    Difference,
    IncompatibleModelsError,
    architecture,
    model_config,
    weight_differences,
)
from keras_multiweight.packing.weights import read_weights
from keras_multiweight.settings import settings_of


@dataclasses.dataclass(frozen=True)
class Member:
    """One member on its way into a pack.

    Attributes:
        name: How messages call it.
        expected, received: The serialised config that it must equal, and its own.
        weights: Gives the values of its weights as NumPy arrays, in the order of the template's.
        load: Gives a Keras model with these weights. It may be the same object for all members.
        settings: Those of its layers, as `settings_of` gives them; None where it does not say them.
    """

    name: str
    expected: dict
    received: dict
    weights: Callable
    load: Callable
    settings: list | None = None


class LiveModels:
    """Members that are Keras models in memory."""

    def __init__(self, models):
        self._models = models
        self.names = [f"'{model.name}'" for model in models]
        for i, model in enumerate(models):
            check_packable(model, i)

    def template(self):
        return self._models[0]

    def __iter__(self):
        expected = model_config(self._models[0])
        for i, (name, model) in enumerate(zip(self.names, self._models)):
            received = model_config(model)
            weights = functools.partial(self._weights, i)
            yield Member(name, expected, received, weights, lambda model=model: model, settings_of(received))

    def _weights(self, i):
        differences = weight_differences(self._models[0], self._models[i], i, self.names[i])
        if differences:
            raise IncompatibleModelsError(differences)
        return read_weights(self._models[i])


class ModelFiles:
    """Members that are files: one model is built, of the members only configs and weights are read.

    Args:
        paths: Files of models or of weights.
        custom_objects: Dict of names to the user's own classes and functions.
        template: The architecture, where the files do not say it: a model, which is left as it was, or the path of a saved
            model or of a config. Left out, the first file.
    """

    def __init__(self, paths, custom_objects=None, template=None):
        self.names = [os.fspath(path) for path in paths]
        self._custom_objects = custom_objects
        for path in self.names:
            check_file(path)
        self._given = template is not None
        self._template = open_template(template, self.names[0], custom_objects)
        self._known = [architecture(self._template.config)]  # and what other formats and versions of Keras say in its place

    def template(self):
        return self._template.model

    def __iter__(self):
        own = values_of(self.template())
        try:
            for i, path in enumerate(self.names):
                with opened(path) as file:
                    with reading(path, ENDINGS):
                        expected, received, settings = self._configs(file)
                    weights = functools.cache(functools.partial(self._weights, file, i))
                    yield Member(path, expected, received, weights, functools.partial(self._load, weights), settings)
        finally:
            assign(self.template(), own)

    def _configs(self, file):
        """The template's config and the file's, in the words of one format and version of Keras; and its settings."""
        config = None if self._given and not file.has_config else file.config()
        if config is None and self._given:
            return {}, {}, None
        if config is None:
            raise ValueError(NO_CONFIG)
        allowed.check(config, file.path, self._custom_objects)
        if architecture(config) in self._known:
            return {}, {}, settings_of(config)
        if dialect_of(file) and dialect_of(file) == self._template.dialect:
            return self._template.config, config, settings_of(config)
        expected, received = (model_config(model) for model in (self.template(), build(file, self._custom_objects)))
        settings = settings_of(received)
        if architecture(expected) == architecture(received) and len(settings) == len(settings_of(config)):
            self._known.append(architecture(config))
        return expected, received, settings

    def _load(self, weights):
        assign(self.template(), weights())
        return self.template()

    def _weights(self, file, i):
        with reading(file.path, ENDINGS):
            tensors = file.tensors()
            layout = self._legacy_layout if tensors.is_legacy() else self._layout
            found = tensors.by_key()
            if not layout.fits(found):
                return self._weights_of_other_layout(file, found, layout)
            differences = [*layout.differences(found), *self._differing_assets(file)]
            if not differences:
                return layout.read(found)
        raise IncompatibleModelsError([Difference(i, file.path, *_place(key), *values) for key, *values in differences])

    def _weights_of_other_layout(self, file, found, layout):
        """Of another version of Keras, where Keras itself finds the weights. It would leave out those of other layers."""
        count = len(found) - sum(RANDOM_STATE in key.split("/") for key in found)
        if count != len(layout.indices):
            raise ValueError(f"it holds {count} weights, where the template's files hold {len(layout.indices)}")
        load_weights(self.template(), file)
        return values_of(self.template())

    def _differing_assets(self, file):
        """Vocabularies and the like serve all members, so that they must be equal."""
        if not file.has_assets:
            return
        expected, received = self._template.assets or self._layout.assets, file.assets()
        for name in sorted({*expected, *received}):
            if expected.get(name) != received.get(name):
                yield _first_difference(name, expected.get(name), received.get(name))

    @functools.cached_property
    def _layout(self):
        return learned_layout(self.template())

    @functools.cached_property
    def _legacy_layout(self):
        return legacy_layout(self.template())


def open_members(models, custom_objects=None, template=None):
    """Models, paths, a folder or a pattern as a source of members.

    Raises:
        ValueError: No models, something that is neither a model nor a path, or a file that is no saved model.
        FileNotFoundError: A file that is not there, or a folder or pattern without models.
    """
    models = listed(models)
    if not isinstance(models[0], keras.Model):
        return ModelFiles(models, custom_objects, template)
    if template is not None:
        raise ValueError("template= is the architecture of weights in files. Received: models in memory, and a template.")
    return LiveModels(models)


def listed(models):
    """Models, paths, a folder or a pattern as a list of models or of paths."""
    single = isinstance(models, (str, os.PathLike, keras.Model)) or not hasattr(models, "__iter__")
    if isinstance(models, dict):
        raise ValueError(f"Models are given as a list. Received: a dict of {list(models)}. Pass list(models.values()).")
    models = [models] if single else list(models)
    if not models:
        raise ValueError("pack needs at least one model. Received: an empty list.")
    if all(isinstance(model, (str, os.PathLike)) for model in models):
        return model_paths(models)
    for i, model in enumerate(models):
        if not isinstance(model, keras.Model):
            what = f"the path '{model}'" if isinstance(model, (str, os.PathLike)) else f"a {type(model).__name__}"
            raise ValueError(f"Members are Keras models, or paths of saved ones, all alike. Received: {what} as member {i}.")
    return models


def read_config(path, custom_objects=None):
    """The config in a file of a saved model, which may name only what is allowed."""
    with opened(path) as file, reading(path, ENDINGS):
        config = file.config()
        if config is None:
            raise ValueError(NO_CONFIG)
        allowed.check(config, path, custom_objects)
        return config


def _place(key):
    """The layer and the name in the path of a weight, `.../layer/name`."""
    *_, layer, name = ["", *key.split("/")]
    return layer or None, name


def _first_difference(name, expected, received):
    """The line in which two text files differ, or their sizes: `(place, expected, received)`."""
    lines = [(data or b"").decode(errors="replace").splitlines() for data in (expected, received)]
    for number, (a, b) in enumerate(itertools.zip_longest(*lines)):
        if a != b:
            return f"{name}[{number}]", a, b
    return name, *(None if data is None else f"{len(data):,} bytes" for data in (expected, received))
