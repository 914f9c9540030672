"""Attention."""

import keras
from keras import layers as k

from cases.building import BACKEND, case

VALUES = 3 if BACKEND == "jax" else 2  # Keras's own layer takes no other size than that of the keys on JAX


@case
def attention():
    a, b, mask = keras.Input((5, 4)), keras.Input((6, 4)), keras.Input((6,), dtype="bool")
    x, y = k.Dense(4)(a), k.Dense(4)(b)
    outputs = []
    for q, v in ((x, y), (a, b)):
        outputs += [
            k.Attention(use_scale=True, dropout=0.1)([q, v], mask=[None, mask]),
            *k.Attention(score_mode="concat")([q, v, v], return_attention_scores=True),
            k.Attention()([q, q], use_causal_mask=True),
            k.AdditiveAttention()([q, v]),
            k.AdditiveAttention(use_scale=False)([q, v], mask=[None, mask], use_causal_mask=True),
        ]
    return keras.Model([a, b, mask], outputs)


@case
def multi_head_attention():
    a, b, mask = keras.Input((5, 4)), keras.Input((6, 4)), keras.Input((5, 6), dtype="bool")
    x = k.Dense(4)(a)
    y, scores = k.MultiHeadAttention(2, 3, dropout=0.1)(x, b, return_attention_scores=True, attention_mask=mask)
    outputs = [
        k.MultiHeadAttention(2, 3, value_dim=VALUES, output_shape=7)(y, b, key=b, attention_mask=mask),
        k.MultiHeadAttention(2, 3, use_bias=False, flash_attention=False)(y, y, use_causal_mask=True),
        k.MultiHeadAttention(2, 3)(a, b, attention_mask=mask),
    ]
    return keras.Model([a, b, mask], [*outputs, scores])


@case
def attention_over_two_axes():
    inputs = keras.Input((2, 3, 4))
    layers = k.MultiHeadAttention(2, 3, attention_axes=(1, 2)), k.MultiHeadAttention(1, 2, attention_axes=2)
    return keras.Model(inputs, [layer(x, x) for layer in layers for x in (inputs, k.Dense(4)(inputs))])


@case
def group_query_attention():
    a, b, mask = keras.Input((5, 4)), keras.Input((6, 4)), keras.Input((5, 6), dtype="bool")
    x = k.Dense(4)(a)
    y, scores = k.GroupQueryAttention(4, 4, 2)(x, b, return_attention_scores=True, attention_mask=mask)
    causal = k.GroupQueryAttention(3, 2, 1, dropout=0.1, use_bias=False, flash_attention=False)(y, y, use_causal_mask=True)
    return keras.Model([a, b, mask], [causal, scores, k.GroupQueryAttention(4, 4, 4)(a, b, key=b)])


@case
def masked_attention():
    """Masks of queries, keys and values come with the tensors, from `mask_zero`; who reads one first takes it off."""
    a, b = keras.Input((5,), dtype="int32"), keras.Input((4,), dtype="int32")
    x, y = k.Embedding(11, 4, mask_zero=True)(a), k.Embedding(11, 4, mask_zero=True)(b)
    heads, groups = k.MultiHeadAttention(2, 3), k.GroupQueryAttention(2, 2, 1)
    outputs = [heads(x, y), groups(x, y), k.Attention()([x, y]), k.AdditiveAttention()([x, y])]
    z = heads(x, x)
    outputs += [k.MultiHeadAttention(1, 2)(z, k.ReLU()(z)), k.MultiHeadAttention(1, 2)(z, z)]
    return keras.Model([a, b], [*outputs, k.GlobalAveragePooling1D()(z)])


@case
def transformer_block():
    inputs = keras.Input((7,), dtype="int32")
    x = k.Embedding(11, 8, mask_zero=True)(inputs)
    y = k.MultiHeadAttention(2, 4, dropout=0.1)(x, x)
    x = k.LayerNormalization()(x + y)
    y = k.Dense(8)(k.Dense(16, activation="gelu")(x))
    return keras.Model(inputs, k.LayerNormalization()(k.Add()([x, y])))
