"""Weightless layers that move the member axis. N members, B rows, C channels."""

import keras
from keras import ops

PACKAGE = "keras_multiweight"


class _Plumbing(keras.layers.Layer):
    """Moves the member axis of one tensor, and of its mask, which is in the same layout."""

    def __init__(self, num_members, **kwargs):
        super().__init__(**kwargs)
        self.num_members = num_members
        self.autocast = False
        self.supports_masking = True
        self.built = True

    def __call__(self, inputs, **kwargs):
        return None if inputs is None else super().__call__(inputs, **kwargs)  # None: an optional input that is left out

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), inputs.dtype)

    def compute_mask(self, inputs, previous_mask):
        if previous_mask is None:
            return None
        if isinstance(previous_mask, keras.KerasTensor):
            return type(self)(self.num_members)(previous_mask)
        return self.call(previous_mask)

    def get_config(self):
        return {**super().get_config(), "num_members": self.num_members}


@keras.saving.register_keras_serializable(PACKAGE)
class StackMembers(_Plumbing):
    """SHARED `(B, ...)` to STACKED `(N, B, ...)`: every member gets the same rows."""

    def call(self, inputs):
        return stack_shared(inputs, self.num_members)

    def compute_output_shape(self, input_shape):
        return (self.num_members, *input_shape)


@keras.saving.register_keras_serializable(PACKAGE)
class FoldMembers(_Plumbing):
    """STACKED `(N, B, ...)` to FOLDED `(N*B, ...)`: members become rows. Free of cost."""

    def call(self, inputs):
        return fold(inputs)

    def compute_output_shape(self, input_shape):
        rows = input_shape[1]
        return (rows and self.num_members * rows, *input_shape[2:])


@keras.saving.register_keras_serializable(PACKAGE)
class UnfoldMembers(_Plumbing):
    """FOLDED `(N*B, ...)` to STACKED `(N, B, ...)`. Free of cost."""

    def call(self, inputs):
        return unfold(inputs, self.num_members)

    def compute_output_shape(self, input_shape):
        rows = input_shape[0]
        return (self.num_members, rows and rows // self.num_members, *input_shape[1:])


@keras.saving.register_keras_serializable(PACKAGE)
class GroupMembers(_Plumbing):
    """STACKED `(N, B, ..., C)` to GROUPED `(B, ..., N*C)`: members become channels. Masks do not come along."""

    def call(self, inputs):
        return group(inputs)

    def compute_output_shape(self, input_shape):
        channels = input_shape[-1]
        return (*input_shape[1:-1], channels and self.num_members * channels)

    def compute_mask(self, inputs, previous_mask):
        return None


@keras.saving.register_keras_serializable(PACKAGE)
class UngroupMembers(_Plumbing):
    """GROUPED `(B, ..., N*C)` to STACKED `(N, B, ..., C)`."""

    def call(self, inputs):
        return ungroup(inputs, self.num_members)

    def compute_output_shape(self, input_shape):
        return (self.num_members, *input_shape[:-1], input_shape[-1] // self.num_members)

    def compute_mask(self, inputs, previous_mask):
        return None


@keras.saving.register_keras_serializable(PACKAGE)
class MembersToBatch(_Plumbing):
    """STACKED `(N, B, ...)` to `(B, N, ...)`, the border of every packed model: Keras slices and joins axis 0."""

    def call(self, inputs):
        return move_members(inputs, 0, 1)

    def compute_output_shape(self, input_shape):
        return (input_shape[1], input_shape[0], *input_shape[2:])


@keras.saving.register_keras_serializable(PACKAGE)
class BatchToMembers(_Plumbing):
    """`(B, N, ...)` to STACKED `(N, B, ...)`, for inputs that differ from member to member."""

    def call(self, inputs):
        if inputs.shape[1] != self.num_members:
            raise ValueError(
                f"Axis 1 of inputs of each member must hold the {self.num_members} members. Received: shape "
                f"{tuple(inputs.shape)}. Inputs that serve all members need a model packed without member_inputs."
            )
        return move_members(inputs, 1, 0)

    def compute_output_shape(self, input_shape):
        return (input_shape[1], input_shape[0], *input_shape[2:])


@keras.saving.register_keras_serializable(PACKAGE)
class DropMask(_Plumbing):
    """A tensor without its mask, in whatever layout."""

    def call(self, inputs):
        return ops.copy(inputs)  # the tensor itself would keep its mask

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_mask(self, inputs, previous_mask):
        return None


@keras.saving.register_keras_serializable(PACKAGE)
class StepsToRows(keras.layers.Layer):
    """`(B, T, ...)` to `(B*T, ...)`: steps become rows. Free of cost. A mask of steps stays behind."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.autocast = False
        self.supports_masking = True
        self.built = True

    def call(self, inputs):
        return ops.reshape(inputs, (-1, *ops.shape(inputs)[2:]))

    def compute_output_spec(self, inputs):
        rows, steps, *rest = inputs.shape
        return keras.KerasTensor((rows and steps and rows * steps, *rest), inputs.dtype)

    def compute_mask(self, inputs, previous_mask):
        return None


@keras.saving.register_keras_serializable(PACKAGE)
class RowsToSteps(StepsToRows):
    """`(B*T, ...)` back to `(B, T, ...)`, with the T and the mask of a second tensor. Free of cost."""

    def call(self, inputs):
        x, like = inputs
        return ops.reshape(x, (-1, ops.shape(like)[1], *ops.shape(x)[1:]))

    def compute_output_spec(self, inputs):
        x, like = inputs
        return keras.KerasTensor((*like.shape[:2], *x.shape[1:]), x.dtype)

    def compute_mask(self, inputs, previous_mask):
        return previous_mask and previous_mask[1]


@keras.saving.register_keras_serializable(PACKAGE)
class InTurn(StepsToRows):
    """The first of two tensors as it is, in whatever layout, once the second is there: Keras calls a layer on it later."""

    def call(self, inputs):
        return inputs[0]

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs[0].shape, inputs[0].dtype)

    def compute_mask(self, inputs, previous_mask):
        return previous_mask and previous_mask[0]


def stack_shared(x, num_members):
    """(B, ...) -> (N, B, ...)"""
    return ops.broadcast_to(ops.expand_dims(x, 0), (num_members, *ops.shape(x)))


def fold(x):
    """(N, B, ...) -> (N*B, ...)"""
    return ops.reshape(x, (-1, *ops.shape(x)[2:]))


def fold_all(x, num_members, is_shared):
    """(N, B, ...), or shared (B, ...), -> (N*B, ...)"""
    return fold(stack_shared(x, num_members) if is_shared else x)


def unfold(x, num_members):
    """(N*B, ...) -> (N, B, ...)"""
    return ops.reshape(x, (num_members, -1, *ops.shape(x)[1:]))


def move_members(x, source, target):
    """Move the member axis. That of one member moves no number: TensorFlow would copy them all the same."""
    if x.shape[source] == 1:
        return ops.expand_dims(ops.squeeze(x, source), target)
    return ops.moveaxis(x, source, target)


def group(x):
    """(N, B, ..., C) -> (B, ..., N*C), member-major"""
    x = move_members(x, 0, -2)  # (B, ..., N, C)
    shape = ops.shape(x)
    return ops.reshape(x, (*shape[:-2], shape[-2] * shape[-1]))


def ungroup(x, num_members):
    """(B, ..., N*C) -> (N, B, ..., C)"""
    shape = ops.shape(x)
    x = ops.reshape(x, (*shape[:-1], num_members, shape[-1] // num_members))  # (B, ..., N, C)
    return move_members(x, -2, 0)
