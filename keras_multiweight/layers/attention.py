"""Attention with a member axis. N members, B rows, T and S steps."""

import keras

from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.plumbing import PACKAGE


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
        return self.run(
            self.map_members,
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


def _public(name):
    """A public layer for one Keras class, by its name in `keras.layers`, which may differ from that of the class."""
    doc = _MultiAttention.__doc__.replace("attention layers", f"`keras.layers.{name}` layers", 1)
    body = {"member_class": getattr(keras.layers, name), "__doc__": doc, "__module__": __name__}
    cls = type(f"Multi{name}", (_MultiAttention,), body)
    return keras.saving.register_keras_serializable(PACKAGE)(cls)


MultiMultiHeadAttention = _public("MultiHeadAttention")
MultiGroupQueryAttention = _public("GroupQueryAttention")
