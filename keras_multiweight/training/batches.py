"""Which targets and sample weights belong to one member, and which serve all. N members, B rows.

Decided by rank, never by size: a member's output has one axis less than the packed one, `(B, N, ...)`, so a target of
the packed rank has a member axis, and one of a smaller rank has none. Where a rank could mean both, it must be said.
"""

import keras
import numpy as np
from keras import ops, tree

from keras_multiweight.layers.mapping import CarryMask, ReadMask


class MemberBatch:
    """The outputs, targets and sample weights of a batch, to be taken apart into those of each member.

    Args:
        y, y_pred, sample_weight: As `keras.Model.compute_loss` gets them; `y_pred` is `(B, N, ...)` for each output.
        names: The names of the outputs, in order.
        num_members: int, N.
        member_targets, member_weights: Whether axis 1 of targets and of sample weights holds the members: a bool for all,
            or a structure of bools as `y`. Left out, ranks decide.

    Attributes:
        tensors: List of `(N, ...)` tensors: what differs from member to member.
        has_mean: Whether the mean of the members' outputs can be judged: it is a number, and its targets serve all.
    """

    def __init__(self, y, y_pred, sample_weight, names, num_members, member_targets=None, member_weights=None):
        check = {"num_members": num_members, "outputs": tree.flatten(y_pred)}
        target_flags = _flags(y, y_pred, names, member_targets, _target_has_members, check)
        weight_flags = _flags(sample_weight, y_pred, names, member_weights, _weight_has_members, check)
        masks = tree.map_structure(ReadMask().of, y_pred)
        flat_masks = tree.flatten(masks)
        if any(mask is not None for mask in flat_masks) and sample_weight is not None:
            sample_weight = _for_each(sample_weight, weight_flags, num_members)
            weight_flags = [x is not None for x in tree.flatten(sample_weight)]
        self._structure = (y, y_pred, masks, sample_weight)
        flags = [*target_flags, *[True] * len(flat_masks), *[m is not None for m in flat_masks], *weight_flags]
        self._flags = flags
        self.tensors = [ops.moveaxis(ops.convert_to_tensor(x), 1, 0) for x, own in zip(self._flat(), flags) if own]
        self.has_mean = not any(target_flags) and all(_is_float(x) for x in tree.flatten(y_pred))

    def _flat(self):
        return tree.flatten(self._structure)

    def with_mean(self):
        """The tensors with one more row, the mean over the members: `(N + 1, ...)`. A mask is that of the first member."""
        return [ops.concatenate([x, _mean_row(x)], axis=0) for x in self.tensors]

    def part(self, tensors):
        """One member's `y, y_pred, sample_weight`, from its part of `tensors`."""
        supply = iter(tensors)
        flat = [next(supply) if own else x for x, own in zip(self._flat(), self._flags)]
        y, y_pred, masks, sample_weight = tree.pack_sequence_as(self._structure, flat)
        carry = CarryMask()
        carried = [x if m is None else carry(x, mask=m) for x, m in zip(tree.flatten(y_pred), tree.flatten(masks))]
        weights = tree.map_structure(lambda x: None if x is None else ops.copy(x), sample_weight)  # see `_for_each`
        return y, tree.pack_sequence_as(y_pred, carried), weights


def _for_each(sample_weight, flags, num_members):
    """Sample weights with a member axis, `(B, N, ...)`: Keras on torch multiplies them by each member's mask in place."""
    pairs = zip(tree.flatten(sample_weight), flags)
    flat = [x if own or x is None else ops.repeat(ops.expand_dims(x, 1), num_members, axis=1) for x, own in pairs]
    return tree.pack_sequence_as(sample_weight, flat)


def _mean_row(x):
    """(N, B, ...) -> (1, B, ...)"""
    return ops.mean(x, axis=0, keepdims=True) if _is_float(x) else x[:1]


def _is_float(x):
    return "float" in keras.backend.standardize_dtype(x.dtype)


def _flags(structure, y_pred, names, said, has_members, check):
    """For each tensor of a structure whether its axis 1 holds the members."""
    flat = tree.flatten(structure)
    outputs = _outputs_of(structure, y_pred, names, len(flat))
    said = [said] * len(flat) if said is None or isinstance(said, bool) else tree.flatten(said)
    return [x is not None and has_members(x, output, word, **check) for x, output, word in zip(flat, outputs, said)]


def _outputs_of(structure, y_pred, names, count):
    """The output that each target belongs to."""
    outputs = tree.flatten(y_pred)
    if isinstance(structure, dict) and len(outputs) > 1:
        by_name = y_pred if isinstance(y_pred, dict) else dict(zip(names, outputs))
        if set(structure) <= set(by_name):
            return tree.flatten({key: by_name[key] for key in structure})
    return outputs if len(outputs) == count else outputs[:1] * count


def _target_has_members(x, output, said, num_members, outputs):
    rank, packed = len(x.shape), len(output.shape)
    if said is None and rank > packed:
        raise ValueError(
            f"A target of more axes than its output must be said to have a member axis or not. Received: shape "
            f"{_shown(x)} for an output {_shown(output)}. Give compile(member_targets=True) or False."
        )
    own = rank == packed if said is None else said
    if said is None and not own and rank == packed - 1 and _could_be_members(x, output, num_members):
        raise ValueError(
            f"A target for all members must have the shape of one member's output, {tuple(output.shape[2:])} a row. "
            f"Received: shape {_shown(x)}. If axis 1 holds the members, give compile(member_targets=True), else False."
        )
    return _checked(own, x, num_members, "target", "member_targets")


def _shown(x):
    """A shape as the user knows it: a batch, or the rows that the model is prepared with, is a part of it."""
    return f"({', '.join(['B', *map(str, x.shape[1:])])}{',' * (len(x.shape) == 1)})"


def _could_be_members(x, output, num_members):
    return x.shape[1] == num_members and x.shape[1] not in (1, output.shape[2])


def _weight_has_members(x, output, said, num_members, outputs):
    rank, packed = len(x.shape), len(output.shape)
    own = rank == max(packed - 1, 2) if said is None else said
    if said is None and not own and rank != 1:
        raise ValueError(
            f"Sample weights are (B,) or, with the members, {max(packed - 1, 2)} axes here; others must be said to have a "
            f"member axis or not. Received: shape {_shown(x)}. Give compile(member_weights=True) or False."
        )
    return _checked(own, x, num_members, "sample weight", "member_weights")


def _checked(own, x, num_members, what, option):
    if own and (len(x.shape) < 2 or x.shape[1] not in (None, num_members)):
        raise ValueError(
            f"Axis 1 of a {what} of each member must hold the {num_members} members. Received: shape {_shown(x)}. "
            f"If it serves all members, give compile({option}=False)."
        )
    return own


def member_columns(data, model, members, member_targets=None, member_weights=None):
    """A batch for all members of a model, cut to some members where it has a member axis."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    check = {"num_members": model.num_members, "outputs": tree.flatten(model.output)}
    flags = [
        model.member_inputs,
        _flags(y, model.output, model.output_names, member_targets, _target_has_members, check),
        _flags(sample_weight, model.output, model.output_names, member_weights, _weight_has_members, check),
    ]
    return keras.utils.pack_x_y_sample_weight(*(_columns(*pair, members) for pair in zip((x, y, sample_weight), flags)))


def _columns(structure, flags, members):
    flat = [ops.take(x, members, axis=1) if own else x for x, own in zip(tree.flatten(structure), flags)]
    return tree.pack_sequence_as(structure, flat)


def class_weights(y, class_weight, has_members):
    """Sample weights `(B,)` or `(B, N)` from classes, with or without an axis of 1, or one-hot."""
    y = ops.convert_to_numpy(y)
    classes = y if y.ndim == 1 + has_members else y[..., 0] if y.shape[-1] == 1 else y.argmax(axis=-1)
    return np.vectorize(lambda c: class_weight.get(int(c), 1.0), otypes=["float32"])(np.round(classes))
