"""Layers that draw in training, where each member has a rate of its own. N members, B rows, C channels.

Members of one rate need none of these: Keras's own layer serves them all, with more rows.
"""

import keras
import numpy as np
from keras import ops

from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.plumbing import PACKAGE, stack_shared


class _MultiRandom(MultiLayer):
    """N random layers as one, each with a strength of its own.

    Args:
        {setting}, ...: As for the Keras layer of the same name; `{setting}` is that of all members.
        num_members, member_axis, shared_input: As for `MultiDense`.
        member_settings: In place of one `{setting}` for all: `{{"{setting}": [...]}}` with the N members' own, of [0, 1].

    Input shape:
        `(B, N, ...)`, or `(B, ...)` with `shared_input=True`.

    Output shape:
        `(B, N, ...)`. Every member draws its own numbers; one with `{setting}` 0 gives its inputs, bit for bit.

    Example:

    ```python
    layer = kmw.layers.{name}(0.5, num_members=2, member_settings={{"{setting}": [0.1, 0.5]}})
    layer(np.ones((32, 2, 8), "float32"), training=True).shape  # (32, 2, 8)
    ```
    """

    lowering_names = ()
    settings_are_weights = True
    takes_one = True  # as its setting

    def build(self, input_shape=None, values=None):
        if input_shape is not None:
            self._member_shape(tuple(input_shape))
        (name,) = self.settings_names
        values = np.broadcast_to(getattr(self, name), self.num_members).astype("float32")
        if not ((values >= 0) & (values <= 1 if self.takes_one else values < 1)).all():
            limits = "[0, 1]" if self.takes_one else "[0, 1)"
            raise ValueError(f"The {name} of each member must be in {limits}. Received: {values.tolist()} ('{self.name}').")
        self.strengths = self.add_weight(
            shape=(self.num_members,),
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(values, dtype=dtype),
            dtype="float32",
            trainable=False,
            autocast=False,
            name=f"member_{name}",
        )
        self.seed_generator = keras.random.SeedGenerator(self.template().seed)
        self.built = True

    def call(self, inputs, training=False):
        return self.run(self._compute, inputs, training)

    def _compute(self, x, training):
        x = stack_shared(x, self.num_members) if self.shared_input else x  # (N, B, ...)
        if not training:
            return x
        strengths = ops.reshape(ops.convert_to_tensor(self.strengths), (-1, *[1] * (len(x.shape) - 1)))
        return ops.cast(self.disturb(x, strengths), x.dtype)

    def kept(self, x, rates):
        """Where numbers are kept, each with the probability `1 - rate` of its member; as `x`, or to be broadcast to it."""
        shape = (self.num_members, *self.draws_shape(ops.shape(x)[1:]))
        return ops.greater_equal(keras.random.uniform(shape, dtype="float32", seed=self.seed_generator), rates)

    def draws_shape(self, shape):
        """The shape `(B, ...)` of one member's draws for its inputs."""
        noise_shape = getattr(self.template(), "noise_shape", None) or [None] * len(shape)
        return [size if noise is None else noise for size, noise in zip(shape, noise_shape)]

    def normal(self, x):
        return keras.random.normal(ops.shape(x), dtype=self.compute_dtype, seed=self.seed_generator)


class _Dropout(_MultiRandom):
    def disturb(self, x, rates):
        scale = 1 / ops.where(rates < 1, 1 - rates, 1.0)
        return ops.where(self.kept(x, rates), x * ops.cast(scale, x.dtype), ops.zeros_like(x))


class _SpatialDropout(_Dropout):
    def draws_shape(self, shape):
        """One draw for each row and channel."""
        channel = 1 if getattr(self.template(), "data_format", None) == "channels_first" else len(shape) - 1
        return [size if axis in (0, channel) else 1 for axis, size in enumerate(shape)]


class _AlphaDropout(_MultiRandom):
    """Klambauer et al. (2017), Self-normalizing neural networks, as Keras has it."""

    def disturb(self, x, rates):
        floor = -1.6732632423543772 * 1.0507009873554805  # what SELU tends to
        a = 1 / ops.sqrt(ops.where(rates < 1, (1 - rates) * (1 + rates * floor**2), 1.0))
        a, b = ops.cast(a, x.dtype), ops.cast(-a * floor * rates, x.dtype)
        return a * ops.where(self.kept(x, rates), x, ops.cast(floor, x.dtype)) + b


class _GaussianDropout(_MultiRandom):
    takes_one = False

    def disturb(self, x, rates):
        deviations = ops.cast(ops.sqrt(rates / (1 - rates)), x.dtype)
        return x * (1 + deviations * self.normal(x))


class _GaussianNoise(_MultiRandom):
    def disturb(self, x, deviations):
        return x + ops.cast(deviations, x.dtype) * self.normal(x)


def _public(base, member_class, setting="rate"):
    name = f"Multi{member_class.__name__}"
    doc = _MultiRandom.__doc__.format(setting=setting, name=name)
    doc = doc.replace("random layers as", f"`keras.layers.{member_class.__name__}` layers as", 1)
    body = {"member_class": member_class, "settings_names": (setting,), "__doc__": doc, "__module__": __name__}
    return keras.saving.register_keras_serializable(PACKAGE)(type(name, (base,), body))


MultiAlphaDropout = _public(_AlphaDropout, keras.layers.AlphaDropout)
MultiDropout = _public(_Dropout, keras.layers.Dropout)
MultiGaussianDropout = _public(_GaussianDropout, keras.layers.GaussianDropout)
MultiGaussianNoise = _public(_GaussianNoise, keras.layers.GaussianNoise, "stddev")
MultiSpatialDropout1D = _public(_SpatialDropout, keras.layers.SpatialDropout1D)
MultiSpatialDropout2D = _public(_SpatialDropout, keras.layers.SpatialDropout2D)
MultiSpatialDropout3D = _public(_SpatialDropout, keras.layers.SpatialDropout3D)
