"""Permutation rules of raw `keras.ops` operations in a graph, by the name of their class."""

import keras
import numpy as np

from keras_multiweight.merging.axes import fixed, size_of
from keras_multiweight.merging.parts import broadcast, concatenated, reshaped, same
from keras_multiweight.merging.registry import PERMUTATIONS
from keras_multiweight.merging.trace import Traced, traced_in
from keras_multiweight.packing.table import ELEMENTWISE_OPERATIONS


def elementwise(trace, operation, *args, **kwargs):
    """Each number alone, broadcast. A constant that is no single number for all units of an axis holds it fast."""
    inputs = traced_in((args, kwargs))
    for constant in _constants((args, kwargs)):
        for x in inputs:
            for axis, size in zip(reversed(x.axes), reversed(constant.shape)):
                if size != 1:
                    trace.freeze(axis, f"'{trace.path}' joins it with constants")
        inputs = [*inputs, Traced(map(fixed, constant.shape))]
    return broadcast(trace, sorted(inputs, key=lambda x: -len(x.axes)))


def _constants(structure):
    """Arrays among the arguments. Lists of numbers come as lists."""
    found = []

    def visit(x):
        if hasattr(x, "shape") and not isinstance(x, Traced):
            found.append(x)
        elif isinstance(x, (list, tuple)) and x and all(isinstance(v, (int, float)) for v in x):
            found.append(np.asarray(x))
        return None

    keras.tree.traverse(visit, structure)
    return found


def reduction(trace, operation, x, *args, **kwargs):
    """Sums, means and extremes over axes: what is reduced is symmetric in its units."""
    axes = operation.axis
    axes = range(len(x.axes)) if axes is None else axes if isinstance(axes, (list, tuple)) else [axes]
    axes = [i % len(x.axes) for i in axes]
    kept = [fixed(1)] if getattr(operation, "keepdims", False) else []
    found = [part for i, axis in enumerate(x.axes) for part in (kept if i in axes else [axis])]
    return Traced(found, x.dtype)


def reshape(trace, operation, x, *args, **kwargs):
    if x.axes and x.shape[0] is None and operation.newshape[0] in (-1, None):
        spec = trace.spec(operation, (x,), kwargs)
        return reshaped(trace, x, tuple(spec.shape))
    return trace.unknown_operation(operation, (x, *args), kwargs, "reshapes the batch axis")


def transpose(trace, operation, x, *args, **kwargs):
    return Traced([x.axes[i] for i in operation.axes or range(len(x.axes))[::-1]], x.dtype)


def concatenate(trace, operation, xs, *args, **kwargs):
    if len(traced_in([xs])) != len(xs):
        return trace.unknown_operation(operation, (xs,), kwargs, "joins its inputs with constants")
    return concatenated(trace, list(xs), operation.axis)


def expand_dims(trace, operation, x, *args, **kwargs):
    axis = operation.axis
    axis = axis % (len(x.axes) + 1) if isinstance(axis, int) else None
    if axis is None:
        return trace.unknown_operation(operation, (x, *args), kwargs, "adds several axes")
    return Traced((*x.axes[:axis], fixed(1), *x.axes[axis:]), x.dtype)


def squeeze(trace, operation, x, *args, **kwargs):
    axes = operation.axis if isinstance(operation.axis, (list, tuple)) else [operation.axis]
    drop = [i for i, axis in enumerate(x.axes) if size_of(axis) == 1] if axes == [None] else [i % len(x.axes) for i in axes]
    return Traced([axis for i, axis in enumerate(x.axes) if i not in drop], x.dtype)


TABLE = {
    elementwise: ELEMENTWISE_OPERATIONS,
    same: ["Softmax", "LogSoftmax", "Sparsemax", "StopGradient", "Copy"],
    reduction: ["Sum", "Mean", "Max", "Min", "Amax", "Amin", "Prod", "Std", "Var", "Any", "All", "Logsumexp"],
    reshape: ["Reshape"],
    transpose: ["Transpose"],
    concatenate: ["Concatenate"],
    expand_dims: ["ExpandDims"],
    squeeze: ["Squeeze"],
}

for rule, names in TABLE.items():
    for name in names:
        PERMUTATIONS.register_operation(name, rule)
