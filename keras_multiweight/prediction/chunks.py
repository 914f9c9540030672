"""A packed model some members at a time. N members, c of them in a chunk, B rows.

What a layer gives for all members at once outgrows the caches, and at last the memory. A chunk is the same graph for c
members; it runs once for each c of the N, on their slices of the weights.
"""

import math

from keras import ops

from keras_multiweight.copies import copy_layer, serialized
from keras_multiweight.layers.per_member import undrawn


class Chunks:
    """What it takes to run a packed model c members at a time.

    Args:
        model: A `MultiModel`.
        size: int, c, at most N. Where N is no multiple of it, the last chunk computes some members a second time.

    Attributes:
        model: The graph of c members, a Keras model. Its own weight values mean nothing.
        variables: Those of the packed model.
        starts: The first member of each chunk.

    Raises:
        ValueError: The model's graph cannot be made for another number of members.
    """

    def __init__(self, model, size):
        self.num_members = model.num_members
        self.size = size
        self.starts = [min(k * size, self.num_members - size) for k in range(math.ceil(self.num_members / size))]
        self._twice = len(self.starts) * size - self.num_members  # how many members the last two chunks share
        self.variables = model.variables
        self.model = model.graph_of(size)
        self._rows = [self._rows_a_member(*pair) for pair in zip(model.variables, self.model.variables, strict=True)]
        self._own_inputs = all(model.member_inputs)
        if any(model.member_inputs) and not self._own_inputs:
            raise ValueError("Members are chunked where all inputs are of each member, or none is.")

    def _rows_a_member(self, whole, part):
        """How many entries of axis 0 of a variable are one member's; None where all members share it."""
        if tuple(whole.shape) == tuple(part.shape):
            return None
        rows = whole.shape[0] // self.num_members
        if tuple(part.shape) != (rows * self.size, *whole.shape[1:]):
            raise ValueError(f"Not one block a member: shape {tuple(whole.shape)} of '{whole.path}'.")
        return rows

    def weights(self, values, start):
        """The values of the variables for the members from `start`, which is an int or a scalar tensor."""
        pairs = zip(values, self._rows)
        return [value if rows is None else _slice(value, start * rows, self.size * rows) for value, rows in pairs]

    def inputs(self, tensors, start):
        """The inputs of the members from `start`."""
        if not self._own_inputs:
            return tensors
        return [ops.moveaxis(_slice(ops.moveaxis(x, 1, 0), start, self.size), 0, 1) for x in tensors]

    def join(self, outputs):
        """An output of all chunks, (chunks, B, c, ...), -> (B, N, ...)"""
        outputs = ops.moveaxis(outputs, 0, 1)  # (B, chunks, c, ...)
        rows, chunks, size, *rest = ops.shape(outputs)
        outputs = ops.reshape(outputs, (rows, chunks * size, *rest))
        last = self.starts[-1]
        return (
            outputs if self._twice == 0 else ops.concatenate([outputs[:, :last], outputs[:, last + self._twice :]], axis=1)
        )

    def join_list(self, parts):
        """The same of a list of (B, c, ...)"""
        return ops.concatenate([*parts[:-1], parts[-1][:, self._twice :]], axis=1)


def _slice(value, start, size):
    if isinstance(start, int):
        return value[start : start + size]
    rest = value.shape[1:]
    zero = ops.zeros_like(start)  # of the dtype of `start`, which an int is not in JAX's 64 bits
    return ops.slice(value, [start] + [zero] * len(rest), [size, *rest])


def graph_of(graph, inputs, shared, before, after):
    """A packed graph for another number of members.

    Args:
        graph: A Functional model.
        inputs: The names of the inputs whose axis 1 holds the members.
        shared: The names of the layers that all members have in common.
        before, after: ints, the numbers of members.
    """
    config = serialized(graph)["config"]
    for layer in config["layers"]:
        own = layer["config"]
        if layer["name"] in inputs:
            rows, _, *rest = own["batch_shape"]
            own["batch_shape"] = [rows, after, *rest]
        elif own.get("num_members") == before and layer["name"] not in shared:
            own["num_members"] = after
            own.pop("member_settings", None)  # they are weights too
    with undrawn():
        return copy_layer(graph, config)
