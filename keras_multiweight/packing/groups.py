"""Models sorted by architecture."""

import json

import keras

from keras_multiweight.packing.files import listed, read_config
from keras_multiweight.packing.match import architecture, model_config


def groups_of(models, custom_objects=None, template=None):
    """Models or paths sorted into groups of equal architecture.

    Args:
        models, custom_objects, template: As for `pack`.

    Returns:
        List of `(numbers, models)`: the places of a group's members in the whole list, and these members.
    """
    if template is not None:
        raise ValueError("A template is one architecture, group=True is for several. Received: both. Leave one out.")
    models = listed(models)
    groups = group_by(_key(model, custom_objects) for model in models)
    return [(numbers, [models[i] for i in numbers]) for numbers in groups]


def group_by(keys):
    """The places of equal keys, in the order of their first: `[[0, 2], [1]]` for the keys a, b, a."""
    groups = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    return list(groups.values())


def architecture_key(config):
    """A key that is equal for configs of one architecture."""
    return json.dumps(architecture(config), sort_keys=True, default=repr)


def _key(model, custom_objects):
    if not isinstance(model, keras.Model):
        return architecture_key(read_config(model, custom_objects))
    shapes = [(tuple(weight.shape), weight.dtype) for weight in model.weights]
    return f"{architecture_key(model_config(model))} {shapes}"
