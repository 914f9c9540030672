"""Where the member axis is.

Read this file first. Inside a packed graph every tensor is in one of four layouts; N members, B rows, C channels:

| layout  | shape           | who makes it                                                             |
|---------|-----------------|--------------------------------------------------------------------------|
| SHARED  | `(B, ..., C)`   | inputs, and whatever all members compute alike: no member axis           |
| STACKED | `(N, B, ..., C)`| dense, attention, recurrent: a batched matmul wants the members first    |
| FOLDED  | `(N*B, ..., C)` | layers without weights that treat every row alone: members are more rows |
| GROUPED | `(B, ..., N*C)` | convolution and its company: members are more channels, member-major     |

STACKED and FOLDED are one memory order, so the change between them is free; GROUPED is a transposition away.
The layout of a tensor is known from the rule that made it and kept in a `packing.trace.Trace`; it is never guessed
from a rank or a size, because `(B, T, C)` and `(N, B, C)` look alike.

A Keras mask is always in the layout of the tensor that carries it.
"""

import enum


class Layout(enum.Enum):
    """The place of the member axis in a tensor of a packed graph."""

    SHARED = "shared"
    STACKED = "stacked"
    FOLDED = "folded"
    GROUPED = "grouped"
