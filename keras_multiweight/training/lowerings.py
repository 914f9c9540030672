"""The one place of training for code of a single backend."""

import contextlib

import keras
from keras import ops

# ---- sparse gradients of TensorFlow ----


def is_sparse(gradient):
    """Whether a gradient is TensorFlow's rows with numbers, `IndexedSlices`."""
    return type(gradient).__name__ == "IndexedSlices"


def sparse_parts(gradient, rows, num_members):
    """Rows `(N, K, ...)` and their numbers `(N, K)` in each member's own table, from those of the table of all.

    The rows of one member keep their order. Every member has as many, because all read with one set of calls.
    """
    members = ops.floor_divide(gradient.indices, rows)
    order = ops.argsort(members, axis=0)  # stable
    ids = ops.reshape(ops.take(gradient.indices, order, axis=0), (num_members, -1))
    values = ops.take(gradient.values, order, axis=0)
    values = ops.reshape(values, (num_members, -1, *gradient.values.shape[1:]))
    return values, ids - ops.expand_dims(ops.arange(num_members, dtype=ids.dtype), 1) * rows


def sparse(values, ids, shape):
    """One member's sparse gradient."""
    import tensorflow as tf

    return tf.IndexedSlices(values, ids, tf.constant(shape))


def sparse_stack(values, ids, shape):
    """The sparse gradient of the table of all members, from rows `(N, K, ...)` with numbers in each member's own."""
    num_members = values.shape[0]
    offsets = ops.expand_dims(ops.arange(num_members, dtype=ids.dtype), 1) * (shape[0] // num_members)
    return sparse(ops.reshape(values, (-1, *values.shape[2:])), ops.reshape(ids + offsets, (-1,)), shape)


def dense_parts(values, ids, shape):
    """(N, K, ...) rows -> (N, *shape), equal rows added up."""
    import tensorflow as tf

    num_members = values.shape[0]
    stack = sparse_stack(values, ids, (num_members * shape[0], *shape[1:]))
    return ops.reshape(tf.convert_to_tensor(stack), (num_members, *shape))


# ---- optimizers without side effects ----


def keras_class(optimizer):
    """The optimizer class that a user named: on torch Keras makes objects of hidden subclasses of it."""
    return next(cls for cls in type(optimizer).__mro__ if not _is_backends(cls))


def stateless_class(cls):
    """An optimizer class that updates Keras variables by `assign` only, which a `keras.StatelessScope` catches.

    TensorFlow's and torch's own steps change arrays in place; here Keras's generic ones stand in for them. JAX's are
    without side effects as they are.
    """
    if keras.backend.backend() == "jax":
        return cls
    generic = next(base for base in reversed(cls.__mro__) if "update_step" in vars(base))
    own = {name for base in cls.__mro__ if _is_backends(base) and issubclass(base, generic) for name in vars(base)}
    changed = {name: getattr(generic, name) for name in own if not name.startswith("__") and hasattr(generic, name)}
    return type(cls.__name__, (cls,), {name: value for name, value in changed.items() if callable(value)})


def _is_backends(cls):
    return cls.__module__.startswith("keras.src.backend.")


def outside_of_graphs():
    """A scope in which variables are made at once, also while TensorFlow traces a graph."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.init_scope()


def is_eager():
    """Whether Python sees the numbers of a training step: torch runs it as it reads it."""
    return keras.backend.backend() == "torch"
