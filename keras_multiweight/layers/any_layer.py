"""MapMembers: N weight sets of any Keras layer at all."""

import warnings

import keras

from keras_multiweight.callers import stack_level
from keras_multiweight.copies import CannotCopyError, copy_built, copy_layer, uncompiled
from keras_multiweight.layers.base import OPTIONS, MultiLayer
from keras_multiweight.layers.plumbing import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class MapMembers(MultiLayer):
    """N weight sets of any Keras layer, by calling it once with each member's weights.

    The layer may hold other layers. It must compute with `keras.ops` and take its weights from Keras variables.

    Args:
        member: A Keras layer, of which a copy is taken.
        num_members: int, N.
        lowering: None or `"vectorized"` maps the call over the members with `keras.ops.vectorized_map`, `"unrolled"` lays
            N calls side by side in the graph: slower to trace, but it works for every layer on every backend.

    Input shape:
        `(B, N, ...)`, or `(B, ...)` with `shared_input=True`; as many tensors as the layer takes.

    Output shape:
        `(B, N, ...)` for each output.

    Example:

    ```python
    layer = kmw.layers.MapMembers(keras.layers.LSTM(16), num_members=8, shared_input=True)
    layer(np.zeros((32, 10, 4), "float32")).shape  # (32, 8, 16)
    ```
    """

    member_class = keras.layers.Layer
    lowering_names = ("vectorized", "unrolled")

    def __init__(self, member, *, num_members, **kwargs):
        super().__init__(member=member, num_members=num_members, **kwargs)

    def _own(self, member):
        """A class that cannot be made again serves itself: a call reads the packed weights, and leaves its own alone."""
        if not member.built:
            return copy_layer(member)
        try:
            return copy_built(member)
        except CannotCopyError as error:
            warnings.warn(f"This layer packs and predicts, but is not saved or unpacked. {error}", stacklevel=stack_level())
            return member

    def call(self, inputs, *args, mask=None, training=None, **kwargs):
        if mask is not None:
            kwargs["mask"] = mask
        return self.run(self.map_members, inputs, *args, training=training, **kwargs)

    def get_config(self):
        options = {name: getattr(self, name) for name in OPTIONS}
        member = uncompiled(keras.saving.serialize_keras_object(self.template()))
        member["config"] = self.member_config()
        return {"member": member, "name": self.name, **options}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("member")), **config)


del MapMembers.__signature__  # its __init__ says all
