"""Attention with a member axis. N members, B rows, T and S steps, H heads, D numbers a head."""

import functools
import math

import keras
from keras import ops

from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.dense import add_aligned, members_matmul
from keras_multiweight.layers.lowerings import MOST_AXES_OF_SOFTMAX
from keras_multiweight.layers.plumbing import PACKAGE, fold, fold_all


class _MultiAttention(MultiLayer):
    """N attention layers as one.

    Args:
        num_heads, ...: As for the Keras layer of the same name.
        num_members, member_axis, shared_input: As for `MultiDense`.

    Input shape:
        `query` `(B, N, T, dim)`, `value` and `key` `(B, N, S, dim)`; without N where `shared_input=True`. Masks and
        `attention_mask` have the member axis where the other inputs have it.

    Output shape:
        `(B, N, T, dim)`; with `return_attention_scores=True` also `(B, N, heads, T, S)`.

    Example:

    ```python
    layer = kmw.layers.MultiMultiHeadAttention(num_heads=2, key_dim=8, num_members=4)
    x = np.zeros((32, 4, 10, 16), "float32")
    layer(x, x).shape  # (32, 4, 10, 16)
    ```
    """

    lowering_names = ("vectorized", "unrolled")

    def call(
        self,
        query,
        value,
        key=None,
        query_mask=None,
        value_mask=None,
        key_mask=None,
        attention_mask=None,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
    ):
        draws = training and self.dropout
        own = self.choose(query, training) == "batched" and not draws and not return_attention_scores
        return self.run(
            self._batched if own else self.map_members,
            query,
            value,
            key=key,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            attention_mask=attention_mask,
            return_attention_scores=return_attention_scores,
            training=training,
            use_causal_mask=use_causal_mask,
        )


class _MultiHeads(_MultiAttention):
    __doc__ = _MultiAttention.__doc__
    lowering_names = ("batched", "vectorized", "unrolled")

    def lowerings(self):
        config = self.member_config()
        plain = config["attention_axes"] in (None, (1,), [1]) and not config["sliding_window"] and not config["use_gate"]
        return self.lowering_names if plain else self.lowering_names[1:]

    def must_unroll(self, query, *args, **kwargs):
        """Also where a map would give the scores more axes than a softmax takes, which Keras computes over one axis only."""
        axes = self.member_config()["attention_axes"]
        is_softmax = isinstance(axes, int) or len(axes or ()) == 1
        of_scores = len(query.shape) + 1 + self.shared_input
        return super().must_unroll(query, *args, **kwargs) or (is_softmax and of_scores > MOST_AXES_OF_SOFTMAX)

    def work(self, shape):
        *_, rows, steps, size = (None, *shape)
        return {"kind": "attention", "members": self.num_members, "rows": rows, "steps": steps, "in": size}

    def _batched(self, query, value, key=None, attention_mask=None, use_causal_mask=False, training=None, **options):
        """The projections are products with the members first; between them members are more rows."""
        masks = {name: mask for name, mask in options.items() if name.endswith("_mask") and mask is not None}
        arguments = {"query": query, "key": value if key is None else key, "value": value}
        query, key, value = (self._heads(name, x) for name, x in arguments.items())  # (N*B, T or S, H, D)
        mask = self._joined_mask(query, key, masks, attention_mask, use_causal_mask)
        x = self._attended(query, key, value, mask, use_causal_mask)  # (N*B, T, H, D)
        x = ops.reshape(x, (self.num_members, -1, ops.shape(x)[1], x.shape[2] * x.shape[3]))
        return self._projected("attention_output", x, False)

    def _heads(self, name, x):
        return fold(self._projected(name, x, self.shared_input))

    def _projected(self, name, x, shared):
        """(N, B, T, C), or shared (B, T, C), to (N, B, T, ...)"""
        kernel, bias = (self._cast(f"{name}_{kind}") for kind in ("kernel", "bias"))
        inner = x.shape[-1]
        after = kernel.shape[1:][-2:] if name != "attention_output" else kernel.shape[3:]
        x = members_matmul(x, ops.reshape(kernel, (self.num_members, inner, math.prod(after))), shared)
        x = ops.reshape(x, (*ops.shape(x)[:-1], *after))
        return x if bias is None else add_aligned(x, bias)

    def _cast(self, name):
        weight = getattr(self, name, None)
        return None if weight is None else ops.cast(weight, self.compute_dtype)

    def _joined_mask(self, query, key, masks, attention_mask, causal):
        """All masks as one, (N*B, T, S) or (1, T, S); None where there is none, and the causal one is not alone."""
        rows = {name: self._rows_of(mask) for name, mask in masks.items()}
        found = [ops.expand_dims(mask, -1 if name == "query_mask" else -2) for name, mask in rows.items()]
        found += [] if attention_mask is None else [self._rows_of(attention_mask)]
        found = [ops.cast(mask, "bool") for mask in found]
        if causal and (found or self.dropout):
            steps, sources = ops.arange(ops.shape(query)[1]), ops.arange(ops.shape(key)[1])
            found.append(ops.expand_dims(ops.expand_dims(steps, -1) >= sources, 0))
        return functools.reduce(ops.logical_and, found) if found else None

    def _rows_of(self, mask):
        return fold_all(mask, self.num_members, self.shared_input)

    def _attended(self, query, key, value, mask, causal):
        """As Keras's layer computes for one member, whose choice depends on the dropout in prediction too."""
        if mask is not None and len(mask.shape) == 3:
            mask = ops.expand_dims(mask, 1)  # (N*B, 1, T, S)
        scale = 1.0 / math.sqrt(float(self.key_dim))
        if not self.dropout:
            flash = keras.config.is_flash_attention_enabled()
            is_causal = causal and mask is None
            return ops.dot_product_attention(
                query, key, value, mask=mask, scale=scale, is_causal=is_causal, flash_attention=flash
            )
        scores = ops.einsum("bshd,bthd->bhts", key, ops.multiply(query, ops.cast(scale, query.dtype)))
        scores = keras.layers.Softmax(dtype=self.dtype_policy)(scores, mask=mask)
        return ops.einsum("bhts,bshd->bthd", scores, value)


def _public(base, name):
    """A public layer for one Keras class, by its name in `keras.layers`, which may differ from that of the class."""
    doc = base.__doc__.replace("attention layers", f"`keras.layers.{name}` layers", 1)
    body = {"member_class": getattr(keras.layers, name), "__doc__": doc, "__module__": __name__}
    return keras.saving.register_keras_serializable(PACKAGE)(type(f"Multi{name}", (base,), body))


MultiMultiHeadAttention = _public(_MultiHeads, "MultiHeadAttention")
MultiGroupQueryAttention = _public(_MultiAttention, "GroupQueryAttention")
