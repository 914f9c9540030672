"""Copies of live layers and models, and the layers within them."""

import random
import types
import warnings

import keras


def copy_layer(layer, config=None):
    """A new unbuilt Keras layer with the same config, or another one, and its own weights.

    Custom classes and functions need not be registered, and lambdas are taken along: they are those of a live layer.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The object being serialized includes a `lambda`")
        serialized = keras.saving.serialize_keras_object(layer)
    serialized.pop("build_config", None)
    serialized["config"] = config or serialized["config"]
    state = random.getstate()  # Keras draws the seeds of new initialisers from it
    try:
        return keras.saving.deserialize_keras_object(serialized, custom_objects=_custom_objects(layer), safe_mode=False)
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


def all_layers(layer):
    """A layer and all layers within it, each once."""
    found, waiting = {}, [layer]
    while waiting:
        layer = waiting.pop()
        if id(layer) not in found:
            found[id(layer)] = layer
            waiting.extend(_sublayers(layer))
    return list(found.values())


def draws_in_training(layer):
    """Whether a layer draws random numbers in training. Recurrent layers have a seed generator even with a rate of zero."""
    return any(map(_draws, all_layers(layer)))


def _draws(layer):
    if not any(isinstance(held, keras.random.SeedGenerator) for held in vars(layer).values()):
        return False
    rates = [getattr(layer, name) for name in ("rate", "dropout", "recurrent_dropout") if hasattr(layer, name)]
    return any(rates) or not rates


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
