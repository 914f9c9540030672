"""What all members compute alike: layers with equal weights, on inputs that all members share."""

import collections
import dataclasses

import keras
from keras import tree

from keras_multiweight.copies import all_layers, can_copy, draws_in_training
from keras_multiweight.packing.graph import called_with, is_graph, walk

SHARES = ("equal", "frozen", None)


@dataclasses.dataclass(frozen=True)
class _Alike:
    """Stands for a tensor: whether all members compute the same numbers, and what draws random numbers on the way."""

    holds: bool
    draws: frozenset = frozenset()


class SharedLayers:
    """The layers of a model that all members can have in common.

    Args:
        template: The model of the first member.
        stacks: The members' weights, all of them.
        share: `"equal"`, `"frozen"` or None, as for `pack`.
        settings: The `Settings` of the members. A layer that differs in one is each member's own.

    `id(layer) in shared` says whether a layer is computed once. A layer with weights is, if all members have the same
    bits in them and all of its inputs are computed alike. A layer that only draws random numbers in training (Dropout) is
    if a layer with weights behind it is: alone it would gain nothing, and keep the members from being trained.
    """

    def __init__(self, template, stacks, share, settings):
        if share not in SHARES:
            raise ValueError(f"share must be one of {SHARES}. Received: share={share!r}.")
        self._stacks = stacks
        self._share = share
        self._settings = settings
        self._found = set()
        self._apart = set()  # layers with a call on inputs that are not alike
        if share is not None and stacks.num_members > 1 and is_graph(template):
            self._search(template)

    def __contains__(self, key):
        return key in self._found

    def _search(self, template):
        """Pass through the graph until no layer turns out to have a call on inputs that are not alike."""
        before = None
        while before != len(self._apart):
            before = len(self._apart)
            self._found = set()
            self._walk(template, [_Alike(True)] * len(template.inputs))

    def _walk(self, model, inputs):
        return walk(model, inputs, self._visit)

    def _visit(self, operation, args, kwargs):
        if is_graph(operation):
            pairs = zip(*called_with(operation, args, kwargs))
            return tree.flatten(self._walk(operation, list(map(_together, pairs))))
        output = _together((args, kwargs))
        if isinstance(operation, keras.layers.Layer):
            output = self._pass_layer(operation, output)
        return collections.defaultdict(lambda: output)  # one answer for whichever output

    def _pass_layer(self, layer, inputs):
        """What a layer makes of inputs; remembers it if it has weights and can be shared."""
        if not inputs.holds:
            self._apart.add(id(layer))
        if id(layer) in self._apart or not self._may_share(layer):
            return _Alike(False)
        if layer.weights:
            self._found |= {id(layer)} | inputs.draws
        own = {id(layer)} if layer.variables and not layer.weights else set()
        return _Alike(True, inputs.draws | own)

    def _may_share(self, layer):
        penalised = any(inner.activity_regularizer is not None for inner in all_layers(layer))  # once for each member
        alike = self._stacks.are_equal(layer) and not self._settings.are_in(layer)
        if penalised or not alike or not can_copy(layer):
            return False
        return self._share == "equal" or not (layer.trainable_variables or draws_in_training(layer))


def _together(structure):
    """What holds for all tensors of a structure."""
    found = [x for x in tree.flatten(structure) if isinstance(x, _Alike)]
    return _Alike(all(x.holds for x in found), frozenset().union(*(x.draws for x in found)))
