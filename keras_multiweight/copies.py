"""Copies of live layers and models, and the layers within them."""

import contextlib
import inspect
import random
import types
import warnings

import keras
import numpy as np


def serialized(layer):
    """The whole config of a live layer, model or raw operation, as plain JSON values, but for how models are compiled.

    Keras's own says neither the vocabulary nor the document frequencies that `adapt` gave a lookup layer: it keeps them
    in files beside the config. Here they are in the config, in one form however they came into the layer.
    """
    with warnings.catch_warnings(), _vocabularies_in_configs(layer):
        warnings.filterwarnings("ignore", message="The object being serialized includes a `lambda`")
        return uncompiled(unshared(keras.saving.serialize_keras_object(layer)))


def unshared(config):
    """A config as it is outside of Keras's saving and loading.

    While Keras does that, it numbers the objects that it serialises by their `id`, to find those that are in two places.
    A layer that only lived to be copied leaves its `id` to the next, and the copy of the next would be the first's.
    """
    return _without(config, lambda key, holder: key == "shared_object_id")


def uncompiled(config):
    """A config in which no model is compiled: with a loss or metric that is not registered none would come out of it.

    A user's layer may have an argument of that name: it is dropped of objects only.
    """
    return _without(config, lambda key, holder: key == "compile_config" and "class_name" in holder)


def _without(config, is_dropped):
    """A config without the keys of which `is_dropped(key, dict that holds it)`, at any depth."""
    if isinstance(config, dict):
        return {key: _without(value, is_dropped) for key, value in config.items() if not is_dropped(key, config)}
    return type(config)(_without(x, is_dropped) for x in config) if type(config) in (list, tuple) else config


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


def copy_layer(layer, config=None, layer_class=None, **changes):
    """A new unbuilt Keras layer with the same config, another one, or one with changes, and its own weights; it may be
    of another class that is registered with Keras.

    Custom classes and functions need not be registered, and lambdas are taken along: they are those of a live layer. A model
    is compiled as that was, where Keras finds the losses and metrics of users, which need not be registered to be used.
    """
    copied = serialized(layer)
    copied.pop("build_config", None)
    copied["config"] = {**(config or copied["config"]), **changes}
    if layer_class:
        copied |= {"registered_name": keras.saving.get_registered_name(layer_class), "class_name": layer_class.__name__}
    state = random.getstate()  # Keras draws the seeds of new initialisers from it
    try:
        with keras.saving.CustomObjectScope(_custom_objects(layer)):
            copy = keras.saving.deserialize_keras_object(copied, safe_mode=False)
            if isinstance(layer, keras.Model) and layer.compiled:
                _compile(copy, layer)
    finally:
        random.setstate(state)
    for original, other in _pairs(layer, copy):
        if isinstance(original, keras.layers.Layer):  # and no raw operation
            other.autocast = original.autocast  # which Keras leaves out of configs
    return copy


def _compile(copy, model):
    with contextlib.suppress(Exception):  # whatever a user's class raises
        copy.compile_from_config(model.get_compile_config())


def copy_built(layer, config=None):
    """A new built layer or model with the same config, or another one, and its own weights.

    Raises:
        CannotCopyError: Its class, or that of a layer within it, cannot be made again from its config.
    """
    try:
        copy = copy_layer(layer, config)
        build_by_plan(copy, build_plan(layer))
    except Exception as error:  # whatever a custom class raises
        raise CannotCopyError(layer, f"{type(error).__name__}: {str(error).strip()[:300]}") from error
    originals = matching_weights(layer, copy)
    if {id(w) for w in originals} != {id(w) for w in layer.weights} or _shapes(originals) != _shapes(copy.weights):
        raise CannotCopyError(layer, f"weights of shapes {_shapes(copy.weights)} in place of {_shapes(layer.weights)}")
    return copy


def can_copy(layer):
    """Whether a layer can be made again from its config. All of Keras's own can."""
    try:
        return not is_custom(layer) or copy_built(layer) is not None
    except CannotCopyError:
        return False


def _shapes(weights):
    return [weight is not None and tuple(weight.shape) for weight in weights]


def check_savable(layer):
    """Whether Keras itself can make all custom layers within a layer again.

    Raises:
        CannotCopyError: It cannot.
    """
    for inner in filter(is_custom, all_layers(layer)):
        try:
            objects = {type(x).__name__: type(x) for x in filter(is_custom, all_layers(inner))}
            keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(inner), objects, safe_mode=False)
        except Exception as error:  # whatever a custom class raises
            raise CannotCopyError(inner, f"{type(error).__name__}: {str(error).strip()[:300]}") from error


class CannotCopyError(ValueError):
    """A layer or model cannot be made again from its config."""

    def __init__(self, layer, received):
        classes = sorted({type(x).__name__ for x in all_layers(layer) if is_custom(x)}) or [type(layer).__name__]
        super().__init__(
            "A class must be made again from its config, with the same weights, to be saved and to be unpacked: let "
            "`__init__` take `**kwargs` and hand them to `super().__init__`, and let `get_config` return the arguments of "
            f"`__init__`. Received: '{layer.name}', with the custom classes {', '.join(classes)}: {received}"
        )


def build_plan(layer, seen=()):
    """What `build_by_plan` needs to build a copy of a built layer, as plain JSON values.

    Keras builds a layer by its own build config. That of a custom layer without a `build` method says nothing about the
    layers within it, which are built when they are first called: the plan has a build config for each of these too.
    """
    plan = {"member": build_config(layer)}
    if is_custom(layer) and id(layer) not in seen:
        seen = (*seen, id(layer))
        plan["inner"] = [build_plan(inner, seen) if inner.built else None for inner in layers_within(layer)]
    return plan


def build_config(layer):
    """A layer's build config in plain dicts and lists: those that Keras tracks are none that JAX knows."""
    return _plain(layer.get_build_config())


def _plain(x):
    if isinstance(x, dict):
        return {key: _plain(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return (tuple if isinstance(x, tuple) else list)(map(_plain, x))
    return x


def build_by_plan(layer, plan):
    """Build a layer that is a copy of the one whose plan this is."""
    if not layer.built and plan["member"]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"(?s).*(be built automatically|unbuilt state)")
            layer.build_from_config(plan["member"])
    for inner, inner_plan in zip(layers_within(layer), plan.get("inner", ())):
        if inner_plan is not None:
            build_by_plan(inner, inner_plan)
    layer.built = True


def is_custom(layer):
    """Whether a layer's class is not one of Keras's own."""
    return not type(layer).__module__.startswith("keras.")


def matching_weights(model, copy):
    """For each weight of a copy, in order, the weight of the original that stands in its place.

    None stands for a weight that the original has not.
    """
    originals = {}
    for layer, other in _pairs(model, copy):
        if len(layer.weights) == len(other.weights):
            originals.update(zip(map(id, other.weights), layer.weights))
    return [originals.get(id(weight)) for weight in copy.weights]


def _pairs(model, copy):
    """Each layer within a layer, itself included, with that in its place in a copy.

    A layer that is in two models at once, a nested one and the one around it, is two layers in a copy.
    """
    seen, waiting = set(), [(model, copy)]
    while waiting:
        pair = layer, other = waiting.pop()
        if (id(layer), id(other)) not in seen:
            seen.add((id(layer), id(other)))
            yield pair
            waiting.extend(zip(*map(layers_within, pair)))


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
            waiting.extend(layers_within(layer))
    return list(found.values())


def draws_in_training(layer):
    """Whether a layer draws random numbers in training. Recurrent layers have a seed generator even with a rate of zero."""
    return any(map(_draws, all_layers(layer)))


def _draws(layer):
    if not any(isinstance(held, keras.random.SeedGenerator) for held in vars(layer).values()):
        return False
    rates = [getattr(layer, name) for name in ("rate", "dropout", "recurrent_dropout") if hasattr(layer, name)]
    return any(rates) or not rates


def layers_within(layer):
    """The layers that a layer holds, not those that they hold in turn. One may come twice."""
    return _layers_in([getattr(layer, "layers", ()), *vars(layer).values()])


def _layers_in(x):
    """The layers in lists and dicts. `keras.tree` sorts keys, but those of a dict in a compiled model are layers."""
    if isinstance(x, keras.layers.Layer):
        return [x]
    x = x.values() if isinstance(x, dict) else x if isinstance(x, (list, tuple)) else ()
    return [layer for held in x for layer in _layers_in(held)]


def _custom_objects(layer):
    """The classes and functions that Keras does not know, by the names that they are serialised with."""
    layers = [x for x in all_layers(layer) if is_custom(x)]
    functions = [x for inner in all_layers(layer) for x in vars(inner).values() if isinstance(x, types.FunctionType)]
    objects = {type(x): _Remade(type(x)) for x in layers}
    objects.update({x: x for x in functions if not x.__module__.startswith("keras.")})
    names = {x.__name__: kept for x, kept in objects.items()}
    return {**names, **{keras.saving.get_registered_name(x): kept for x, kept in objects.items()}}


class _Remade:
    """Stands for a class whose objects are made from their config.

    The config that Keras writes for a class without `get_config` has entries that the class's `__init__` need not take.
    """

    def __init__(self, cls):
        self._class = cls

    def from_config(self, config):
        try:
            return self._class.from_config(dict(config))
        except TypeError:
            taken = inspect.signature(self._class.__init__).parameters
            extra = {key: config[key] for key in ("name", "trainable", "dtype") if key in config and key not in taken}
            made = self._class.from_config({key: value for key, value in config.items() if key not in extra})
            policy = keras.saving.serialize_keras_object(made.dtype_policy)
            if extra.get("dtype", policy) != policy:
                raise
            made.trainable = extra.get("trainable", made.trainable)
            return made
