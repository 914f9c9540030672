"""Models to pack: at least one for every row of the table of rules, and some that combine them.

A case is a function that builds a fresh model; its name is the name of the case.
"""

import keras
from keras import layers as k
from keras import ops

from keras_multiweight.layers import SparseLinear

CASES = {}


@keras.saving.register_keras_serializable("tests")
def minus_batch_mean(x):
    """A custom activation that mixes the rows of a batch."""
    return x - ops.mean(x, axis=0)


def case(build):
    CASES[build.__name__] = build
    return build


def stack_of(name, shape, *makers, dtype="float32"):
    """A case of layers one after another, made anew for every member."""

    def build():
        inputs = x = keras.Input(shape, dtype=dtype)
        for make in makers:
            x = make()(x)
        return keras.Model(inputs, x)

    assert name not in CASES, name
    CASES[name] = build


def dense(units=5, **options):
    return lambda: k.Dense(units, **options)


def conv(filters=4, size=3, **options):
    return lambda: k.Conv2D(filters, size, **options)


# ---- dense ----
stack_of("dense", (4,), dense())
stack_of("dense_without_bias", (4,), dense(use_bias=False), dense(3, activation="relu"))
stack_of("dense_softmax", (4,), dense(activation="tanh"), dense(3, activation="softmax"))
stack_of("dense_on_sequences", (6, 4), dense(activation="gelu"), dense(3))
stack_of("dense_on_open_dimensions", (None, None, 4), dense(activation="selu"), dense(3))
stack_of("dense_custom_activation", (4,), dense(activation=minus_batch_mean), dense(2))
stack_of("dense_regularized", (4,), dense(kernel_regularizer="l2", activity_regularizer="l1", kernel_constraint="max_norm"))
stack_of("einsum_dense", (6, 4), lambda: k.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d", activation="relu"))
stack_of("einsum_dense_two", (6, 4), dense(4), lambda: k.EinsumDense("abc,bcd->abd", (6, 3), bias_axes="bd"))
stack_of("einsum_dense_ellipsis", (6, 4), dense(4), lambda: k.EinsumDense("...x,xy->...y", 3, bias_axes="y"))
stack_of("sparse_linear", (4,), lambda: SparseLinear(), lambda: SparseLinear(3, connectivity=[(0, 0), (1, 2), (3, 0)]))

# ---- convolution ----
stack_of("conv2d", (9, 8, 3), conv(), conv(5, 2, strides=2, padding="same", activation="relu"))
stack_of("conv2d_softmax", (9, 8, 3), conv(activation="softmax"), conv(activation="softmax"))
stack_of("conv2d_groups", (9, 8, 4), conv(groups=2), conv(6, groups=2, use_bias=False))
stack_of("conv2d_dilated", (9, 8, 4), conv(dilation_rate=2), conv(6, dilation_rate=(2, 1), padding="same"))
stack_of("conv2d_uneven_strides", (9, 8, 4), conv(strides=(2, 1)), conv(strides=(1, 2), padding="same"))
stack_of("conv1d", (9, 3), lambda: k.Conv1D(4, 3, activation="elu"), lambda: k.Conv1D(5, 2, strides=2))
stack_of("conv1d_causal", (9, 3), *2 * [lambda: k.Conv1D(4, 3, padding="causal", dilation_rate=2)])
stack_of("conv3d", (5, 6, 5, 2), lambda: k.Conv3D(3, 2), lambda: k.Conv3D(4, 3, padding="same"))
stack_of("depthwise_conv2d", (9, 8, 3), *2 * [lambda: k.DepthwiseConv2D(3, depth_multiplier=2, activation="relu")])
stack_of("depthwise_conv1d", (9, 3), *2 * [lambda: k.DepthwiseConv1D(3, padding="same")])
stack_of("separable_conv2d", (9, 8, 3), *2 * [lambda: k.SeparableConv2D(4, 3, depth_multiplier=2)])
stack_of("separable_conv1d", (9, 3), *2 * [lambda: k.SeparableConv1D(4, 3, padding="same")])
stack_of("conv1d_transpose", (9, 3), *2 * [lambda: k.Conv1DTranspose(4, 3, strides=2)])
stack_of("conv2d_transpose", (5, 4, 3), *2 * [lambda: k.Conv2DTranspose(4, 3, strides=2, padding="same")])
stack_of("conv3d_transpose", (3, 4, 3, 2), lambda: k.Conv3DTranspose(3, 2, strides=2))
stack_of("conv_then_dense_on_channels", (9, 8, 3), conv(), dense(4), conv())
stack_of("conv_lstm_1d", (4, 6, 2), lambda: k.ConvLSTM1D(3, 2))
stack_of("conv_lstm_2d", (3, 5, 6, 2), lambda: k.ConvLSTM2D(3, 2, return_sequences=True))
stack_of("conv_lstm_3d", (2, 4, 4, 3, 1), lambda: k.ConvLSTM3D(2, 2))

# ---- normalisation ----
stack_of("batch_normalization", (4,), lambda: k.BatchNormalization(), dense(), lambda: k.BatchNormalization())
stack_of("batch_normalization_among_convolutions", (9, 8, 3), conv(), lambda: k.BatchNormalization(), k.ReLU, conv())
stack_of("batch_normalization_first_axis", (4, 3), lambda: k.BatchNormalization(axis=1), dense())
stack_of("batch_normalization_plain", (4,), dense(), lambda: k.BatchNormalization(center=False, scale=False))
stack_of("layer_normalization", (4, 5), lambda: k.LayerNormalization(), dense(), lambda: k.LayerNormalization())
stack_of("layer_normalization_axes", (4, 5), dense(), lambda: k.LayerNormalization(axis=[1, 2]))
if keras.backend.backend() != "torch":  # where Keras's own layer fails on an inner axis
    stack_of("layer_normalization_inner_axis", (4, 5), dense(), lambda: k.LayerNormalization(axis=1))
stack_of("layer_normalization_plain", (4, 5), lambda: k.LayerNormalization(center=False, scale=False), dense())
stack_of("group_normalization", (4, 6), lambda: k.GroupNormalization(2), dense(4), lambda: k.GroupNormalization(2))
stack_of("rms_normalization", (6,), lambda: k.RMSNormalization(), dense(), lambda: k.RMSNormalization())
stack_of("unit_normalization", (6,), dense(), lambda: k.UnitNormalization())
stack_of("normalization", (6,), lambda: k.Normalization(mean=1.0, variance=2.0), dense())
stack_of("spectral_normalization", (6,), lambda: k.SpectralNormalization(k.Dense(4)), dense())

# ---- sequences ----
stack_of("embedding", (6,), lambda: k.Embedding(11, 4), k.Flatten, dense(), dtype="int32")
stack_of("embedding_with_mask", (6,), lambda: k.Embedding(11, 4, mask_zero=True), lambda: k.LSTM(3), dtype="int32")
stack_of("lstm", (6, 3), lambda: k.LSTM(4, return_sequences=True), lambda: k.LSTM(3, go_backwards=True))
stack_of("lstm_unrolled", (4, 3), lambda: k.LSTM(4, unroll=True, use_bias=False))
stack_of("gru", (6, 3), lambda: k.GRU(4, return_sequences=True), lambda: k.GRU(3, reset_after=False))
stack_of("simple_rnn", (6, 3), lambda: k.SimpleRNN(4, return_sequences=True), lambda: k.SimpleRNN(3))
stack_of("bidirectional", (6, 3), *2 * [lambda: k.Bidirectional(k.LSTM(3, return_sequences=True), merge_mode="concat")])
stack_of("time_distributed", (6, 3), lambda: k.TimeDistributed(k.Dense(4)), lambda: k.TimeDistributed(k.Dense(2)))
stack_of(
    "time_distributed_conv", (3, 6, 6, 2), lambda: k.TimeDistributed(k.Dense(3)), lambda: k.TimeDistributed(k.Flatten())
)
stack_of("masking", (6, 3), lambda: k.Masking(0.0), lambda: k.GRU(3))
stack_of("prelu", (4, 3), lambda: k.PReLU(), dense(), lambda: k.PReLU(shared_axes=[1]))


@case
def masked_text():
    inputs = keras.Input((None,), dtype="int32")
    x = k.Embedding(11, 6, mask_zero=True)(inputs)
    x = k.Dropout(0.1)(x)
    x = k.Bidirectional(k.LSTM(4, return_sequences=True))(x)
    x = k.LayerNormalization()(x)
    return keras.Model(inputs, k.GlobalAveragePooling1D()(x))


@case
def masked_batch_normalization():
    inputs = keras.Input((6,), dtype="int32")
    x = k.Embedding(5, 4, mask_zero=True)(inputs)
    return keras.Model(inputs, k.GRU(3)(k.BatchNormalization()(x)))


@case
def lstm_states():
    inputs = keras.Input((6, 3))
    x, h, c = k.LSTM(4, return_sequences=True, return_state=True)(inputs)
    return keras.Model(inputs, k.LSTM(4)(x, initial_state=[h, c]))


@case
def transformer_block():
    inputs = keras.Input((7,), dtype="int32")
    x = k.Embedding(11, 8, mask_zero=True)(inputs)
    y = k.MultiHeadAttention(2, 4, dropout=0.1)(x, x)
    x = k.LayerNormalization()(x + y)
    y = k.Dense(8)(k.Dense(16, activation="gelu")(x))
    return keras.Model(inputs, k.LayerNormalization()(k.Add()([x, y])))


@case
def cross_attention():
    a, b = keras.Input((5, 4)), keras.Input((6, 4))
    x = k.Dense(4)(a)
    y, scores = k.MultiHeadAttention(2, 3)(x, b, return_attention_scores=True)
    causal = k.MultiHeadAttention(2, 3)(y, y, use_causal_mask=True)
    return keras.Model([a, b], [causal, scores])


@case
def attention_layers():
    a, b = keras.Input((5, 4)), keras.Input((6, 4))
    x, y = k.Dense(4)(a), k.Dense(4)(b)
    z = k.Attention(use_scale=True)([x, y])
    return keras.Model([a, b], [k.AdditiveAttention()([z, y]), k.GroupQueryAttention(4, 4, 2)(z, y)])


# ---- layers without weights ----
for cls in (k.ReLU, k.ELU, k.LeakyReLU, k.Softmax, k.Identity):
    stack_of(cls.__name__.lower(), (6,), dense(), cls, dense())
    stack_of(f"{cls.__name__.lower()}_among_convolutions", (7, 7, 2), conv(), cls, conv())
for name in ("relu", "softmax", "log_softmax", "swish", "sparsemax"):
    stack_of(f"activation_{name}", (7, 7, 2), conv(), lambda name=name: k.Activation(name), conv())
stack_of("activation_custom", (6,), dense(), lambda: k.Activation(minus_batch_mean), dense())
stack_of("activity_regularization", (6,), dense(), lambda: k.ActivityRegularization(l2=0.1), dense())
for cls in (k.Dropout, k.GaussianDropout, k.AlphaDropout, k.GaussianNoise):
    stack_of(cls.__name__.lower(), (6,), lambda cls=cls: cls(0.3), dense(), lambda cls=cls: cls(0.3), dense())
for cls, shape in ((k.SpatialDropout1D, (5, 2)), (k.SpatialDropout2D, (5, 5, 2)), (k.SpatialDropout3D, (4, 4, 4, 2))):
    stack_of(cls.__name__.lower(), shape, dense(), lambda cls=cls: cls(0.3))

for rank, shape in ((1, (8, 2)), (2, (8, 7, 2)), (3, (6, 5, 4, 2))):
    convolution = getattr(k, f"Conv{rank}D")
    for name in (
        "AveragePooling{}D", "MaxPooling{}D", "GlobalAveragePooling{}D", "GlobalMaxPooling{}D", "UpSampling{}D",
        "ZeroPadding{}D", "Cropping{}D", "AdaptiveAveragePooling{}D", "AdaptiveMaxPooling{}D",
    ):  # fmt: skip
        cls = getattr(k, name.format(rank))
        needs_size = "Adaptive" in name or "Average" in name
        args = (2,) if needs_size and "Global" not in name else ()
        makers = [lambda c=convolution: c(3, 2, padding="same"), lambda cls=cls, args=args: cls(*args), dense(3)]
        stack_of(cls.__name__.lower(), shape, *makers)
stack_of("center_crop_resizing", (8, 8, 2), conv(), lambda: k.CenterCrop(4, 4), lambda: k.Resizing(6, 5), dense())
stack_of("reshape_permute", (4, 6), dense(6), lambda: k.Reshape((2, 2, 6)), lambda: k.Permute((3, 1, 2)), k.Flatten, dense())
stack_of("repeat_vector", (4,), dense(), lambda: k.RepeatVector(3), lambda: k.LSTM(3))
stack_of("rescaling", (4,), lambda: k.Rescaling(0.5, offset=1.0), dense(), lambda: k.Rescaling([1.0, 2, 3, 4, 5]), dense())
stack_of("category_encoding", (4,), lambda: k.CategoryEncoding(11, output_mode="multi_hot"), dense(), dtype="int32")


@case
def merges():
    a, b = keras.Input((5,)), keras.Input((5,))
    x, y = k.Dense(5)(a), k.Dense(5)(b)
    merged = [cls()([x, y]) for cls in (k.Add, k.Subtract, k.Multiply, k.Average, k.Maximum, k.Minimum)]
    mixed = [k.Add()([x, b]), k.Dot(axes=1)([x, b]), k.Dot(axes=1, normalize=True)([x, y]), k.Concatenate()([a, x, y])]
    return keras.Model([a, b], [*merged, *mixed])


@case
def layers_along_the_rows():
    inputs = keras.Input((5,))
    x = k.Dense(5)(inputs)
    return keras.Model(inputs, [k.Softmax(axis=0)(x), k.UnitNormalization(axis=-2)(x)])


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


# ---- graphs ----
@case
def two_inputs_three_outputs():
    a, b = keras.Input((3,), name="a"), keras.Input((4, 2), name="b")
    x = k.Concatenate()([k.Dense(4)(a), k.Flatten()(b)])
    return keras.Model([a, b], [k.Dense(1)(x), [k.Dense(2)(x), a]])


@case
def dictionaries():
    inputs = {"left": keras.Input((3,), name="left"), "right": keras.Input((3,), name="right")}
    x = k.Dense(4, activation="relu")(inputs["left"]) - k.Dense(4)(inputs["right"])
    return keras.Model(inputs, {"class": k.Dense(3, activation="softmax")(x), "value": k.Dense(1)(x)})


@case
def reused_layer():
    a, b = keras.Input((4,)), keras.Input((4,))
    layer = k.Dense(4, activation="tanh")
    return keras.Model([a, b], [layer(layer(a)), layer(b)])


@case
def reused_convolution():
    inputs = keras.Input((7, 7, 2))
    layer, norm = k.Conv2D(2, 3, padding="same"), k.BatchNormalization()
    return keras.Model(inputs, norm(layer(norm(layer(inputs)))))


@case
def nested_models():
    inner = keras.Sequential([keras.Input((4,)), k.Dense(4, activation="relu"), k.LayerNormalization()])
    a = keras.Input((4,))
    middle = keras.Model(a, [inner(k.Dense(4)(a)), a * 2.0])
    x, y = keras.Input((4,)), keras.Input((4,))
    p, q = middle(x), middle(inner(y))
    return keras.Model([x, y], k.Concatenate()([p[0], p[1], q[0], q[1]]))


@case
def sequential():
    return keras.Sequential([keras.Input((4,)), k.Dense(5, activation="relu"), k.Dropout(0.2), k.Dense(2)])


@case
def sequential_without_input():
    model = keras.Sequential([k.Dense(5, activation="relu"), k.Dense(2)])
    model.build((None, 4))
    return model


@case
def raw_operations():
    inputs = keras.Input((6, 4))
    x = k.Dense(4)(inputs)
    y = ops.relu(x) * 2.0 + ops.ones((4,)) - inputs
    y = ops.concatenate([y[:, 2:, ::2], ops.transpose(x, (0, 2, 1))[..., :3]], axis=-1)
    total = ops.sum(y, axis=1, keepdims=True)
    picked = ops.einsum("bij,bkj->bik", y, total) / ops.sqrt(1.0 + ops.square(y[:, :, :1]))
    return keras.Model(inputs, [ops.softmax(picked, axis=1), ops.reshape(y, (-1, 20)), ops.mean(x, axis=(1, 2))])


@case
def operations_over_the_batch():
    """Each member's rows meet only rows of the same member, also where an operation mixes rows."""
    inputs = keras.Input((4,))
    x = k.Dense(4)(inputs)
    return keras.Model(inputs, ops.maximum(x, ops.stop_gradient(inputs)) + ops.flip(x, axis=1))


@keras.saving.register_keras_serializable("tests")
class Positions(k.Layer):
    """A learned table of positions, without a batch axis: (T, C), or (1, T, C)."""

    def __init__(self, lead=False, **kwargs):
        super().__init__(**kwargs)
        self.lead = lead

    def build(self, input_shape):
        self.table = self.add_weight(shape=(*([1] if self.lead else []), *input_shape[1:]), initializer="normal")

    def call(self, x):
        return self.table * 1.0

    def get_config(self):
        return {**super().get_config(), "lead": self.lead}


@case
def learned_positions():
    inputs = keras.Input((4, 3))
    x = k.Dropout(0.1)(k.ReLU()(k.Dense(5)(inputs)))
    y = x + Positions()(x)
    return keras.Model(inputs, [k.Add()([y, Positions(lead=True)(y)]), y + Positions(lead=True)(y)])


@case
def operations_that_join_ranks():
    inputs = keras.Input((4, 3))
    x, y = k.Dense(5)(inputs), k.ReLU()(k.Dense(5)(inputs))
    centered = y - ops.mean(y, axis=0, keepdims=True)
    return keras.Model(inputs, [centered, x - ops.mean(y, axis=0), ops.where(x[:, :1] > 0, y[:, 0][:, None], 0.0)])


@case
def operations_on_channels():
    inputs = keras.Input((6, 6, 2))
    x = k.Conv2D(3, 3)(inputs)
    y = ops.sigmoid(x) * x + 1.0
    y = y * ops.convert_to_tensor([1.0, 2.0, 3.0])
    return keras.Model(inputs, k.Conv2D(2, 3)(y) + ops.mean(inputs, axis=(1, 2, 3), keepdims=True))


@case
def explicit_training_flags():
    inputs = keras.Input((4,))
    x = k.BatchNormalization()(k.Dense(5)(inputs), training=False)
    return keras.Model(inputs, k.Dense(2)(k.Dropout(0.5)(x, training=False)))


@case
def channels_first():
    inputs = keras.Input((2, 7, 6))
    x = k.ZeroPadding2D(1, data_format="channels_first")(inputs)
    x = k.Permute((2, 3, 1))(x)
    return keras.Model(inputs, k.Permute((3, 1, 2))(k.Conv2D(3, 3)(x)))


@case
def frozen_layer():
    model = keras.Sequential([keras.Input((4,)), k.Dense(5, name="frozen"), k.BatchNormalization(), k.Dense(2)])
    model.get_layer("frozen").trainable = False
    return model


@case
def layers_that_need_no_member():
    inputs = keras.Input((4,))
    return keras.Model(inputs, k.Dense(3)(k.Reshape((2, 2))(k.Rescaling(2.0)(ops.abs(inputs)))))
