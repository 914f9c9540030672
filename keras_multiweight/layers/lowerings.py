"""The one place for code of a single backend: where Keras's own route is several times slower."""

import functools

import keras
from keras import ops


def grouped_conv(x, kernel, parts, groups, strides, padding, dilation_rate):
    """A convolution `(B, ..., C) -> (B, ..., F)` in `parts` independent ones of `groups` groups each.

    The kernel is `(..., C / parts / groups, F)`. On TensorFlow `keras.ops.conv` compiles every grouped convolution with
    XLA, which is about five times slower on CPU than TensorFlow's own grouped kernel (oneDNN), where that is there, or
    than plain convolutions side by side. On JAX the same holds for XLA's grouped convolution.
    """
    if parts * groups > 1 and _has_native_grouped_conv(len(x.shape) - 2, strides, dilation_rate):
        return _tensorflow_conv(x, kernel, strides, padding)
    options = {"strides": list(strides), "padding": padding, "data_format": "channels_last", "dilation_rate": dilation_rate}
    if parts > 1 and _is_on_cpu_with_xla():
        pairs = zip(ops.split(x, parts, axis=-1), ops.split(kernel, parts, axis=-1))
        return ops.concatenate([ops.conv(*pair, **options) for pair in pairs], axis=-1)
    return ops.conv(x, kernel, **options)


def _is_on_cpu_with_xla():
    """Whether grouped convolutions would go to XLA's CPU compiler."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "cpu"
    return keras.backend.backend() == "tensorflow" and not _on_gpu()


def _on_gpu():
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))


def _has_native_grouped_conv(rank, strides, dilation_rate):
    plain = rank <= 2 and len(set(strides)) == 1 and set(dilation_rate) == {1}
    return keras.backend.backend() == "tensorflow" and plain and _tensorflow_takes_groups()


@functools.cache
def _tensorflow_takes_groups():
    """oneDNN's kernel does, but TensorFlow uses oneDNN on some processors only: try, with the gradient."""
    import tensorflow as tf

    shape = (1, 3, 3, 4)
    with tf.init_scope():  # which records no tape: the gradient by its own name
        kernel, gradient = tf.zeros((1, 1, 2, 4)), tf.zeros(shape)
        try:
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=shape, filter=kernel, out_backprop=gradient, strides=[1, 1, 1, 1], padding="VALID"
            )
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            return False
    return True


def _tensorflow_conv(x, kernel, strides, padding):
    import tensorflow as tf

    if len(x.shape) == 4:
        return tf.nn.conv2d(x, kernel, strides[0], padding.upper())
    x = tf.nn.conv2d(x[:, None], kernel[None], [1, 1, strides[0], 1], padding.upper())  # (B, 1, T, F)
    return x[:, 0]
