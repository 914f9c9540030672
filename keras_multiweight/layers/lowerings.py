"""The one place for code of a single backend: where Keras's own route is several times slower."""

import os

import keras
from keras import ops


def grouped_conv(x, kernel, parts, groups, strides, padding, dilation_rate):
    """A convolution `(B, ..., C) -> (B, ..., F)` in `parts` independent ones of `groups` groups each.

    The kernel is `(..., C / parts / groups, F)`. On TensorFlow `keras.ops.conv` compiles every grouped convolution with
    XLA, which is about five times slower on CPU than TensorFlow's own grouped kernel (oneDNN). On JAX the same holds for
    XLA's grouped convolution, and plain convolutions side by side are two to five times faster.
    """
    if parts > 1 and _is_jax_on_cpu():
        pairs = zip(ops.split(x, parts, axis=-1), ops.split(kernel, parts, axis=-1))
        convolved = [grouped_conv(*pair, 1, groups, strides, padding, dilation_rate) for pair in pairs]
        return ops.concatenate(convolved, axis=-1)
    if parts * groups > 1 and _has_native_grouped_conv(len(x.shape) - 2, strides, dilation_rate):
        return _tensorflow_conv(x, kernel, strides, padding)
    return ops.conv(
        x,
        kernel,
        strides=list(strides),
        padding=padding,
        data_format="channels_last",
        dilation_rate=dilation_rate,
    )


def _is_jax_on_cpu():
    if keras.backend.backend() != "jax":
        return False
    import jax

    return jax.default_backend() == "cpu"


def _has_native_grouped_conv(rank, strides, dilation_rate):
    return (
        keras.backend.backend() == "tensorflow"
        and rank <= 2
        and len(set(strides)) == 1
        and set(dilation_rate) == {1}
        and os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0"
    )


def _tensorflow_conv(x, kernel, strides, padding):
    import tensorflow as tf

    if len(x.shape) == 4:
        return tf.nn.conv2d(x, kernel, strides[0], padding.upper())
    x = tf.nn.conv2d(x[:, None], kernel[None], [1, 1, strides[0], 1], padding.upper())  # (B, 1, T, F)
    return x[:, 0]
