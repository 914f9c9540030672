"""MergeDirections: the end of a packed Bidirectional layer."""

import keras
from keras import ops

from keras_multiweight.layers.plumbing import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class MergeDirections(keras.layers.Layer):
    """Joins the outputs `(N, B, ...)` of a forward and a backward recurrent layer, as `keras.layers.Bidirectional` does.

    Args:
        merge_mode: `"concat"`, `"sum"`, `"ave"`, `"mul"`, or None for both outputs as they are.
        return_sequences: bool. The outputs are `(N, B, T, C)`, the second one backward in T.
    """

    def __init__(self, merge_mode, return_sequences, **kwargs):
        super().__init__(**kwargs)
        self.merge_mode = merge_mode
        self.return_sequences = return_sequences
        self.supports_masking = True
        self.built = True

    def call(self, inputs):
        y, y_rev = inputs
        y_rev = ops.flip(y_rev, axis=2) if self.return_sequences else y_rev
        merge = {
            "concat": lambda: ops.concatenate([y, y_rev], axis=-1),
            "sum": lambda: y + y_rev,
            "ave": lambda: (y + y_rev) / 2,
            "mul": lambda: y * y_rev,
            None: lambda: (y, y_rev),
        }
        return merge[self.merge_mode]()

    def compute_mask(self, inputs, mask=None):
        mask = mask[0] if mask and self.return_sequences else None
        return (mask, mask) if self.merge_mode is None else mask

    def get_config(self):
        return {**super().get_config(), "merge_mode": self.merge_mode, "return_sequences": self.return_sequences}
