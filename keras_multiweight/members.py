"""Members: the N weight sets of a packed model, one by one. N members."""

import operator

import numpy as np
from keras import ops

from keras_multiweight.copies import CannotCopyError, copy_built, serialized, set_all_weights
from keras_multiweight.deep import deep_graphs
from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.settings import settings_of, with_settings
from keras_multiweight.training.resume import compile_alone


class Hidden:
    """What Keras must not track: the template is no sublayer of the packed model."""

    def __init__(self, member, settings):
        self.member = member  # or why there is none
        self.settings = settings  # plain values, as they are saved


class Members:
    """What a `MultiModel` knows of its members, and how they come out of it and their weights back."""

    _hidden = None  # a `Hidden`

    @property
    def num_members(self):
        return len(self._hidden.settings["member_names"])

    @property
    def member_names(self):
        return list(self._hidden.settings["member_names"])

    @property
    def member_seeds(self):
        return self._hidden.settings["member_seeds"]

    @property
    def member_inputs(self):
        return list(self._hidden.settings["member_inputs"] or [False] * len(self.inputs))

    @property
    def member_settings(self):
        """What the members differ in beside weights, such as rates of dropout: a dict of paths to lists of N values.

        A path is the names of the layers around a setting and its name: `"encoder/dropout/rate"`. Those in which all members
        agree are not among them: `settings_of_members()` has all.
        """
        return {path: list(values) for path, values in self._hidden.settings["member_settings"].items()}

    def template(self):
        """The Keras model that says what one member is. Its own weight values mean nothing.

        A method: Keras saves what it finds in the properties of a model.

        Raises:
            ValueError: The members' class cannot be made again from its config.
        """
        if isinstance(self._hidden.member, CannotCopyError):
            raise self._hidden.member
        return self._hidden.member

    @deep_graphs()
    def member(self, i):
        """Member `i` as an ordinary Keras model, with the weights that it has here, bit for bit.

        Raises:
            IndexError: There is no member `i`. Negative numbers count from the end.
        """
        weights = self.member_weights(i)
        model = copy_built(self.template(), self._member_config(i))
        set_all_weights(model, weights)
        return model

    def member_weights(self, i):
        """The weights of member `i` as a list of NumPy arrays, in the order of a single model's `get_weights()`."""
        i = self.number(i)
        return [_member_value(self.get_layer(name), index, i) for name, index in self.weight_places()]

    def stacked_member_weights(self):
        """For each weight of a single model, in order, the `(N, ...)` array of the members' values, each read once."""
        return [_stacked_value(self.get_layer(name), index, self.num_members) for name, index in self.weight_places()]

    def settings_of_members(self):
        """All settings of layers that may differ between members, pairs of paths and lists of the members' values."""
        found = settings_of(serialized(self.template()))
        return [(path, self.member_settings.get(path, [value] * self.num_members)) for path, value in found]

    def _member_config(self, i):
        """The config of member `i` where it is not the template's."""
        own = {path: values[self.number(i)] for path, values in self.member_settings.items()}
        return with_settings(serialized(self.template()), own)["config"] if own else None

    def number(self, i):
        """The number of member `i` from 0, which may count from the end; an IndexError where there is none."""
        if not -self.num_members <= operator.index(i) < self.num_members:
            raise IndexError(f"Members are numbered from 0 to {self.num_members - 1}. Received: i={i}.")
        return i % self.num_members

    def set_member_weights(self, i, weights):
        """Give member `i` weights, a list of arrays as `member_weights(i)` gives it."""
        for (name, index), value in zip(self.weight_places(), weights, strict=True):
            _set_member_value(self.get_layer(name), index, i, value)

    def weight_places(self):
        """For each weight of a single model, in order: the name of the layer here and the index among its weights.

        A `MultiLayer` has it in its `stacked_weights`; a layer that all members share, in its `weights`.
        """
        return [tuple(place) for place in self._hidden.settings["slots"]]

    def shared_layers(self):
        """The layers with weights that are equal in all members, stored and computed once."""
        names = [row["name"] for row in self._hidden.settings["plan"] if row["rule"] == "shared"]
        return [layer for layer in map(self.get_layer, names) if layer.variables]

    def unpack(self, optimizer=False):
        """All members as ordinary Keras models, in order; compiled as those that were packed, where Keras can do that again
        (metrics must be registered) and they do not come from a file.

        Args:
            optimizer: bool. The members come compiled, each with its optimizer and that optimizer's state, and train on
                alone as they would have here.

        Raises:
            ValueError: `optimizer=True` of a model that is not compiled.
        """
        if optimizer and not self.compiled:
            raise ValueError(f"optimizer=True needs a compiled model. Received: '{self.name}', which was never compiled.")
        members = [self.member(i) for i in range(self.num_members)]
        for i, member in enumerate(members if optimizer else ()):
            compile_alone(member, self, i)
        return members


def _member_value(layer, index, i):
    """A weight of member `i`, as a NumPy array."""
    return layer.member_value(index, i) if isinstance(layer, MultiLayer) else ops.convert_to_numpy(layer.weights[index])


def _stacked_value(layer, index, num_members):
    """A weight of all members, as a NumPy array `(N, ...)`."""
    if isinstance(layer, MultiLayer):
        return layer.stacked_value(index)
    value = ops.convert_to_numpy(layer.weights[index])
    return np.broadcast_to(value, (num_members, *value.shape))


def _set_member_value(layer, index, i, value):
    if isinstance(layer, MultiLayer):
        layer.set_member_value(index, i, value)
    elif not np.array_equal(ops.convert_to_numpy(layer.weights[index]), value):
        raise ValueError(
            "A weight that all members share cannot be set for one of them. Received: another value for layer "
            f"'{layer.name}' of member {i}. Pack with share=None."
        )
