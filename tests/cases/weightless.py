"""Layers without weights."""

import keras
from keras import layers as k

from cases.building import case, conv, dense, minus_batch_mean, of, stack_of, variants

variants(
    "activation_layers",
    (6,),
    k.ReLU,
    k.ELU,
    k.LeakyReLU,
    k.Softmax,
    k.Identity,
    of(k.Activation, minus_batch_mean),
    of(k.ReLU, max_value=1.0, negative_slope=0.1, threshold=0.2),
    of(k.ActivityRegularization, l2=0.1),
    first=dense(6),
)
variants(
    "activation_layers_among_convolutions",
    (5, 5, 2),
    k.ReLU,
    k.ELU,
    k.LeakyReLU,
    k.Identity,
    of(k.Softmax, axis=[1, 2]),
    k.Softmax,
    of(k.Softmax, axis=1),
    *(of(k.Activation, name) for name in ("relu", "softmax", "log_softmax", "swish", "sparsemax")),
    first=conv(3),
)
variants(
    "dropouts",
    (5, 6),
    of(k.Dropout, 0.3),
    of(k.GaussianDropout, 0.3),
    of(k.AlphaDropout, 0.3),
    of(k.GaussianNoise, 0.3),
    of(k.Dropout, 0.3, noise_shape=(None, 1, 6)),
    of(k.Dropout, 0.3, noise_shape=(1, 5, 6)),
    of(k.SpatialDropout1D, 0.3),
    first=dense(6),
)
stack_of(
    "spatial_dropouts",
    (5, 5, 2),
    conv(),
    of(k.SpatialDropout2D, 0.3),
    of(k.Reshape, (3, 3, 2, 2)),
    of(k.SpatialDropout3D, 0.3),
)

for rank, shape in ((1, (8, 2)), (2, (8, 7, 2)), (3, (6, 5, 4, 2))):
    pooling, global_pooling, adaptive, padding = (
        [getattr(k, f"{name}{rank}D") for name in names]
        for names in (
            ("AveragePooling", "MaxPooling"),
            ("GlobalAveragePooling", "GlobalMaxPooling"),
            ("AdaptiveAveragePooling", "AdaptiveMaxPooling"),
            ("ZeroPadding", "Cropping", "UpSampling"),
        )
    )
    convolution = getattr(k, f"Conv{rank}D")
    variants(
        f"pooling_{rank}d",
        shape,
        *(of(cls, 2) for cls in (*pooling, *adaptive)),
        *global_pooling,
        *(of(cls, 3, strides=2, padding="same") for cls in pooling),
        *(of(cls, keepdims=True) for cls in global_pooling),
        first=of(convolution, 3, 2, padding="same"),
    )
    variants(
        f"padding_{rank}d",
        shape,
        *padding,
        of(padding[0], ((1, 2),) * rank if rank > 1 else (1, 2)),
        *([of(padding[2], 2, interpolation="bilinear")] if rank == 2 else []),
        first=of(convolution, 3, 2, padding="same"),
    )

variants(
    "layers_without_weights_channels_first",
    (3, 6, 4),
    of(k.GlobalAveragePooling2D, data_format="channels_first"),
    of(k.GlobalMaxPooling2D, data_format="channels_first"),
    of(k.UpSampling2D, 2, data_format="channels_first"),
    of(k.ZeroPadding2D, 1, data_format="channels_first"),
    of(k.Cropping2D, 1, data_format="channels_first"),
    of(k.Flatten, data_format="channels_first"),
    first=of(k.Dense, 4),
)
variants(
    "reshaping", (4, 6), of(k.Reshape, (2, 2, 6)), of(k.Reshape, (-1, 3)), of(k.Permute, (2, 1)), k.Flatten, first=dense(6)
)
stack_of("repeat_vector", (4,), dense(), of(k.RepeatVector, 3), of(k.LSTM, 3))


@case
def merges():
    a, b = keras.Input((5,)), keras.Input((5,))
    x, y = k.Dense(5)(a), k.Dense(5)(b)
    merged = [cls()([x, y]) for cls in (k.Add, k.Subtract, k.Multiply, k.Average, k.Maximum, k.Minimum)]
    mixed = [k.Add()([x, b]), k.Dot(axes=1)([x, b]), k.Dot(axes=1, normalize=True)([x, y]), k.Concatenate()([a, x, y])]
    return keras.Model([a, b], [*merged, *mixed])


@case
def merges_along_axes():
    a, b = keras.Input((3, 4)), keras.Input((3, 4))
    x = k.Dense(4)(a)
    outputs = [k.Concatenate(axis=1)([x, b]), k.Dot(axes=(2, 2))([x, b]), k.Dot(axes=(1, 1))([x, x]), k.Add()([x, b, x])]
    return keras.Model([a, b], outputs)


@case
def layers_along_the_rows():
    inputs = keras.Input((5,))
    x = k.Dense(5)(inputs)
    return keras.Model(inputs, [k.Softmax(axis=0)(x), k.UnitNormalization(axis=-2)(x)])


@case
def masked_softmax():
    inputs, mask = keras.Input((5,)), keras.Input((5,), dtype="bool")
    return keras.Model([inputs, mask], [k.Softmax()(x, mask=mask) for x in (inputs, k.Dense(5)(inputs))])


@case
def residual_convolutions():
    inputs = keras.Input((8, 8, 3))
    x = k.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    y = k.ReLU()(k.BatchNormalization()(x))
    y = k.Conv2D(4, 3, padding="same")(y)
    gate = k.Dense(4, activation="sigmoid")(k.GlobalAveragePooling2D(keepdims=True)(y))
    x = k.Add()([x, k.Multiply()([y, gate])])
    x = k.Concatenate()([x, y, inputs])
    return keras.Model(inputs, k.Dense(3)(k.GlobalMaxPooling2D()(x)))
