"""The one place of bagging for code of a single backend."""

import keras


def is_tf_dataset(data):
    """Whether data is a `tf.data.Dataset`, without importing TensorFlow where it is not in use."""
    return any(cls.__module__.startswith("tensorflow.python.data.ops") for cls in type(data).__mro__)


def weighted_tf_dataset(dataset, batch_weights):
    """A `tf.data.Dataset` of the same batches with sample weights `(B, N)`, times those that they had."""
    import tensorflow as tf

    num_members = batch_weights(0, 1).shape[1]

    def add(number, batch):
        x, y, given = keras.utils.unpack_x_y_sample_weight(batch)
        rows = tf.nest.flatten(x)[0]
        weights = tf.numpy_function(batch_weights, [number, tf.shape(rows)[0]], tf.float32)
        weights.set_shape((rows.shape[0], num_members))
        if given is not None:
            weights *= tf.cast(given[:, None] if len(given.shape) == 1 else given, weights.dtype)
        return x, y, weights

    return dataset.enumerate().map(add)
