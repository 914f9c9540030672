"""Recurrent layers with a member axis. N members, B rows, T steps."""

import keras

from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.plumbing import PACKAGE


class _MultiRecurrent(MultiLayer):
    """N recurrent layers as one.

    Args:
        units, activation, return_sequences, ...: As for the Keras layer of the same name; `stateful=True` is refused.
        num_members, member_axis, shared_input: As for `MultiDense`.

    Input shape:
        `sequence` `(B, N, T, C)`, or `(B, T, C)` with `shared_input=True`; `initial_state` and `mask` likewise.

    Output shape:
        `(B, N, units)`, or `(B, N, T, units)` with `return_sequences=True`; states `(B, N, units)` likewise.

    Example:

    ```python
    layer = kmw.layers.MultiLSTM(16, num_members=8, shared_input=True)
    layer(np.zeros((32, 10, 4), "float32")).shape  # (32, 8, 16)
    ```
    """

    def call(self, sequence, initial_state=None, mask=None, training=False):
        return self.run(self.map_members, sequence, initial_state=initial_state, mask=mask, training=training)


def _public(member_class):
    doc = _MultiRecurrent.__doc__.replace("recurrent layers as", f"`keras.layers.{member_class.__name__}` layers as")
    body = {"member_class": member_class, "__doc__": doc, "__module__": __name__}
    cls = type(f"Multi{member_class.__name__}", (_MultiRecurrent,), body)
    return keras.saving.register_keras_serializable(PACKAGE)(cls)


MultiLSTM = _public(keras.layers.LSTM)
MultiGRU = _public(keras.layers.GRU)
MultiSimpleRNN = _public(keras.layers.SimpleRNN)
