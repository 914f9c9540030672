"""Weights that stay as they are, written into a program on JAX."""

import math
import operator

import numpy as np

from keras_multiweight.prediction.calls import places

MOST = 2**18  # numbers of all weights: larger programs take so long that arguments do not count


class SteadyCall:
    """A `PureCall` with the weights of now written into its program, which serves while the variables hold the same arrays.

    Each argument of a program takes half a microsecond a call, and what follows from weights alone is computed once.

    Args:
        pure: A `PureCall`.

    Attributes:
        function: From a list of arrays to the outputs and updates of the call.
    """

    def __init__(self, pure):
        import jax

        self._values, self._places = pure.values(), places(pure.variables)
        constants = [np.asarray(v) for v in self._values]  # these stay where `fit` gives the variables' own arrays away
        self.function = jax.jit(lambda arrays: pure(list(map(jax.numpy.asarray, constants)), arrays))

    @staticmethod
    def pays(pure):
        """Whether the weights are few, and it is clear where the variables hold them."""
        return sum(math.prod(v.shape) for v in pure.variables) <= MOST and places(pure.variables) is not None

    def serves(self):
        """Whether the variables hold the arrays that the program knows: JAX writes into none."""
        return all(map(operator.is_, map(operator.getitem, *self._places), self._values))
