"""MultiDense and MultiEinsumDense. N members, B rows."""

import math

import keras
from keras import ops

from keras_multiweight.layers.activations import activate
from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.lowerings import MOST_SIDE_BY_SIDE, batched_matmul
from keras_multiweight.layers.plumbing import PACKAGE

PRODUCTS = ("batched", "side_by_side", "wide")  # lowerings of `members_matmul`


@keras.saving.register_keras_serializable(PACKAGE)
class MultiDense(MultiLayer):
    """N dense layers as one: `activation(x[:, i] @ kernel[i] + bias[i])` for each member i.

    Args:
        units, activation, use_bias, kernel_initializer, ...: As for `keras.layers.Dense`. Each member is initialised on
            its own `(in, units)` with its own draw; regularisers and constraints act on each member alone.
        num_members: int, N.
        member_axis: 1 (default) for `(B, N, ..., in)`, 0 for `(N, B, ..., in)`.
        shared_input: bool. All members read the same `(B, ..., in)`.

    Input shape:
        `(B, N, ..., in)`, or `(B, ..., in)` with `shared_input=True`.

    Output shape:
        `(B, N, ..., units)`.

    Example:

    ```python
    x = keras.Input((30,))
    h = kmw.MultiDense(64, num_members=8, shared_input=True, activation="relu")(x)  # (B, 8, 64)
    y = kmw.MultiDense(1, num_members=8)(h)  # (B, 8, 1)
    model = keras.Model(x, kmw.EnsembleAverage()(y))  # (B, 1)
    ```
    """

    member_class = keras.layers.Dense
    lowering_names = PRODUCTS

    def lowerings(self):
        return products(self.num_members, self.shared_input)

    def work(self, shape):
        return product_work(shape, self.units, self.num_members, self.shared_input)

    def call(self, inputs, training=None):
        return self.run(self._compute, inputs, self.choose(inputs, training))

    def _compute(self, x, lowering):
        kernel = ops.cast(self.kernel, self.compute_dtype)
        x = members_matmul(x, kernel, self.shared_input, lowering)  # (N, B, ..., units)
        if self.use_bias:
            x = add_aligned(x, ops.cast(self.bias, self.compute_dtype))
        return activate(self.activation, x)


@keras.saving.register_keras_serializable(PACKAGE)
class MultiEinsumDense(MultiLayer):
    """N `keras.layers.EinsumDense` layers as one.

    Args:
        equation, output_shape, activation, bias_axes, ...: As for `keras.layers.EinsumDense`, without a member axis.
        num_members, member_axis, shared_input: As for `MultiDense`.

    Input shape:
        `(B, N, ...)`, or `(B, ...)` with `shared_input=True`.

    Output shape:
        `(B, N, ...)`.

    Example:

    ```python
    layer = kmw.layers.MultiEinsumDense("abc,cd->abd", output_shape=(None, 64), bias_axes="d", num_members=8)
    layer(np.zeros((32, 8, 10, 16), "float32")).shape  # (32, 8, 10, 64)
    ```
    """

    member_class = keras.layers.EinsumDense

    def call(self, inputs):
        return self.run(self._compute, inputs)

    def _compute(self, x):
        equation = members_equation(self.equation, self.shared_input)
        x = ops.einsum(equation, x, ops.cast(self.kernel, self.compute_dtype))  # (N, B, ...)
        if self.bias_axes is not None:
            x = add_aligned(x, ops.cast(self.bias, self.compute_dtype))
        return activate(self.activation, x)


def products(num_members, shared_input):
    """The lowerings of `members_matmul` that are worth a try."""
    possible = True, num_members <= MOST_SIDE_BY_SIDE, shared_input
    return tuple(name for name, may in zip(PRODUCTS, possible) if may)


def product_work(shape, units, num_members, shared_input):
    """What the table of costs is searched by for `members_matmul`, of one member's input `(B, ..., in)`."""
    *lead, size = shape
    rows = None if None in lead else math.prod(lead)
    kind = "shared product" if shared_input else "product"
    return {"kind": kind, "members": num_members, "rows": rows, "in": size, "out": units}


def members_matmul(x, kernel, shared_input, lowering="batched"):
    """(N, B, ..., in) or shared (B, ..., in), times (N, in, out): (N, B, ..., out)

    Lowerings: `"batched"`, one batched product; `"side_by_side"`, N products; `"wide"`, for a shared input, one product with
    all kernels side by side, `(in, N*out)`.
    """
    num_members, _, units = kernel.shape
    lead = ops.shape(x)[:-1] if shared_input else ops.shape(x)[1:-1]
    if len(lead) > 1:
        x = ops.reshape(x, (-1, x.shape[-1]) if shared_input else (num_members, -1, x.shape[-1]))
    x = _MATMULS[lowering](x, kernel)  # (N, rows, out)
    return ops.reshape(x, (num_members, *lead, units)) if len(lead) > 1 else x


def _side_by_side(x, kernel):
    """(N, rows, in) or shared (rows, in), times (N, in, out): (N, rows, out)"""
    kernels = ops.unstack(kernel, kernel.shape[0])
    parts = [x] * len(kernels) if len(x.shape) == 2 else ops.unstack(x, len(kernels))
    return ops.stack([ops.matmul(*pair) for pair in zip(parts, kernels)])


def _wide(x, kernel):
    """shared (rows, in) times (N, in, out): (N, rows, out)"""
    num_members, size, units = kernel.shape
    x = ops.matmul(x, ops.reshape(ops.swapaxes(kernel, 0, 1), (size, num_members * units)))
    return ops.swapaxes(ops.reshape(x, (-1, num_members, units)), 0, 1)


_MATMULS = dict(zip(PRODUCTS, (batched_matmul, _side_by_side, _wide)))


def members_equation(equation, shared_input):
    """`ab,bc->ac` with a member axis: `nab,nbc->nac`, or `ab,nbc->nac` for a shared input."""
    inputs, output = equation.replace(" ", "").split("->")
    x, kernel = inputs.split(",")
    n = next(letter for letter in "nmNMABCDEFGHIJKL" if letter not in equation)
    return f"{'' if shared_input else n}{x},{n}{kernel}->{n}{output}"


def align(weight, rank):
    """(N, ...) -> (N, 1, ..., 1, ...) of the given rank, so that members meet members and the rest is right-aligned."""
    return ops.reshape(weight, (weight.shape[0], *(1,) * (rank - len(weight.shape)), *weight.shape[1:]))


def add_aligned(x, weight):
    """(N, B, ..., C) + (N, ..., C).

    Not with `keras.ops.add`: on TensorFlow it takes an `(N, 1, 1)` for a vector of biases, and adds it along the rows
    where B == N.
    """
    return x + align(weight, len(x.shape))
