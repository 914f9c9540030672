"""Models sorted by architecture."""

import json

import keras

from keras_multiweight.configs import comparable
from keras_multiweight.packing.files import listed, read_config
from keras_multiweight.packing.match import model_config


def groups_of(models):
    """Models or paths sorted into groups of equal architecture.

    Args:
        models: As for `pack`.

    Returns:
        List of `(numbers, models)`: the places of a group's members in the whole list, and these members.
    """
    models = listed(models)
    groups = group_by(map(_architecture, models))
    return [(numbers, [models[i] for i in numbers]) for numbers in groups]


def group_by(keys):
    """The places of equal keys, in the order of their first: `[[0, 2], [1]]` for the keys a, b, a."""
    groups = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    return list(groups.values())


def architecture(config):
    """A key that is equal for configs of one architecture."""
    return json.dumps(comparable(config), sort_keys=True, default=repr)


def _architecture(model):
    if not isinstance(model, keras.Model):
        return architecture(read_config(model))
    shapes = [(tuple(weight.shape), weight.dtype) for weight in model.weights]
    return f"{architecture(model_config(model))} {shapes}"
