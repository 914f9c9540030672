"""Which activations treat every number alone, and what to do with the others."""

import keras
from keras import ops

from keras_multiweight.layers.lowerings import MOST_AXES_OF_SOFTMAX
from keras_multiweight.layers.plumbing import fold, unfold

_A = keras.activations

ELEMENTWISE = {
    _A.linear, _A.relu, _A.relu6, _A.leaky_relu, _A.elu, _A.selu, _A.celu, _A.gelu, _A.silu, _A.sigmoid, _A.hard_sigmoid,
    _A.hard_silu, _A.hard_tanh, _A.hard_shrink, _A.soft_shrink, _A.tanh, _A.tanh_shrink, _A.softplus, _A.softsign,
    _A.squareplus, _A.exponential, _A.mish, _A.log_sigmoid, _A.threshold, _A.sparse_plus, _A.sparse_sigmoid,
}  # fmt: skip
LAST_AXIS = {_A.softmax, _A.log_softmax, _A.sparsemax, _A.glu}


def is_elementwise(activation):
    return activation is None or activation in ELEMENTWISE


def activate(activation, x):
    """Apply an activation to `(N, B, ..., C)` as each member would to its own `(B, ..., C)`."""
    if activation is None:
        return x
    if activation in LAST_AXIS and len(x.shape) > MOST_AXES_OF_SOFTMAX:
        return unfold(activation(fold(x)), x.shape[0])
    if activation in ELEMENTWISE or activation in LAST_AXIS:
        return activation(x)
    return ops.vectorized_map(activation, x)  # a custom one may mix rows or name its axes
