"""MultiPReLU: rectifiers whose slopes are each member's own. N members, B rows, C channels."""

import keras
from keras import ops

from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.dense import align
from keras_multiweight.layers.plumbing import PACKAGE, group


@keras.saving.register_keras_serializable(PACKAGE)
class MultiPReLU(MultiLayer):
    """N `keras.layers.PReLU` layers as one: `relu(x) - alpha[i] * relu(-x)` for each member i.

    Args:
        alpha_initializer, shared_axes, ...: As for `keras.layers.PReLU`.
        num_members, shared_input: As for `MultiDense`.
        member_axis: As for `MultiDense`, and -1 for members joined with the channels, `(B, ..., N*C)`, member-major.

    Input shape:
        `(B, N, ...)`, or `(B, ...)` with `shared_input=True`.

    Output shape:
        `(B, N, ...)`.

    Example:

    ```python
    layer = kmw.layers.MultiPReLU(shared_axes=[1], num_members=8)
    layer(np.ones((32, 8, 10, 16), "float32")).shape  # (32, 8, 10, 16)
    ```
    """

    member_class = keras.layers.PReLU
    member_axes = (0, 1, -1)

    @classmethod
    def takes_channels(cls, member, rank):
        return rank > 1 and rank - 1 not in (member.shared_axes or ())

    def call(self, inputs):
        return self.run(self._compute, inputs)

    def _compute(self, x):
        x = ops.expand_dims(x, 0) if self.shared_input else x
        alpha = ops.cast(self.alpha, self.compute_dtype)  # (N, ...)
        alpha = group(alpha) if self.member_axis == -1 else align(alpha, len(x.shape))
        return ops.relu(x) - alpha * ops.relu(-x)
