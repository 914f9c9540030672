"""Copies of live layers and models, and the layers within them."""

import contextlib
import random
import types
import warnings

import keras
import numpy as np


def serialized(layer):
    """The whole config of a live layer, model or raw operation, as plain JSON values.

    Keras's own says neither the vocabulary nor the document frequencies that `adapt` gave a lookup layer: it keeps them
    in files beside the config. Here they are in the config, in one form however they came into the layer.
    """
    with warnings.catch_warnings(), _vocabularies_in_configs(layer):
        warnings.filterwarnings("ignore", message="The object being serialized includes a `lambda`")
        return keras.saving.serialize_keras_object(layer)


@contextlib.contextmanager
def _vocabularies_in_configs(layer):
    before = [(vars(lookup), dict(vars(lookup))) for lookup in _lookups(layer)]
    for lookup in _lookups(layer):
        vars(lookup).update(_vocabulary(lookup))
    try:
        yield
    finally:
        for attributes, values in before:
            attributes.update(values)


def _lookups(layer):
    """The StringLookup and IntegerLookup layers with a vocabulary within a layer; one is in every TextVectorization."""
    kinds = (keras.layers.StringLookup, keras.layers.IntegerLookup)
    return [x for x in all_layers(layer) if isinstance(x, kinds) and x.get_vocabulary(include_special_tokens=False)]


def _vocabulary(lookup):
    words = [str(word) if isinstance(word, str) else int(word) for word in lookup.get_vocabulary()]
    if lookup.output_mode != "tf_idf":
        return {"input_vocabulary": words}
    frequencies = np.asarray(lookup.idf_weights)[: len(words)]  # without the padding
    return {"input_vocabulary": words, "input_idf_weights": frequencies.tolist()}


def copy_layer(layer, config=None, **changes):
    """A new unbuilt Keras layer with the same config, another one, or one with changes, and its own weights.

    Custom classes and functions need not be registered, and lambdas are taken along: they are those of a live layer.
    """
    copied = serialized(layer)
    copied.pop("build_config", None)
    copied["config"] = {**(config or copied["config"]), **changes}
    state = random.getstate()  # Keras draws the seeds of new initialisers from it
    try:
        return keras.saving.deserialize_keras_object(copied, custom_objects=_custom_objects(layer), safe_mode=False)
    finally:
        random.setstate(state)


def copy_model(model, config=None):
    """A new built model with the same config, or another one, and its own weights."""
    copy = copy_layer(model, config)
    if not copy.built:
        copy.build_from_config(model.get_build_config())
    return copy


def matching_weights(model, copy):
    """For each weight of a copy, in order, the weight of the original that stands in its place.

    A layer that is in two models at once, a nested one and the one around it, is two layers in a copy.
    """
    originals, seen, waiting = {}, set(), [(model, copy)]
    while waiting:
        pair = layer, other = waiting.pop()
        if (id(layer), id(other)) in seen:
            continue
        seen.add((id(layer), id(other)))
        if len(layer.weights) == len(other.weights):
            originals.update(zip(map(id, other.weights), layer.weights))
        waiting.extend(zip(*map(_sublayers, pair)))
    return [originals[id(weight)] for weight in copy.weights]


def set_all_weights(layer, values):
    """`layer.set_weights`, and what layers within derive from theirs: Normalization computes with constants."""
    layer.set_weights(values)
    for adapted in adapted_layers(layer):
        adapted.finalize_state()


def adapted_layers(layer):
    """The Normalization layers within a layer whose statistics are weights."""
    return [x for x in all_layers(layer) if isinstance(x, keras.layers.Normalization) and x.weights]


def all_layers(layer):
    """A layer and all layers within it, each once."""
    found, waiting = {}, [layer]
    while waiting:
        layer = waiting.pop()
        if id(layer) not in found:
            found[id(layer)] = layer
            waiting.extend(_sublayers(layer))
    return list(found.values())


def _sublayers(layer):
    return _layers_in([getattr(layer, "layers", ()), *vars(layer).values()])


def _layers_in(x):
    """The layers in lists and dicts. `keras.tree` sorts keys, but those of a dict in a compiled model are layers."""
    if isinstance(x, keras.layers.Layer):
        return [x]
    x = x.values() if isinstance(x, dict) else x if isinstance(x, (list, tuple)) else ()
    return [layer for held in x for layer in _layers_in(held)]


def _custom_objects(layer):
    """The classes and functions that Keras does not know, by name."""
    layers = all_layers(layer)
    functions = [x for inner in layers for x in vars(inner).values() if isinstance(x, types.FunctionType)]
    return {x.__name__: x for x in [*map(type, layers), *functions] if not x.__module__.startswith("keras.")}
