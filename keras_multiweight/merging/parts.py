"""What several permutation rules do: join, multiply and hold axes."""

import keras

from keras_multiweight.merging.axes import fixed, size_of
from keras_multiweight.merging.registry import PERMUTATIONS
from keras_multiweight.merging.trace import Traced


def same(trace, layer, x, *args, **kwargs):
    """Each unit of the output is computed from the same unit of the input, and alike for all."""
    return x


def product(trace, axes):
    """Several axes as one, row-major."""
    if any(size_of(axis) is None for axis in axes):
        for axis in axes:
            trace.freeze(axis, f"'{trace.path}' joins an open dimension")
        return fixed(None)
    return trace.expand((tuple(map(trace.whole, axes)),))


def reshaped(trace, x, shape):
    """The axes after a reshape to `shape`, whose first is the batch."""
    if None in shape[1:] or None in x.shape[1:]:
        trace.hold(x, f"'{trace.path}' reshapes an open dimension")
        return Traced(map(fixed, shape), x.dtype)
    axes = [trace.units(n, f"axis_{i}") for i, n in enumerate(shape[1:], 1)]
    trace.unify(product(trace, x.axes[1:]), product(trace, axes), f"'{trace.path}' cuts across it")
    return Traced((x.axes[0], *axes), x.dtype)


def broadcast(trace, inputs):
    """Elementwise on tensors of one rank or less: their axes are aligned at the last."""
    rank = max(len(x.axes) for x in inputs)
    axes = []
    for i in range(-rank, 0):
        own = [x.axes[i] for x in inputs if len(x.axes) >= -i]
        long = [axis for axis in own if size_of(axis) != 1] or own[:1]
        for other in long[1:]:
            trace.unify(long[0], other, f"'{trace.path}' joins it with what does not permute alike")
        axes.append(long[0])
    return Traced(axes, inputs[0].dtype)


def concatenated(trace, inputs, axis):
    axis %= len(inputs[0].axes)
    rest = broadcast(trace, [x.with_axis(axis, fixed(1)) for x in inputs])
    parts = [trace.expand(x.axes[axis]) for x in inputs]
    if any(size_of(part) is None for part in parts):
        return rest.with_axis(axis, fixed(None))
    return rest.with_axis(axis, tuple(segment for part in parts for segment in part))


def hold_others(trace, x, axis):
    """Hold all axes but one fast."""
    for i, other in enumerate(x.axes):
        if i != axis % len(x.axes):
            trace.freeze(other, f"'{trace.path}' treats it as a dimension of space or time")


def channel_axis(layer, rank):
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def treats_units_alike(function):
    """Whether an activation gives each unit what it gives every other: the functions of Keras do, but for `glu`."""
    if isinstance(function, keras.layers.Layer):
        return PERMUTATIONS.find(function) is same
    name = getattr(function, "__name__", "")
    return function is None or (name != "glu" and getattr(keras.activations, name, None) is function)


def activated(trace, layer, x, names=("activation",)):
    """The output of a layer after its activations."""
    for function in (getattr(layer, name, None) for name in names):
        if not treats_units_alike(function):
            trace.hold(x, f"an activation of '{trace.path}' is not known to treat all units alike")
            trace.unknown[trace.path] = f"has the activation {getattr(function, '__name__', function)!r}"
    return x


def weights_by_name(layer):
    """The weights of a layer by the last part of their paths."""
    return {weight.path.split("/")[-1]: weight for weight in layer.weights}
