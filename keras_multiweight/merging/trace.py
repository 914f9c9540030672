"""What a permutation rule works with: traced tensors, and the weights of layers."""

import keras
from keras import tree

from keras_multiweight.merging.axes import Ties, fixed, size_of


class Traced:
    """What stands on the axes of a tensor, the batch axis included.

    Attributes:
        axes: Tuple of axes (see `axes.py`).
        dtype: The dtype of the tensor.
    """

    def __init__(self, axes, dtype="float32"):
        self.axes = tuple(axes)
        self.dtype = dtype

    @property
    def shape(self):
        return tuple(map(size_of, self.axes))

    def with_axis(self, index, *axes):
        """This with another axis, several, or none in the place of one."""
        index %= len(self.axes)
        return Traced((*self.axes[:index], *axes, *self.axes[index + 1 :]), self.dtype)


def traced_in(structure):
    """The traced tensors in a structure, flat."""
    return [x for x in tree.flatten(structure) if isinstance(x, Traced)]


class PermutationTrace(Ties):
    """The ties of a model while its graph is walked. A rule makes groups, places them on weights, and unifies axes."""

    def __init__(self):
        super().__init__()
        self.weights = {}  # id(variable) -> (axes, view shape, whether it is a statistic)
        self.unknown = {}  # path of a layer -> why it is held fast
        self.path = ""  # of the layer whose rule is at work

    def units(self, size, what="units", parent=None):
        """An axis of new units of the layer at work."""
        return ((self.group(size, f"{self.path}/{what}", parent),),)

    def weight(self, variable, axes, shape=None, statistic=False):
        """Say what stands on the axes of a weight, seen in another shape if `shape` is given.

        A weight that is placed twice, because its layer is called twice or tied to another, ties what stands there.
        A statistic, as the moving mean of batch normalisation, is permuted with the rest, but not matched by.
        """
        if id(variable) in self.weights:
            for old, new in zip(self.weights[id(variable)][0], axes, strict=True):
                self.unify(old, new, f"'{self.path}' is used in places that do not permute alike")
        else:
            self.weights[id(variable)] = tuple(axes), tuple(shape or variable.shape), statistic
        self.close(axes)

    def hold(self, x, reason=None):
        """Hold all axes of a traced tensor, or of all in a structure, fast."""
        for traced in traced_in(x):
            for axis in traced.axes:
                self.freeze(axis, reason or f"'{self.path}' does not permute along it")

    @staticmethod
    def fixed_like(spec):
        """Traced tensors of fixed axes in the structure and shapes of symbolic ones."""
        return tree.map_structure(lambda y: Traced(map(fixed, y.shape), keras.backend.standardize_dtype(y.dtype)), spec)

    def unknown_operation(self, operation, args, kwargs, why):
        """Hold what goes into an operation fast, and what comes out of it."""
        self.unknown[self.path] = why
        reason = f"'{self.path}' {why}"
        self.hold((args, kwargs), reason)
        for weight in _weights_of(operation):
            for axis in self.weights.get(id(weight), ((),))[0]:
                self.freeze(axis, reason)
        return self.fixed_like(self.spec(operation, args, kwargs))

    def spec(self, operation, args, kwargs):
        """What an operation gives, as symbolic tensors with shapes and dtypes."""
        args, kwargs = tree.map_structure(_symbolic, (args, kwargs))
        return operation.compute_output_spec(*args, **kwargs)

    def unplaced(self, operation):
        """The names of a layer's weights that no rule has placed yet."""
        return [weight.path for weight in _weights_of(operation) if id(weight) not in self.weights]


def _symbolic(x):
    return keras.KerasTensor(x.shape, x.dtype) if isinstance(x, Traced) else x


def _weights_of(operation):
    return operation.weights if isinstance(operation, keras.layers.Layer) else []
