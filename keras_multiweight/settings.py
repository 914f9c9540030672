"""Settings of layers that may differ from member to member: numbers in a config that change no shape and no weight.

A setting is named by its path, the names of the layers around it and its key: `"encoder/dropout/rate"`.
"""

import copy

PER_MEMBER = {  # class of layer -> the keys of its config
    **dict.fromkeys(("AlphaDropout", "Dropout", "GaussianDropout"), ("rate",)),
    **dict.fromkeys(("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"), ("rate",)),
    "GaussianNoise": ("stddev",),
    **dict.fromkeys(("GRU", "LSTM", "SimpleRNN"), ("dropout", "recurrent_dropout")),
}
_HOLDERS = ("layers", "layer", "backward_layer")  # the keys of models and wrappers, whose layers are packed each by its rule


def settings_of(config):
    """The settings in a serialised model, in the order of its layers.

    Args:
        config: dict, as `keras.saving.serialize_keras_object(model)` gives it.

    Returns:
        List of pairs `(path, value)`. Models of one architecture have the same settings in the same order, whatever their
        layers are called.
    """
    return [("/".join((*names, key)), config[key]) for names, config, key in _places(config)]


def with_settings(config, values):
    """A copy of a serialised model whose settings are those of a dict of paths to values; others stay."""
    config = copy.deepcopy(config)
    for names, own, key in _places(config):
        own[key] = values.get("/".join((*names, key)), own[key])
    return config


def without_settings(config):
    """A copy of a serialised model that says nothing about its settings."""
    return with_settings(config, dict.fromkeys(path for path, _ in settings_of(config)))


def _places(node, names=()):
    """`(names of the layers, config of the innermost, key)` of each setting."""
    config = node.get("config")
    if not isinstance(config, dict):
        return
    if _is_of_keras(node):
        yield from ((names, config, key) for key in PER_MEMBER.get(node["class_name"], ()) if key in config)
    for held in map(config.get, _HOLDERS):
        for inner in held if isinstance(held, list) else [held]:
            if isinstance(inner, dict) and "name" in (inner.get("config") or {}):
                yield from _places(inner, (*names, inner["config"]["name"]))


def _is_of_keras(node):
    return (node.get("module") or "keras").split(".")[0] == "keras"
