"""Convolutions over members that are joined with the channels. N members, B rows, C channels, F filters.

Inside, a convolution always works on `(B, ..., N*C)`: one wide convolution where all members read one input, a grouped
one where each has its own. `member_axis=-1` takes and gives this form, so that convolutions, pooling and normalisation
follow each other without moving a number.
"""

import math

import keras
from keras import ops

from keras_multiweight.layers.activations import activate, is_elementwise
from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.lowerings import batched_matmul, convolutions, depthwise_conv, grouped_conv
from keras_multiweight.layers.mapping import map_members
from keras_multiweight.layers.plumbing import PACKAGE, group, move_members, ungroup
from keras_multiweight.layers.windows import are_known, windows


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
    lowering_names = ()

    def call(self, inputs, training=None):
        if self.data_format == "channels_first":
            return self.run(self._unrolled, inputs)
        return self.run(self._compute, inputs, self.choose(inputs, training))

    def _unrolled(self, x):
        return map_members(self, (x,), {}, "unrolled")

    def _compute(self, x, lowering):
        if self.member_axis == -1:
            return self._activated(self._grouped(x, lowering))
        x = x if self.shared_input else group(x)
        return activate(self.activation, ungroup(self._grouped(x, lowering), self.num_members))

    def _grouped(self, x, lowering):
        """(B, ..., N*C), or shared (B, ..., C), to (B, ..., N*F) before the activation."""
        x = self._convolve(x, lowering)
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
        kernel = move_members(kernel, 0, rank - 1 - inner)
        shape = kernel.shape
        at = rank - 1 - inner
        return ops.reshape(kernel, (*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]))

    def _own_channels(self, x):
        """A shared input gets a copy of its channels for each member, where no wide kernel can do without."""
        return ops.tile(x, (1,) * (len(x.shape) - 1) + (self.num_members,)) if self.shared_input else x

    def _depthwise(self, x, kernel):
        moves = self.strides, self.padding, self.dilation_rate
        return depthwise_conv(self._own_channels(x), self._kernel(kernel, inner=2), *moves)


class _Convolves(_MultiConvolution):
    """The part of plain and separable convolutions: each member's own channels by each member's own kernel."""

    lowering_names = ("wide", "grouped", "side_by_side", "patches")
    pointwise = False

    def lowerings(self):
        if self.data_format == "channels_first":
            return ()
        if self.num_members == 1:
            return ("wide",)
        moves = ((1,), (1,)) if self.pointwise else (self.strides, self.dilation_rate)
        names = convolutions(len(self.kernel_size), self.num_members, *moves, dtype=self.compute_dtype)
        return tuple(name for name in names if name != "patches" or getattr(self, "groups", 1) == 1)

    def work(self, shape):
        rows, *sizes, channels = shape
        size = None if None in sizes else math.prod(map(_count, sizes, self.strides))
        taps = 1 if self.pointwise else math.prod(self.kernel_size)
        sizes = {"rows": rows, "size": size, "taps": taps, "in": channels, "out": self.filters}
        kind = f"convolution in {len(self.kernel_size)} axes"
        kind = f"natively grouped {kind}" if self.lowerings()[:1] == ("grouped",) else kind
        return {"kind": kind, "members": self.num_members, **sizes}

    def _conv(self, x, kernel, lowering, groups=1, **options):
        """(B, ..., N*C) by (N, ..., C / groups, F): (B, ..., N*F)"""
        if lowering == "patches" and are_known(x, options["strides"]):
            return self._by_patches(x, ops.cast(kernel, self.compute_dtype), **options)
        kernel = self._kernel(kernel)
        if lowering != "side_by_side":
            return grouped_conv(x, kernel, self.num_members * groups, **options)
        pairs = zip(*(ops.split(part, self.num_members, axis=-1) for part in (x, kernel)))
        return ops.concatenate([grouped_conv(*pair, groups, **options) for pair in pairs], axis=-1)

    def _by_patches(self, x, kernel, **options):
        """(B, H, W, N*C) by (N, h, w, C, F): (B, ..., N*F)"""
        num_members, *taps, channels, filters = kernel.shape
        patches = ops.stack(windows(x, taps, **options), axis=3)
        _, height, width, places, _ = ops.shape(patches)
        patches = ops.reshape(patches, (-1, places, num_members, channels))  # (B*H*W, h*w, N, C)
        patches = ops.reshape(ops.moveaxis(patches, 2, 0), (num_members, -1, places * channels))
        x = batched_matmul(patches, ops.reshape(kernel, (num_members, -1, filters)))  # (N, B*H*W, F)
        return ops.reshape(ops.moveaxis(x, 0, 1), (-1, height, width, num_members * filters))


def _count(size, stride):
    """How many places a kernel has along an axis."""
    return math.ceil(size / stride)


class _MultiConv(_Convolves):
    __doc__ = _MultiConvolution.__doc__

    def lowerings(self):
        names = super().lowerings()
        wide = self.shared_input and self.groups == 1  # one input, all kernels side by side
        return ("wide",) if names and wide else names

    def _convolve(self, x, lowering):
        padding = self.padding
        if padding == "causal":
            left = self.dilation_rate[0] * (self.kernel_size[0] - 1)
            x, padding = ops.pad(x, [(0, 0), (left, 0), (0, 0)]), "valid"
        options = {"strides": self.strides, "padding": padding, "dilation_rate": self.dilation_rate}
        if lowering == "wide":
            return grouped_conv(x, self._kernel(self.kernel), self.groups, **options)
        return self._conv(self._own_channels(x), self.kernel, lowering, self.groups, **options)


class _MultiDepthwiseConv(_MultiConvolution):
    __doc__ = _MultiConvolution.__doc__

    def _convolve(self, x, lowering):
        return self._depthwise(x, self.kernel)


class _MultiSeparableConv(_Convolves):
    __doc__ = _MultiConvolution.__doc__

    pointwise = True

    def _convolve(self, x, lowering):
        x = self._depthwise(x, self.depthwise_kernel)
        ones = (1,) * (len(x.shape) - 2)
        return self._conv(x, self.pointwise_kernel, lowering, strides=ones, padding="valid", dilation_rate=ones)


class _MultiConvTranspose(_MultiConvolution):
    __doc__ = _MultiConvolution.__doc__

    def _convolve(self, x, lowering):
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
