"""Ids that a model looks up in tables, looked at before XLA is, which takes one out of range for another. V words."""

import keras
import numpy as np
from keras import tree

from keras_multiweight.layers.embedding import MultiEmbedding


class Ids:
    """The ids among a model's inputs.

    Args:
        model: A Functional model, such as a `MultiModel`.
        num_lookups: int, how many of its layers, at any depth, look up ids.

    Attributes:
        are_known: bool, whether all of these read inputs of the model, which can be looked at.
    """

    def __init__(self, model, num_lookups):
        places = {id(x): place for place, x in enumerate(model.inputs)}
        lookups = [layer for layer in model.layers if isinstance(layer, (keras.layers.Embedding, MultiEmbedding))]
        read = [(places.get(id(_input(layer))), layer.input_dim) for layer in lookups]
        self._sizes = [(place, size) for place, size in read if place is not None]
        self._inputs = model.input
        self.are_known = len(self._sizes) == num_lookups

    def are_in_range(self, x):
        """Whether each id has its place in a table, -V to V - 1. No, where `x` is nested otherwise than the inputs."""
        if not self._sizes:
            return True
        try:
            tree.assert_same_structure(self._inputs, x)
        except (TypeError, ValueError):
            return False
        flat = tree.flatten(x)
        return all(_lie_in(flat[place], size) for place, size in self._sizes)


def _input(layer):
    """What a layer reads, or None where it is called several times."""
    try:
        return layer.input
    except (AttributeError, ValueError):
        return None


def _lie_in(ids, size):
    ids = np.asarray(ids)
    return ids.dtype.kind in "iuf" and (not ids.size or (-size <= ids.min() and ids.max() < size))
