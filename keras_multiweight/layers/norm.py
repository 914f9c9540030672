"""Normalisation with a member axis. N members, B rows, C channels."""

import keras
from keras import ops

from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.dense import align
from keras_multiweight.layers.plumbing import PACKAGE, fold, stack_shared, unfold


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

    @classmethod
    def takes_channels(cls, member, rank):
        return member.axis in (-1, rank - 1) and not member.renorm

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


class _MultiOverLastAxes(MultiLayer):
    """N normalisations of each row as one: the statistics need no members, the scale and the offset do."""

    def call(self, inputs):
        rank = len(self._member_shape(tuple(inputs.shape)))
        axes = self.axis if isinstance(self.axis, (list, tuple)) else [self.axis]
        if sorted(a % rank for a in axes) != list(range(rank - len(axes), rank)):
            return self.run(self.map_members, inputs)
        return self.run(self._compute, inputs, list(range(-len(axes), 0)))

    def _compute(self, x, axes):
        x = self._normalize(ops.cast(x, keras.backend.result_type(x.dtype, "float32")), axes)
        x = ops.expand_dims(x, 0) if self.shared_input else x
        for scale in self._scales():
            x = x * align(ops.cast(scale, x.dtype), len(x.shape))
        for offset in self._offsets():
            x = x + align(ops.cast(offset, x.dtype), len(x.shape))
        if x.shape[0] != self.num_members:  # shared input, and neither scale nor offset
            x = ops.repeat(x, self.num_members, 0)
        return ops.cast(x, self.compute_dtype)

    def _offsets(self):
        return []


@keras.saving.register_keras_serializable(PACKAGE)
class MultiLayerNormalization(_MultiOverLastAxes):
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

    def _normalize(self, x, axes):
        rms_scaling = getattr(self.template(), "rms_scaling", False)
        return ops.layer_normalization(x, axis=axes, epsilon=self.epsilon, rms_scaling=rms_scaling)

    def _scales(self):
        return [self.gamma] if self.scale else []

    def _offsets(self):
        return [self.beta] if self.center else []


@keras.saving.register_keras_serializable(PACKAGE)
class MultiRMSNormalization(_MultiOverLastAxes):
    """N `keras.layers.RMSNormalization` layers as one: the root mean square needs no members, the scale does.

    Args:
        axis, epsilon: As for `keras.layers.RMSNormalization`.
        num_members, member_axis, shared_input: As for `MultiDense`.

    Input shape:
        `(B, N, ..., C)`, or `(B, ..., C)` with `shared_input=True`.

    Output shape:
        `(B, N, ..., C)`.

    Example:

    ```python
    layer = kmw.layers.MultiRMSNormalization(num_members=8, shared_input=True)
    layer(np.ones((32, 16), "float32")).shape  # (32, 8, 16)
    ```
    """

    member_class = keras.layers.RMSNormalization

    def _normalize(self, x, axes):
        return ops.rms_normalization(x, axis=axes, epsilon=self.epsilon)

    def _scales(self):
        return [ops.cast(self.scale, self.compute_dtype)]  # the one of these weights that Keras casts


@keras.saving.register_keras_serializable(PACKAGE)
class MultiGroupNormalization(MultiLayer):
    """N `keras.layers.GroupNormalization` layers as one: the statistics need no members, the scale and the offset do.

    Args:
        groups, axis, epsilon, center, scale, ...: As for `keras.layers.GroupNormalization`.
        num_members, shared_input: As for `MultiDense`.
        member_axis: As for `MultiBatchNormalization`; -1 with `axis` the last one: N * groups groups of the N*C channels.

    Input shape:
        `(B, N, ..., C)`, or `(B, ..., C)` with `shared_input=True`.

    Output shape:
        `(B, N, ..., C)`.

    Example:

    ```python
    layer = kmw.layers.MultiGroupNormalization(groups=4, num_members=8)
    layer(np.ones((32, 8, 10, 16), "float32")).shape  # (32, 8, 10, 16)
    ```
    """

    member_class = keras.layers.GroupNormalization
    member_axes = (0, 1, -1)

    @classmethod
    def takes_channels(cls, member, rank):
        return member.axis in (-1, rank - 1)

    def call(self, inputs):
        return self.run(self._compute, inputs)

    def _compute(self, x):
        x = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
        stacked = self.member_axis != -1 and not self.shared_input
        x = unfold(self._normalize(fold(x)), self.num_members) if stacked else self._normalize(x)
        x = ops.expand_dims(x, 0) if self.shared_input else x
        if self.scale:
            x = x * self._spread(self.gamma, x)
        if self.center:
            x = x + self._spread(self.beta, x)
        if self.shared_input and x.shape[0] != self.num_members:  # neither scale nor offset
            x = ops.repeat(x, self.num_members, 0)
        return ops.cast(x, self.compute_dtype)

    def _normalize(self, x):
        """Each row alone, with a Keras layer that is made once and not tracked: it has no weights."""
        if not hasattr(self._hidden, "plain"):
            groups = self.template().groups * (self.num_members if self.member_axis == -1 else 1)
            options = {"axis": self.axis, "epsilon": self.epsilon, "center": False, "scale": False, "dtype": x.dtype}
            self._hidden.plain = keras.layers.GroupNormalization(groups, **options)
        return self._hidden.plain(x)

    def _spread(self, weight, x):
        """(N, C) -> (N, 1, ..., C, ..., 1) with C at the member's axis, or (N*C,)"""
        weight = ops.cast(weight, x.dtype)
        if self.member_axis == -1:
            return ops.reshape(weight, (-1,))
        rank = len(x.shape) - 1
        after = rank - 1 - self.axis % rank
        return align(ops.reshape(weight, (*weight.shape, *(1,) * after)), rank + 1)


@keras.saving.register_keras_serializable(PACKAGE)
class MultiNormalization(MultiLayer):
    """N adapted `keras.layers.Normalization` layers as one; each member has the mean and variance that it was adapted to.

    Args:
        axis, invert: As for `keras.layers.Normalization`, without `mean` and `variance`.
        num_members, member_axis, shared_input: As for `MultiDense`.

    Input shape:
        `(B, N, ...)`, or `(B, ...)` with `shared_input=True`.

    Output shape:
        `(B, N, ...)`.

    Example:

    ```python
    layer = kmw.layers.MultiNormalization.from_member_layers(adapted, shared_input=True)
    ```
    """

    member_class = keras.layers.Normalization

    def call(self, inputs):
        return self.run(self._compute, inputs)

    def _compute(self, x):
        x = ops.cast(x, self.compute_dtype)
        x = ops.expand_dims(x, 0) if self.shared_input else x
        mean, variance = (self._spread(weight, x) for weight in self.stacked_weights[:2])
        deviation = ops.maximum(ops.sqrt(variance), keras.backend.epsilon())
        return mean + x * deviation if self.invert else (x - mean) / deviation

    def _spread(self, weight, x):
        """(N, kept axes) -> (N, the member's rank) with 1 for the others"""
        rank = len(x.shape) - 1
        kept = {axis % rank for axis in self.axis}
        sizes = iter(weight.shape[1:])
        shape = [next(sizes) if axis in kept else 1 for axis in range(rank)]
        return ops.reshape(ops.cast(weight, self.compute_dtype), (self.num_members, *shape))
