"""Normalisation with a member axis. N members, B rows, C channels."""

import keras
from keras import ops

from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.dense import align
from keras_multiweight.layers.plumbing import PACKAGE, stack_shared


@keras.saving.register_keras_serializable(PACKAGE)
class MultiBatchNormalization(MultiLayer):
    """N batch normalisations as one; each member has its own statistics.

    Args:
        axis, momentum, epsilon, ...: As for `keras.layers.BatchNormalization`.
        num_members: int, N.
        member_axis: 1 (default) for `(B, N, ..., C)`, 0 for `(N, B, ..., C)`, -1 for `(B, ..., N*C)`, member-major
            (with `axis` the last one, and without a mask).
        shared_input: bool. All members read the same `(B, ..., C)`.

    Input shape:
        `(B, N, ..., C)`, or `(B, ..., C)` with `shared_input=True`.

    Output shape:
        `(B, N, ..., C)`.

    Example:

    ```python
    layer = kmw.layers.MultiBatchNormalization(num_members=8)
    layer(np.ones((32, 8, 16), "float32")).shape  # (32, 8, 16)
    ```
    """

    member_class = keras.layers.BatchNormalization
    member_axes = (0, 1, -1)

    def call(self, inputs, training=None, mask=None):
        rank = len(self._member_shape(tuple(inputs.shape)))
        if mask is not None or self.renorm or self.axis not in (-1, rank - 1):
            return self.run(self.map_members, inputs, training=training, mask=mask)
        return self.run(self._compute, inputs, training=training)

    def _compute(self, x, training):
        x = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))  # as Keras: half precision overflows here
        x = stack_shared(x, self.num_members) if self.shared_input else x
        rank = len(x.shape)
        if training and self.trainable:
            mean, variance = self._update(x)
        else:
            mean, variance = self.moving_mean, self.moving_variance
        scale = ops.rsqrt(ops.add(ops.cast(variance, x.dtype), self.epsilon))
        scale = scale * ops.cast(self.gamma, x.dtype) if self.scale else scale
        shift = -ops.cast(mean, x.dtype) * scale
        shift = shift + ops.cast(self.beta, x.dtype) if self.center else shift
        x = x * self._spread(scale, rank) + self._spread(shift, rank)
        return ops.cast(x, self.compute_dtype)

    def _spread(self, weight, rank):
        """(N, C) -> (N, 1, ..., C), or (N*C,) for members joined with the channels"""
        return ops.reshape(weight, (-1,)) if self.member_axis == -1 else align(weight, rank)

    def _update(self, x):
        """The batch's own mean and variance, (N, C), which also move the moving ones."""
        axes = range(len(x.shape) - 1) if self.member_axis == -1 else range(1, len(x.shape) - 1)
        moments = [ops.reshape(m, self.moving_mean.shape) for m in ops.moments(x, axes=list(axes))]
        for variable, value in zip((self.moving_mean, self.moving_variance), moments):
            moved = ops.cast(variable, x.dtype) * self.momentum + value * (1.0 - self.momentum)
            variable.assign(ops.cast(moved, variable.dtype))
        return moments


@keras.saving.register_keras_serializable(PACKAGE)
class MultiLayerNormalization(MultiLayer):
    """N layer normalisations as one: the statistics need no members, the scale and the offset do.

    Args:
        axis, epsilon, center, scale, ...: As for `keras.layers.LayerNormalization`.
        num_members, member_axis, shared_input: As for `MultiDense`.

    Input shape:
        `(B, N, ..., C)`, or `(B, ..., C)` with `shared_input=True`.

    Output shape:
        `(B, N, ..., C)`.

    Example:

    ```python
    layer = kmw.layers.MultiLayerNormalization(num_members=8, shared_input=True)
    layer(np.ones((32, 16), "float32")).shape  # (32, 8, 16)
    ```
    """

    member_class = keras.layers.LayerNormalization

    def call(self, inputs):
        rank = len(self._member_shape(tuple(inputs.shape)))
        axes = self.axis if isinstance(self.axis, (list, tuple)) else [self.axis]
        if sorted(a % rank for a in axes) != list(range(rank - len(axes), rank)):
            return self.run(self.map_members, inputs)
        return self.run(self._compute, inputs, len(axes))

    def _compute(self, x, num_axes):
        wide = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
        wide = ops.layer_normalization(
            wide,
            axis=list(range(-num_axes, 0)),
            epsilon=self.epsilon,
            rms_scaling=getattr(self.member, "rms_scaling", False),
        )
        wide = ops.expand_dims(wide, 0) if self.shared_input else wide
        if self.scale:
            wide = wide * align(ops.cast(self.gamma, wide.dtype), len(wide.shape))
        if self.center:
            wide = wide + align(ops.cast(self.beta, wide.dtype), len(wide.shape))
        if wide.shape[0] != self.num_members:  # shared input, and neither scale nor offset
            wide = ops.repeat(wide, self.num_members, 0)
        return ops.cast(wide, self.compute_dtype)
