"""What makes two configs the same computation: names, seeds and initialisers do not, everything else does."""

import base64
import marshal
import re

from keras_multiweight.copies import serialized

_IGNORED_OF_OBJECTS = {"name", "shared_object_id", "build_config", "compile_config", "registered_name"}
_IGNORED_OF_CONFIGS = {"name", "seed"}
_INITIALIZER = re.compile(r"(^|_)initializer$")


def comparable(config):
    """A config without what does not change the computation of a trained model.

    Args:
        config: dict of plain JSON values, as `keras.saving.serialize_keras_object(model)` gives it. The names of layers
            may differ between builds of one model; references to them become indices.

    Returns:
        The same tree without names, seeds, initialisers, build and compile configs.
    """
    return _strip(config, {})


def differences(expected, received, path=""):
    """All places where two comparable configs differ, as `(path, expected, received)`."""
    if isinstance(expected, dict) and isinstance(received, dict):
        for key in {**expected, **received}:
            where = f"{path}.{key}" if path else str(key)
            yield from differences(expected.get(key), received.get(key), where)
    elif isinstance(expected, list) and isinstance(received, list) and len(expected) == len(received):
        for index, pair in enumerate(zip(expected, received)):
            yield from differences(*pair, f"{path}[{index}]")
    elif expected != received:
        yield path, expected, received


def live_config(layer):
    """The whole config of a live layer or model, as plain JSON values that compare equal for equal Python functions."""
    return _stable_lambdas(serialized(layer))


def layer_config(layer):
    """The comparable config of one Keras layer."""
    return comparable(live_config(layer))


def _stable_lambdas(value):
    """A lambda is in a config as marshalled code, whose bytes depend on where it stands, and on who else refers to it."""
    if isinstance(value, (list, tuple)):
        return [_stable_lambdas(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") == "__lambda__" and "code" in value["config"]:
        code = marshal.loads(base64.b64decode(value["config"]["code"]))  # of a live function, not of a file
        code = code.replace(co_filename="", co_firstlineno=1, co_linetable=b"", co_qualname="")
        return {**value, "config": {**value["config"], "code": base64.b64encode(marshal.dumps(code, 2)).decode()}}
    return {key: _stable_lambdas(item) for key, item in value.items()}


def _strip(value, numbers):
    if isinstance(value, (list, tuple)):
        return [_strip(item, numbers) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") == "__keras_tensor__":
        return _renumber(value["config"]["keras_history"], numbers)
    if "class_name" in value:
        return _strip_object(value, numbers)
    return {key: _strip(item, numbers) for key, item in value.items()}


def _strip_object(value, numbers):
    """An object's config, `{"class_name": ..., "config": {...}}`. The name of a dtype policy is all that it says."""
    stripped = {key: _strip(item, numbers) for key, item in value.items() if key not in _IGNORED_OF_OBJECTS}
    config = value.get("config")
    if not isinstance(config, dict) or "Policy" in value["class_name"]:
        return stripped
    numbers = _layer_numbers(config, numbers)
    kept = {key: item for key, item in config.items() if not _is_ignored(key)}
    return {**stripped, "config": {key: _strip_item(key, item, numbers) for key, item in kept.items()}}


def _strip_item(key, item, numbers):
    if key in ("input_layers", "output_layers"):
        return _renumber(item, numbers)
    return _strip(item, numbers)


def _is_ignored(key):
    return key in _IGNORED_OF_CONFIGS or bool(_INITIALIZER.search(str(key)))


def _layer_numbers(config, numbers):
    """The layers of a graph by name, numbered; a nested graph has its own names."""
    layers = config.get("layers")
    if not isinstance(layers, list):
        return numbers
    names = [layer.get("name", layer.get("config", {}).get("name")) for layer in layers if isinstance(layer, dict)]
    return {name: index for index, name in enumerate(names)}


def _renumber(value, numbers):
    """Replace the names of layers in references to their outputs, `[name, node, tensor]`, by their numbers."""
    if isinstance(value, dict):
        return {key: _renumber(item, numbers) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_renumber(item, numbers) for item in value]
    return numbers.get(value, value) if isinstance(value, str) else value
