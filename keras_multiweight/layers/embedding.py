"""MultiEmbedding: N tables as one. N members, B rows, V words."""

import keras
from keras import ops

from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.dense import align, members_matmul
from keras_multiweight.layers.plumbing import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class MultiEmbedding(MultiLayer):
    """N embedding tables as one.

    The tables are one variable `(N * V, dim)` and the ids of member n are moved by `n * V`: the gradient on TensorFlow
    is then the same list of rows that each member alone would hand to its optimizer.

    Args:
        input_dim, output_dim, ...: As for `keras.layers.Embedding`.
        num_members, member_axis, shared_input: As for `MultiDense`.

    Input shape:
        Integers `(B, N, ...)`, or `(B, ...)` with `shared_input=True`.

    Output shape:
        `(B, N, ..., output_dim)`.

    Example:

    ```python
    layer = kmw.layers.MultiEmbedding(1000, 16, num_members=8, shared_input=True)
    layer(np.zeros((32, 10), "int32")).shape  # (32, 8, 10, 16)
    ```
    """

    member_class = keras.layers.Embedding
    flat_weights = ("embeddings",)

    def call(self, inputs):
        return self.run(self._lookup, inputs)

    def _lookup(self, ids):
        ids = ids if keras.backend.standardize_dtype(ids.dtype) in ("int32", "int64") else ops.cast(ids, "int32")
        ids = ops.expand_dims(ids, 0) if self.shared_input else ids  # (N or 1, B, ...)
        tables = align(ops.arange(self.num_members, dtype=ids.dtype), len(ids.shape)) * self.input_dim
        ids = ops.where(ids < 0, ids + self.input_dim, ids)  # from the end
        # An id outside a member's own table must not read its neighbour's: it goes where a table alone sends it.
        outside = ops.logical_or(ids < 0, ids >= self.input_dim)
        ids = ops.where(outside, self.num_members * self.input_dim, ids + tables)
        return ops.cast(ops.take(self.embeddings, ids, axis=0), self.compute_dtype)


@keras.saving.register_keras_serializable(PACKAGE)
class MultiReversibleEmbedding(MultiEmbedding):
    """N `keras.layers.ReversibleEmbedding` layers as one: ids to vectors, and with `reverse=True` vectors to logits.

    Args:
        input_dim, output_dim, tie_weights, ...: As for `keras.layers.ReversibleEmbedding`.
        num_members, member_axis, shared_input: As for `MultiDense`.

    Input shape:
        Integers `(B, N, ...)`, or `(B, ...)` with `shared_input=True`; with `reverse=True` numbers `(..., output_dim)`.

    Output shape:
        `(B, N, ..., output_dim)`; with `reverse=True` `(B, N, ..., input_dim)`.

    Example:

    ```python
    layer = kmw.layers.MultiReversibleEmbedding(1000, 16, num_members=8)
    x = layer(np.zeros((32, 8, 10), "int32"))  # (32, 8, 10, 16)
    layer(x, reverse=True).shape  # (32, 8, 10, 1000)
    ```
    """

    member_class = keras.layers.ReversibleEmbedding

    def call(self, inputs, reverse=False):
        return self.run(self._logits if reverse else self._lookup, inputs)

    def _logits(self, x):
        dtype = self.reverse_dtype or self.compute_dtype
        x = members_matmul(ops.cast(x, dtype), ops.cast(self._output_kernel(), dtype), self.shared_input)
        cap = self.logit_soft_cap
        return x if cap is None else ops.tanh(x / cap) * cap

    def _output_kernel(self):
        """(N, output_dim, input_dim), in the dtype that Keras casts the weights to"""
        if self.tie_weights:
            table = ops.reshape(self.embeddings, (self.num_members, self.input_dim, self.output_dim))
            return ops.cast(ops.swapaxes(table, 1, 2), self.compute_dtype)
        return ops.cast(self.reverse_embeddings, self.compute_dtype)

    def compute_mask(self, inputs, previous_mask=None):
        """Of ids alone: Keras's layer puts its mask on the vectors within `call`, and its `compute_mask` gives None."""
        if not self.mask_zero or "float" in keras.backend.standardize_dtype(inputs.dtype):
            return None
        mask = ops.not_equal(inputs, 0)
        return self._spread_mask(mask) if self.shared_input else mask
