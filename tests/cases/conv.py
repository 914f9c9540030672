"""Convolutions, plain, grouped, dilated, depthwise, separable, transposed and recurrent."""

import keras
from keras import layers as k

from cases.building import BACKEND, case, conv, dense, of, stack_of, variants

SAME = {"padding": "same"}

variants(
    "conv1d",
    (9, 4),
    of(k.Conv1D, 4, 3, activation="elu"),
    of(k.Conv1D, 5, 2, strides=2),
    of(k.Conv1D, 4, 3, padding="causal", dilation_rate=2),
    of(k.Conv1D, 6, 3, groups=2, padding="causal"),
    first=of(k.Conv1D, 4, 2, **SAME),
)
variants(
    "conv2d",
    (9, 8, 4),
    conv(),
    conv(5, 2, strides=2, activation="relu", **SAME),
    conv(3, activation="softmax"),
    conv(6, (3, 1), groups=2, use_bias=False),
    conv(dilation_rate=2),
    conv(6, dilation_rate=(2, 1), **SAME),
    conv(strides=(2, 1)),
    conv(strides=(1, 2), **SAME),
    first=conv(4, 1),
)
variants("conv3d", (5, 6, 5, 2), of(k.Conv3D, 3, 2), of(k.Conv3D, 4, 3, strides=2, **SAME), first=of(k.Conv3D, 2, 1))
variants(
    "depthwise_conv1d",
    (9, 3),
    of(k.DepthwiseConv1D, 3, **SAME),
    of(k.DepthwiseConv1D, 2, strides=2),
    of(k.DepthwiseConv1D, 2, dilation_rate=2, depth_multiplier=2, use_bias=False),
    first=of(k.Conv1D, 3, 1),
)
variants(
    "depthwise_conv2d",
    (9, 8, 3),
    of(k.DepthwiseConv2D, 3, depth_multiplier=2, activation="relu"),
    of(k.DepthwiseConv2D, 3, strides=2, **SAME),
    of(k.DepthwiseConv2D, 3, dilation_rate=2, use_bias=False),
    first=conv(3, 1),
)
variants(
    "separable_conv1d",
    (9, 3),
    of(k.SeparableConv1D, 4, 3, **SAME),
    of(k.SeparableConv1D, 4, 2, strides=2),
    first=of(k.Conv1D, 3, 1),
)
variants(
    "separable_conv2d",
    (9, 8, 3),
    of(k.SeparableConv2D, 4, 3, depth_multiplier=2, activation="softmax"),
    of(k.SeparableConv2D, 4, 3, strides=2, use_bias=False, **SAME),
    of(k.SeparableConv2D, 4, 2, dilation_rate=2),
    first=conv(3, 1),
)
variants(
    "conv1d_transpose",
    (5, 3),
    of(k.Conv1DTranspose, 4, 3, strides=2),
    of(k.Conv1DTranspose, 4, 3, **SAME),
    of(k.Conv1DTranspose, 4, 3, strides=2, output_padding=1, **SAME),
    first=of(k.Conv1D, 3, 1),
)
variants(
    "conv2d_transpose",
    (5, 4, 3),
    of(k.Conv2DTranspose, 4, 3, strides=2, activation="softmax", **SAME),
    of(k.Conv2DTranspose, 4, (2, 3), strides=(2, 1), use_bias=False),
    *([of(k.Conv2DTranspose, 2, 3, dilation_rate=2)] if BACKEND != "tensorflow" else []),  # not on TensorFlow's CPU
    first=conv(3, 1),
)
variants("conv3d_transpose", (3, 4, 3, 2), of(k.Conv3DTranspose, 3, 2, strides=2), first=of(k.Conv3D, 2, 1))
stack_of("conv_then_dense_on_channels", (9, 8, 3), conv(), dense(4), conv())
variants(
    "conv_lstm_1d",
    (4, 6, 2),
    of(k.ConvLSTM1D, 3, 2),
    of(k.ConvLSTM1D, 3, 3, dilation_rate=2, go_backwards=True),
    first=dense(2),
)
stack_of(
    "conv_lstm_2d", (3, 5, 6, 2), of(k.ConvLSTM2D, 3, 2, return_sequences=True), of(k.ConvLSTM2D, 2, 2, strides=2, **SAME)
)
stack_of("conv_lstm_3d", (2, 4, 4, 3, 1), of(k.ConvLSTM3D, 2, 2))

if BACKEND != "tensorflow":  # whose CPU kernels do not take the channels first
    FIRST = {"data_format": "channels_first"}
    variants(
        "conv_channels_first",
        (4, 7, 6),
        conv(3, **FIRST),
        conv(6, groups=2, strides=2, **SAME, **FIRST),
        of(k.DepthwiseConv2D, 3, **FIRST),
        of(k.SeparableConv2D, 3, 3, **FIRST),
        of(k.Conv2DTranspose, 3, 3, strides=2, **FIRST),
        of(k.MaxPooling2D, 2, **FIRST),
        of(k.AveragePooling2D, 2, **SAME, **FIRST),
        first=conv(4, 1, **FIRST),
    )
    stack_of("conv_lstm_channels_first", (3, 2, 5, 6), of(k.ConvLSTM2D, 3, 2, **FIRST))


@case
def conv_lstm_states():
    inputs = keras.Input((3, 5, 4, 2))
    x, h, c = k.ConvLSTM2D(2, 2, padding="same", return_state=True, return_sequences=True)(inputs)
    return keras.Model(inputs, [k.ConvLSTM2D(2, 2, padding="same")(x, initial_state=[h, c]), h])
