"""Normalisation."""

import keras
from keras import layers as k

from cases.building import BACKEND, case, conv, dense, of, stack_of, variants

variants(
    "batch_normalization",
    (4, 3),
    of(k.BatchNormalization),
    of(k.BatchNormalization, axis=1),
    of(k.BatchNormalization, center=False, scale=False),
    of(k.BatchNormalization, renorm=True, momentum=0.9),
    first=dense(3),
)
stack_of("batch_normalization_among_convolutions", (9, 8, 3), conv(), of(k.BatchNormalization), k.ReLU, conv())
variants(
    "layer_normalization",
    (4, 5),
    of(k.LayerNormalization),
    of(k.LayerNormalization, axis=[1, 2]),
    of(k.LayerNormalization, center=False, scale=False),
    of(k.LayerNormalization, center=False, epsilon=0.1),
    first=dense(),
)
variants("rms_normalization", (4, 5), of(k.RMSNormalization), of(k.RMSNormalization, epsilon=0.1), first=dense())
if BACKEND != "torch":  # where Keras's own layers fail on an inner axis
    variants("normalization_of_an_inner_axis", (4, 5), of(k.LayerNormalization, axis=1), first=dense())
variants(
    "group_normalization",
    (4, 6),
    of(k.GroupNormalization, 2),
    of(k.GroupNormalization, -1, axis=1),
    of(k.GroupNormalization, 3, center=False),
    of(k.GroupNormalization, 6, center=False, scale=False),
    first=dense(6),
)
variants(
    "group_normalization_of_images",
    (5, 4, 4),
    of(k.GroupNormalization, 2),
    of(k.GroupNormalization, -1, axis=2),
    of(k.PReLU),
    of(k.PReLU, shared_axes=[1, 2]),
    first=conv(4, 2),
)
variants("unit_normalization", (4, 6), of(k.UnitNormalization), of(k.UnitNormalization, axis=[1, 2]), first=dense(6))
stack_of(
    "spectral_normalization",
    (6, 5, 2),
    of(lambda: k.SpectralNormalization(conv()(), power_iterations=2)),
    of(lambda: k.SpectralNormalization(k.Dense(4))),
)
variants("prelu", (4, 3), of(k.PReLU), of(k.PReLU, shared_axes=[1]), of(k.PReLU, shared_axes=[2]), first=dense(3))
variants(
    "fixed_normalization",
    (4, 3),
    of(k.Normalization, mean=1.0, variance=2.0),
    of(k.Normalization, mean=[1.0, 2, 3], variance=[3.0, 2, 1], invert=True),
    first=dense(3),
)


@keras.saving.register_keras_serializable("tests")
class Standardized(k.Layer):
    """A custom layer around an adapted one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = k.Normalization()

    def build(self, input_shape):
        self.inner.build(input_shape)

    def call(self, x):
        return self.inner(x) * 2.0


@case
def adapted_normalization():
    """Normalization computes with constants that it makes of its weights: each member has its own."""
    inputs = keras.Input((4, 3))
    x = k.Dense(3)(k.Normalization(axis=(1, 2))(inputs))
    outputs = [k.Normalization(axis=None, invert=True)(x), k.Normalization(axis=1)(x), Standardized()(x)]
    return keras.Model(inputs, outputs)


@case
def masked_batch_normalization():
    inputs = keras.Input((6,), dtype="int32")
    x = k.Embedding(5, 4, mask_zero=True)(inputs)
    return keras.Model(inputs, k.GRU(3)(k.BatchNormalization()(x)))
