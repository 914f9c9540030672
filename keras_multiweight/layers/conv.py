"""Convolutions over members that are joined with the channels. N members, B rows, C channels, F filters.

Inside, a convolution always works on `(B, ..., N*C)`: one wide convolution where all members read one input, a grouped
one where each has its own. `member_axis=-1` takes and gives this form, so that convolutions, pooling and normalisation
follow each other without moving a number.
"""

import keras
from keras import ops

from keras_multiweight.layers.activations import activate, is_elementwise
from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.lowerings import grouped_conv
from keras_multiweight.layers.mapping import map_members
from keras_multiweight.layers.plumbing import PACKAGE, group, ungroup


class _MultiConvolution(MultiLayer):
    """N convolution layers as one.

    Args:
        filters, kernel_size, strides, ...: As for the Keras layer of the same name. Each member is initialised on its
            own shapes with its own draw.
        num_members: int, N.
        member_axis: 1 (default) for `(B, N, ..., C)`, 0 for `(N, B, ..., C)`, -1 for `(B, ..., N*C)`, member-major.
        shared_input: bool. All members read the same `(B, ..., C)`.

    Input shape:
        `(B, N, ..., C)`, or `(B, ..., C)` with `shared_input=True`.

    Output shape:
        `(B, N, ..., F)`.

    Example:

    ```python
    x = keras.Input((28, 28, 1))
    h = kmw.layers.MultiConv2D(16, 3, num_members=8, shared_input=True, activation="relu")(x)  # (B, 8, 26, 26, 16)
    h = kmw.layers.MultiConv2D(32, 3, num_members=8)(h)  # (B, 8, 24, 24, 32)
    ```
    """

    member_axes = (0, 1, -1)

    def call(self, inputs):
        if self.data_format == "channels_first":
            return self.run(self._unrolled, inputs)
        return self.run(self._compute, inputs)

    def _unrolled(self, x):
        return map_members(self, (x,), {}, "unrolled")

    def _compute(self, x):
        if self.member_axis == -1:
            return self._activated(self._grouped(x))
        x = x if self.shared_input else group(x)
        return activate(self.activation, ungroup(self._grouped(x), self.num_members))

    def _grouped(self, x):
        """(B, ..., N*C), or shared (B, ..., C), to (B, ..., N*F) before the activation."""
        x = self._convolve(x)
        if self.use_bias:
            x = ops.add(x, ops.reshape(ops.cast(self.bias, self.compute_dtype), (-1,)))
        return x

    def _activated(self, x):
        if is_elementwise(self.activation):
            return activate(self.activation, x)
        return group(activate(self.activation, ungroup(x, self.num_members)))

    def _kernel(self, kernel, inner=1):
        """(N, ..., C, F) -> (..., C, N*F); with `inner=2` (N, ..., C, M) -> (..., N*C, M)"""
        kernel = ops.cast(kernel, self.compute_dtype)
        rank = len(kernel.shape)
        kernel = ops.moveaxis(kernel, 0, rank - 1 - inner)
        shape = kernel.shape
        at = rank - 1 - inner
        return ops.reshape(kernel, (*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]))

    def _own_channels(self, x):
        """A shared input gets a copy of its channels for each member, where no wide kernel can do without."""
        return ops.tile(x, (1,) * (len(x.shape) - 1) + (self.num_members,)) if self.shared_input else x

    def _conv(self, x, kernel, parts, groups=1, **options):
        return grouped_conv(x, self._kernel(kernel), parts, groups, **options)

    def _depthwise(self, x, kernel):
        return ops.depthwise_conv(
            self._own_channels(x),
            self._kernel(kernel, inner=2),
            strides=self.strides,
            padding=self.padding,
            data_format="channels_last",
            dilation_rate=self.dilation_rate,
        )


class _MultiConv(_MultiConvolution):
    __doc__ = _MultiConvolution.__doc__

    def _convolve(self, x):
        wide = self.shared_input and self.groups == 1  # one input, all kernels side by side
        x, padding = x if wide else self._own_channels(x), self.padding
        if padding == "causal":
            left = self.dilation_rate[0] * (self.kernel_size[0] - 1)
            x, padding = ops.pad(x, [(0, 0), (left, 0), (0, 0)]), "valid"
        options = {"strides": self.strides, "padding": padding, "dilation_rate": self.dilation_rate}
        return self._conv(x, self.kernel, 1 if wide else self.num_members, self.groups, **options)


class _MultiDepthwiseConv(_MultiConvolution):
    __doc__ = _MultiConvolution.__doc__

    def _convolve(self, x):
        return self._depthwise(x, self.kernel)


class _MultiSeparableConv(_MultiConvolution):
    __doc__ = _MultiConvolution.__doc__

    def _convolve(self, x):
        x = self._depthwise(x, self.depthwise_kernel)
        ones = (1,) * (len(x.shape) - 2)
        return self._conv(x, self.pointwise_kernel, self.num_members, strides=ones, padding="valid", dilation_rate=ones)


class _MultiConvTranspose(_MultiConvolution):
    __doc__ = _MultiConvolution.__doc__

    def _convolve(self, x):
        if self.shared_input:  # one input, all kernels side by side: (..., N*F, C)
            return self._transposed(x, self._kernel(self.kernel, inner=2))
        kernels = ops.unstack(ops.cast(self.kernel, self.compute_dtype), self.num_members)
        parts = ops.split(x, self.num_members, axis=-1)
        return ops.concatenate([self._transposed(*pair) for pair in zip(parts, kernels)], axis=-1)

    def _transposed(self, x, kernel):
        return ops.conv_transpose(
            x,
            kernel,
            strides=list(self.strides),
            padding=self.padding,
            output_padding=self.output_padding,
            data_format="channels_last",
            dilation_rate=self.dilation_rate,
        )


def _public(base, member_class):
    """A public layer for one Keras convolution class: `MultiConv2D` for `keras.layers.Conv2D`."""
    name = f"Multi{member_class.__name__}"
    doc = base.__doc__.replace("N convolution layers", f"N `keras.layers.{member_class.__name__}` layers")
    cls = type(name, (base,), {"member_class": member_class, "__doc__": doc, "__module__": __name__})
    return keras.saving.register_keras_serializable(PACKAGE)(cls)


MultiConv1D = _public(_MultiConv, keras.layers.Conv1D)
MultiConv2D = _public(_MultiConv, keras.layers.Conv2D)
MultiConv3D = _public(_MultiConv, keras.layers.Conv3D)
MultiDepthwiseConv1D = _public(_MultiDepthwiseConv, keras.layers.DepthwiseConv1D)
MultiDepthwiseConv2D = _public(_MultiDepthwiseConv, keras.layers.DepthwiseConv2D)
MultiSeparableConv1D = _public(_MultiSeparableConv, keras.layers.SeparableConv1D)
MultiSeparableConv2D = _public(_MultiSeparableConv, keras.layers.SeparableConv2D)
MultiConv1DTranspose = _public(_MultiConvTranspose, keras.layers.Conv1DTranspose)
MultiConv2DTranspose = _public(_MultiConvTranspose, keras.layers.Conv2DTranspose)
MultiConv3DTranspose = _public(_MultiConvTranspose, keras.layers.Conv3DTranspose)
