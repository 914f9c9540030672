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
        pack_inside: `pack_inside(layer, *args, **kwargs)` packs a layer within these, for the rule of a wrapper.
    """

    def __init__(self, template, num_members, calls, path, stacks, pack_inside=None):
        self.template = template
        self.num_members = num_members
        self.calls = calls
        self.path = path
        self.pack_inside = pack_inside
        self._stacks = stacks

    def take_weights(self):
        """For each of the template's weights the `(N, ...)` array of the members' values. They are given out once."""
        return self._stacks.take(self.template)

    def weights_became(self, variables):
        """Say which variables hold the weights from now on."""
        self._stacks.keep(self.template, variables)


class Stacks:
    """`(N, ...)` arrays that fill up member by member, one for each weight of a model.

    Each array is let go as it is taken, so that filling a packed model holds its weights once, not twice.
    """

    def __init__(self, model, num_members):
        self._weights = model.weights
        self._shape = lambda weight: (num_members, *weight.shape)
        self._arrays = {id(w): np.empty(self._shape(w), ops.convert_to_numpy(w).dtype) for w in self._weights}
        self._variables = {}

    def put(self, i, values):
        """Set the weights of member `i`, in the order of `model.weights`."""
        for weight, value in zip(self._weights, values, strict=True):
            self._arrays[id(weight)][i] = value

    def are_equal(self):
        """Whether all members have the same values in all weights."""
        return all((array == array[:1]).all() for array in self._arrays.values())

    def take(self, layer):
        """The arrays of one layer's weights."""
        return [self._take(weight) for weight in layer.weights]

    def _take(self, weight):
        if id(weight) in self._arrays:
            return self._arrays.pop(id(weight))
        return np.reshape(ops.convert_to_numpy(self._variables[id(weight)]), self._shape(weight))

    def keep(self, layer, variables):
        """Say which variables a layer's weights have become, for a second layer that shares them."""
        self._variables.update(zip(map(id, layer.weights), variables))


def read_weights(model):
    """The values of a model's weights as NumPy arrays, without a copy where the backend allows."""
    return [ops.convert_to_numpy(w) for w in model.weights]
