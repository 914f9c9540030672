"""The one place for code of a single backend: where Keras's own route is several times slower."""

import contextlib
import contextvars
import functools
import math

import keras
import numpy as np
from keras import ops

from keras_multiweight.layers.windows import windows


def batched_matmul(x, kernel):
    """(N, B, in) or shared (B, in), times (N, in, out): (N, B, out).

    On torch `keras.ops.matmul` takes several times as long as a small product itself; the bits are the same. JAX joins the
    members of a shared input to one product, which XLA on a CPU computes in another order than that of one member alone:
    N products side by side give each member the bits that it has alone, in 0.6 to 1.4 times the time.
    """
    if keras.backend.backend() == "torch" and x.dtype == kernel.dtype and _multiplies_in(x.dtype):
        import torch

        return torch.bmm(x.expand(kernel.shape[0], *x.shape[-2:]), kernel)
    if len(x.shape) == 2 and _is_jax_on_cpu():
        return _jax_side_by_side()(x, kernel)
    return ops.matmul(x, kernel)


_gradients_in_order = contextvars.ContextVar("gradients_in_order", default=False)


@contextlib.contextmanager
def gradients_in_order(wanted):
    """Where `wanted`, gradients are laid out member after member, which takes time. XLA leaves them as they came to be, and
    sums of what it reads in another order, squares for a norm, are rounded otherwise than those of a member alone.
    """
    token = _gradients_in_order.set(wanted)
    try:
        yield
    finally:
        _gradients_in_order.reset(token)


@functools.cache
def _jax_side_by_side():
    """Products of a shared input, side by side. The gradient of their kernels, `x.T` times all members' at once, is summed
    in the order of a single member's, in 0.2 to 1.2 times the time of N products.
    """
    import jax
    from jax.custom_derivatives import SymbolicZero

    @jax.custom_jvp
    def product(x, kernel):
        return ops.matmul(ops.broadcast_to(x, (len(kernel), *x.shape)), kernel)

    def joined(x, kernel):  # what is derived from it backward is summed in this order, it itself is not
        n, inputs, outputs = kernel.shape

        def turned(flat):
            return ops.reshape(ops.transpose(ops.reshape(flat, kernel.shape), (1, 0, 2)), (inputs, n * outputs))

        turn = turned
        if _gradients_in_order.get():  # what a branch gives is laid out as it says
            turn = functools.partial(jax.lax.cond, x[0, 0] == x[0, 0], turned, turned)
        kernel = turn(ops.reshape(kernel, (-1,)))
        return ops.transpose(ops.reshape(ops.matmul(x, kernel), (-1, n, outputs)), (1, 0, 2))

    def rule(primals, tangents):
        (x, kernel), (dx, dkernel) = primals, tangents
        terms = (product, dx, kernel), (joined, x, dkernel)
        known = [f(*given) for f, *given in terms if not any(isinstance(a, SymbolicZero) for a in given)]
        return product(x, kernel), sum(known)

    product.defjvp(rule, symbolic_zeros=True)
    return product


def _multiplies_in(dtype):
    """Whether Keras multiplies numbers of a dtype in this dtype: float64 it makes float32 on torch."""
    name = keras.backend.standardize_dtype(dtype)
    return keras.backend.result_type(name) == name


def writes_over_shared(training):
    """Whether Keras writes numbers of each member over numbers that all share, which torch's map refuses: in training its
    batch normalisation on torch does, over the inputs less their mean. (Else the mean is each member's own.)
    """
    return bool(training) and keras.backend.backend() == "torch"


MOST_SIDE_BY_SIDE = 64  # members, or programs take long to compile
MOST_AXES_OF_SOFTMAX = 5  # TensorFlow's refuses more where oneDNN is on, by default on recent Intel and AMD CPUs


def convolutions(rank, num_members, strides, dilation_rate, dtype="float32"):
    """The lowerings of a convolution of each member's own channels, the usual one first.

    Args:
        rank: 1, 2 or 3, the number of axes that the kernel moves along.
        strides, dilation_rate: Tuples of ints.
        dtype: That of the numbers.

    Returns:
        Some of `"grouped"`, one convolution in groups; `"side_by_side"`, N convolutions; `"patches"`, a batched product of
        patches of the input. On TensorFlow `keras.ops.conv` compiles every grouped convolution with XLA, which is about five
        times slower on CPU than TensorFlow's own grouped kernel (which exists where oneDNN is on, by default on recent Intel
        and AMD CPUs). XLA's grouped convolution is as slow on JAX.
    """
    if _has_native_groups(rank, strides, dilation_rate, dtype) or not _compiles_slow_groups():
        usual = ("grouped", "side_by_side")
    else:
        usual = ("side_by_side", "grouped")
    return (*usual, "patches") if rank == 2 else usual


def grouped_conv(x, kernel, groups, strides, padding, dilation_rate):
    """A convolution `(B, ..., C) -> (B, ..., F)` in groups; the kernel is `(..., C / groups, F)`."""
    if groups > 1 and _has_native_groups(len(x.shape) - 2, strides, dilation_rate, x.dtype):
        return _tensorflow_conv(x, kernel, strides, padding)
    return ops.conv(
        x,
        kernel,
        strides=list(strides),
        padding=padding,
        data_format="channels_last",
        dilation_rate=dilation_rate,
    )


MOST_TAPS = 64  # of a depthwise kernel that is written out: more take seconds to compile


def depthwise_conv(x, kernel, strides, padding, dilation_rate):
    """A depthwise convolution `(B, ..., C) -> (B, ..., C*M)` by `(..., C, M)`.

    XLA on a CPU takes 3 to 60 times as long for it as for a sum, over the places of the kernel, of shifted inputs times a
    number a channel, which it computes in one pass; backward 5 to 600 times.
    """
    if _is_jax_on_cpu() and math.prod(kernel.shape[:-2]) <= MOST_TAPS and x.dtype in ("float32", "float64"):
        return _shifted(x, kernel, strides, padding, dilation_rate)
    return ops.depthwise_conv(
        x, kernel, strides=strides, padding=padding, data_format="channels_last", dilation_rate=dilation_rate
    )


def _shifted(x, kernel, *moves):
    *taps, channels, multiplier = kernel.shape
    seen = windows(x, taps, *moves)
    flat = ops.reshape(kernel, (-1, channels, multiplier))
    y = functools.reduce(ops.add, (part[..., None] * flat[place] for place, part in enumerate(seen)))
    return ops.reshape(y, (*y.shape[:-2], channels * multiplier))


MOST_WINDOWS = 16  # places of a pooling window that are compared one by one


def pools_by_windows(places):
    """Whether to predict the maximum over so many places of a window as that of slices: on a CPU torch takes 3 to 20 times
    as long by its own. TensorFlow does not, and XLA computes the slices of many rows in 1.2 to 1.4 times the time.
    """
    return places <= MOST_WINDOWS and keras.backend.backend() == "torch" and on_cpu()


def on_cpu():
    """Whether the backend computes on a CPU."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.default_backend() == "cpu"
    if backend == "tensorflow":
        import tensorflow as tf

        return not tf.config.list_physical_devices("GPU")
    return "cpu" in str(ops.zeros(()).device)


@functools.cache
def keep_freed_memory():
    """Have the C library keep up to 64 MB of what torch frees for what it asks for next.

    Torch takes fresh memory for each result. glibc gives freed memory back to the system, which maps and clears it anew at
    the next call, where it is more than twice the largest block that was freed before (mallopt(3), M_MMAP_THRESHOLD; blocks
    of up to 32 MB count). So it is enough to free one large block, which is never written to and takes no memory.
    """
    if keras.backend.backend() == "torch":
        np.empty(31 * 2**20, "uint8")


@functools.cache
def device_kind():
    """What the table of costs calls the device that the backend computes on."""
    return "cpu" if on_cpu() else "gpu"


@functools.cache
def _is_jax_on_cpu():
    return keras.backend.backend() == "jax" and on_cpu()


@functools.cache
def _compiles_slow_groups():
    """Whether grouped convolutions go through XLA on a CPU."""
    return keras.backend.backend() in ("jax", "tensorflow") and on_cpu()


def _has_native_groups(rank, strides, dilation_rate, dtype):
    fits = rank <= 2 and len(set(strides)) == 1 and set(dilation_rate) == {1}
    if not fits or keras.backend.backend() != "tensorflow":
        return False
    return _tensorflow_knows_groups(keras.backend.standardize_dtype(dtype))


@functools.cache
def _tensorflow_knows_groups(dtype):
    """Whether TensorFlow's convolution takes groups, forward, backward and fused with a bias: on CPUs only with oneDNN,
    which has no float64.
    """
    import tensorflow as tf

    with tf.init_scope():
        x, kernel = tf.ones((1, 2, 2, 2), dtype), tf.ones((1, 1, 1, 2), dtype)
        try:
            tf.raw_ops.Conv2DBackpropFilter(
                input=x, filter_sizes=kernel.shape, out_backprop=x, strides=[1, 1, 1, 1], padding="VALID"
            )
        except tf.errors.OpError:
            return False
        return True


def _tensorflow_conv(x, kernel, strides, padding):
    import tensorflow as tf

    if len(x.shape) == 4:
        return tf.nn.conv2d(x, kernel, strides[0], padding.upper())
    x = tf.nn.conv2d(x[:, None], kernel[None], [1, 1, strides[0], 1], padding.upper())  # (B, 1, T, F)
    return x[:, 0]
