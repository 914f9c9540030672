"""Inputs of a packed model: for all members, `(B, ...)`, or of each member, `(B, N, ...)`. N members, B rows.

Inputs are *flagged*: a list of bools in the flat order of a model's inputs, true where axis 1 holds the members.
"""

import numpy as np
from keras import tree

from keras_multiweight.layers.plumbing import BatchToMembers
from keras_multiweight.layouts import Layout


def input_flags(member_inputs, inputs):
    """The flags that a user said.

    Args:
        member_inputs: bool for all inputs, or a structure of bools as the inputs.
        inputs: The inputs of one member, as KerasTensors.

    Raises:
        ValueError: Not one bool for each input, or a sparse input of each member.
    """
    flat = tree.flatten(inputs)
    flags = [member_inputs] * len(flat) if isinstance(member_inputs, bool) else tree.flatten(member_inputs)
    if len(flags) != len(flat) or not all(isinstance(flag, bool) for flag in flags):
        raise ValueError(
            f"member_inputs must be a bool, or a structure of bools for the {len(flat)} inputs of the model. "
            f"Received: member_inputs={member_inputs!r}."
        )
    for x, flag in zip(flat, flags):
        if flag and getattr(x, "sparse", False):
            raise ValueError(f"A sparse input has no member axis; make it dense. Received: '{x.name}' in member_inputs.")
    return flags


def at_members(trace, inputs, flags):
    """The inputs of a packed model in the layout that rules take: STACKED where they are flagged, SHARED elsewhere."""

    def place(x, flag):
        if not flag:
            return trace.mark(x, Layout.SHARED)
        layer = BatchToMembers(trace.num_members, name=trace.unique_name("to_members"), dtype=x.dtype)
        return trace.mark(layer(x), Layout.STACKED)

    return tree.pack_sequence_as(inputs, [place(x, flag) for x, flag in zip(tree.flatten(inputs), flags)])


def member_rows(inputs, flags, i):
    """What member `i` reads of arrays that a packed model reads."""
    return tree.pack_sequence_as(inputs, [x[:, i] if flag else x for x, flag in zip(tree.flatten(inputs), flags)])


def spread_rows(inputs, flags, num_members):
    """Arrays for a packed model from those of one member: where flagged, each member gets the rows in another order."""

    def spread(x):
        return np.stack([np.roll(x, i, axis=0) for i in range(num_members)], axis=1)

    return tree.pack_sequence_as(inputs, [spread(x) if flag else x for x, flag in zip(tree.flatten(inputs), flags)])
