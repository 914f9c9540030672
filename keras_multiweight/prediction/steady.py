"""Weights that stay as they are, written into a program on JAX."""

import math
import operator

import numpy as np
from keras import ops

MOST_NUMBERS = 2**20  # of all weights: larger programs take so long that arguments do not count
MOST_ROWS = 128  # above, XLA multiplies by constants more slowly than by arguments


class SteadyCall:
    """A `PureCall` with the weights of now written into its program, which serves while the variables hold the same arrays.

    Each argument of a program takes half a microsecond a call, and what follows from weights alone is computed once.

    Args:
        pure: A `PureCall`.
        jit: `jax.jit`, or that with options.

    Attributes:
        function: From a list of arrays to the outputs and updates of the call.
    """

    def __init__(self, pure, jit):
        self._values, self._places = pure.values(), pure.places
        constants = [np.asarray(v) for v in self._values]  # these stay where `fit` gives the variables' own arrays away
        self.function = jit(lambda arrays: pure(list(map(ops.convert_to_tensor, constants)), arrays))

    @staticmethod
    def pays(pure, rows):
        """Whether weights and rows are few, and it is clear where the variables hold their values."""
        numbers = sum(math.prod(v.shape) for v in pure.variables)
        return numbers <= MOST_NUMBERS and rows <= MOST_ROWS and pure.places is not None

    def serves(self):
        """Whether the variables hold the arrays that the program knows: JAX writes into none."""
        return all(map(operator.is_, map(operator.getitem, *self._places), self._values))
