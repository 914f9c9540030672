"""What each place of a kernel sees of its input, as a list of slices. B rows, C channels."""

import itertools

from keras import ops


def windows(x, taps, strides, padding, dilation_rate):
    """For each place of a kernel, in the order of its numbers, what is multiplied with it: `(B, ..., C)`.

    Args:
        x: `(B, ..., C)`. Sizes that are not known need a stride of 1.
        taps, strides, dilation_rate: Sequences of ints, one for each axis that the kernel moves along.
        padding: "valid" or "same", as in `keras.ops.conv`.
    """
    reaches = [(tap - 1) * rate + 1 for tap, rate in zip(taps, dilation_rate)]
    if padding == "same":
        x = ops.pad(x, [(0, 0), *map(_missing, x.shape[1:-1], reaches, strides), (0, 0)])
    sizes = ops.shape(x)[1:-1]
    spans = [size - reach + 1 for size, reach in zip(sizes, reaches)]

    def seen_from(place):
        starts = [tap * rate for tap, rate in zip(place, dilation_rate)]
        return x[:, *(slice(start, start + span, step) for start, span, step in zip(starts, spans, strides))]

    return [seen_from(place) for place in itertools.product(*map(range, taps))]


def _missing(size, reach, stride):
    """How many zeros "same" padding adds before and after."""
    count = max(reach - 1 - ((size - 1) % stride if stride > 1 else 0), 0)
    return count // 2, count - count // 2


def are_known(x, strides):
    """Whether the sizes of an input that `windows` needs are known."""
    return all(size is not None or stride == 1 for size, stride in zip(x.shape[1:-1], strides))
