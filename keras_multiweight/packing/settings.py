"""What differs between members in the settings of their layers, on its way into a packed model."""

import functools

from keras_multiweight.copies import all_layers, layers_within
from keras_multiweight.packing.match import Difference, IncompatibleModelsError

HINT = (
    "These are settings that may differ where a layer is packed by itself, in the graph of a Functional or Sequential "
    "model. Here it is within a layer that is packed as a whole: give the members equal ones."
)


class Settings:
    """The settings of the members of one model.

    Args:
        template: The model of the first member.
        values: Dict of a setting's path to the list of the members' values.
    """

    def __init__(self, template, values=None):
        self.values = dict(values or {})
        self._layers = {path: functools.reduce(_inner, path.split("/")[:-1], template) for path in self.values}
        self._waiting = set(self.values)

    def of(self, layer, names=None):
        """The members' values of one layer's settings, a dict of keys to lists; or of those with some names."""
        found = {path.split("/")[-1]: self.values[path] for path in self._paths(layer)}
        return {key: values for key, values in found.items() if names is None or key in names}

    def take(self, layer, names):
        """The same, for a packed layer that gives each member its own."""
        taken = self.of(layer, names)
        self._waiting -= {path for path in self._paths(layer) if taken.get(path.split("/")[-1]) == self.values[path]}
        return taken

    def are_in(self, layer):
        """Whether a layer, or one within it, has settings that differ."""
        return any(self._paths(inner) for inner in all_layers(layer))

    def check_taken(self, member_names):
        """Raise where no packed layer gave each member its own.

        Raises:
            IncompatibleModelsError: The settings are of layers within others that are packed as a whole.
        """
        found = []
        for path in sorted(self._waiting):
            *_, layer, key = ["", *path.split("/")]
            first, *others = self.values[path]
            differ = [(i, value) for i, value in enumerate(others, 1) if value != first]
            found += [Difference(i, member_names[i], layer, key, first, value) for i, value in differ]
        if found:
            raise IncompatibleModelsError(found, hint=HINT)

    def _paths(self, layer):
        return [path for path, own in self._layers.items() if own is layer]


def differing(template, members):
    """The settings that differ between members: a dict of paths to lists of values.

    Args:
        template: The settings of the template, pairs `(path, value)`.
        members: For each member its own, in the same order; or None, where it has those of the template.
    """
    columns = [[value for _, value in (template if own is None else own)] for own in members]
    found = {path: list(values) for (path, _), values in zip(template, zip(*columns))}
    return {path: values for path, values in found.items() if any(value != values[0] for value in values)}


def _inner(layer, name):
    return next(inner for inner in layers_within(layer) if inner.name == name)
