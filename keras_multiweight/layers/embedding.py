"""MultiEmbedding: N tables as one. N members, B rows, V words."""

import keras
from keras import ops

from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.dense import align
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
        return self.run(self._compute, inputs)

    def _compute(self, ids):
        ids = ids if keras.backend.standardize_dtype(ids.dtype) in ("int32", "int64") else ops.cast(ids, "int32")
        ids = ops.expand_dims(ids, 0) if self.shared_input else ids  # (N or 1, B, ...)
        tables = align(ops.arange(self.num_members, dtype=ids.dtype), len(ids.shape)) * self.input_dim
        # An id outside a member's own table must not read its neighbour's: it goes where a table alone sends it.
        outside = ops.logical_or(ids < 0, ids >= self.input_dim)
        ids = ops.where(outside, self.num_members * self.input_dim, ids + tables)
        return ops.cast(ops.take(self.embeddings, ids, axis=0), self.compute_dtype)
