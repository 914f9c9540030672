"""The members' weights on their way into a packed model."""

import numpy as np
from keras import ops


class Members:
    """The N layers at one place of the graph, as a rule sees them.

    Attributes:
        template: The layer of the first member: its class, config and shapes speak for all.
        num_members: N.
        calls: How often the layer is called in one pass through the model.
        path: The names of the models around the layer and its own.
        settings: Dict of the keys of settings that differ between the members to the lists of their values.
        pack_inside: `pack_inside(layer, *args, **kwargs)` packs a layer within these, for the rule of a wrapper.
    """

    def __init__(self, template, num_members, calls, path, stacks, settings, pack_inside=None):
        self.template = template
        self.num_members = num_members
        self.calls = calls
        self.path = path
        self.pack_inside = pack_inside
        self.settings = settings.of(template)
        self._stacks = stacks
        self._settings = settings

    def take_settings(self, names):
        """The members' values of the settings with some names, for a packed layer that gives each member its own."""
        return self._settings.take(self.template, names)

    def take_weights(self):
        """For each of the template's weights the `(N, ...)` array of the members' values. They are given out once."""
        return self._stacks.take(self.template)

    def take_shared_weights(self):
        """For each of the template's weights the one value that all members have."""
        return [stack[0] for stack in self.take_weights()]

    def weights_became(self, variables):
        """Say which variables hold the weights from now on."""
        self._stacks.keep(self.template, variables)


class Stacks:
    """`(N, ...)` arrays that fill up member by member, one for each weight of a model.

    While all members have the same bits in a weight, it is held once. Each array is let go as it is taken, so that filling
    a packed model holds its weights once, not twice.

    Attributes:
        settings: What else differs between the members: a dict of a setting's path to the list of their values.
    """

    def __init__(self, model, num_members, settings=None):
        self._weights = model.weights
        self.num_members = num_members
        self.settings = dict(settings or {})
        self._equal = {}  # id(weight) -> the value that all members so far have
        self._arrays = {}  # id(weight) -> the values of the members, (N, ...)
        self._variables = {}

    def put(self, i, values):
        """Set the weights of member `i`, in the order of `model.weights`. Members come in order."""
        for weight, value in zip(self._weights, values, strict=True):
            self._put(id(weight), i, value)

    def _put(self, key, i, value):
        if i == 0:
            self._equal[key] = np.array(value)
        elif key in self._equal and not _same_bits(self._equal[key], value):
            first = self._equal.pop(key)
            self._arrays[key] = np.empty((self.num_members, *first.shape), first.dtype)
            self._arrays[key][:i] = first
        if key in self._arrays:
            self._arrays[key][i] = value

    def are_equal(self, layer):
        """Whether all members have the same bits in all weights of a layer or model."""
        return all(id(weight) in self._equal for weight in layer.weights)

    def take(self, layer):
        """The arrays of one layer's weights."""
        return [self._take(weight) for weight in layer.weights]

    def _take(self, weight):
        key, shape = id(weight), (self.num_members, *weight.shape)
        if key in self._equal:
            return np.broadcast_to(self._equal[key], shape)
        if key in self._arrays:
            return self._arrays.pop(key)
        return np.reshape(ops.convert_to_numpy(self._variables[key]), shape)

    def keep(self, layer, variables):
        """Say which variables a layer's weights have become, for a second layer that shares them."""
        self._variables.update(zip(map(id, layer.weights), variables))


def read_weights(model):
    """The values of a model's weights as NumPy arrays, without a copy where the backend allows."""
    return [ops.convert_to_numpy(w) for w in model.weights]


def _same_bits(a, b):
    """Whether two arrays of one shape and dtype hold the same bits: 0.0 and -0.0 differ, NaN equals itself."""
    a, b = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b))
    return np.array_equal(a, b)
