"""How much is computed at once, and how many bytes that takes. N members, B rows."""

import dataclasses
import math
import numbers

import keras
from keras import tree

from keras_multiweight.prediction import lowerings

MOST_ROWS = 8192  # in a batch
CHUNKED_ROWS = 1024  # in a batch of a chunk of members: enough for products to be at full speed
LEAST_ROWS = 32  # in a batch, where memory allows: fewer leave most of what a call costs to be paid again
CHUNK_COSTS = 0.25  # of what a member costs, beside its members
COPIES = 1 / 8  # how many numbers out of the caches cost what the copy of a weight for its chunk does
LAYERS_AT_ONCE = 3  # outputs of layers that are held at once, as large as the largest
PART_OF_FREE = 0.5  # of the memory that is free


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What predicting takes. N members, B rows.

    Attributes:
        rows: B.
        batch_size: int, how many rows are computed at once.
        member_chunk: int, how many members are computed at once.
        weights: Bytes of all weights, which are there already.
        activations: Bytes that are held while a batch of a chunk is computed, with its slices of the weights: an estimate
            from the largest output of a layer.
        answers: Bytes of the answers for all rows.
    """

    rows: int
    batch_size: int
    member_chunk: int
    num_members: int
    weights: int
    activations: int
    answers: int

    @property
    def total(self):
        """Bytes of all."""
        return self.weights + self.activations + self.answers

    @property
    def num_batches(self):
        return math.ceil(self.rows / self.batch_size)

    @property
    def num_chunks(self):
        return math.ceil(self.num_members / self.member_chunk)

    def __str__(self):
        return (
            f"{self.num_members} members on {self.rows:,} rows, {self.member_chunk} members and {self.batch_size:,} rows at "
            f"once: weights {_mb(self.weights)}, activations {_mb(self.activations)}, answers {_mb(self.answers)}, together "
            f"{_mb(self.total)}."
        )


def _mb(size):
    return f"{size / 1e6:,.3g} MB" if size < 1e9 else f"{size / 1e9:,.3g} GB"


class Sizes:
    """How many rows and members a model computes at once, by the caches and a limit of memory.

    Args:
        model: A Keras model; the members of a `MultiModel` can be computed in chunks.
        chunks: bool. False: all members at once.
    """

    def __init__(self, model, chunks=True):
        self.num_members = model.packed().num_members if chunks and hasattr(model, "packed") else 1
        self._bytes = _itemsize(model.compute_dtype)
        self._cached = lowerings.cached(model)
        self._widest = max(_widest(model), 1)
        self._border = sum(map(_size_a_row, tree.flatten(model.outputs)))
        self._weights = sum(math.prod(v.shape) for v in model.variables)

    def members(self, rows, member_chunk=None, memory_limit=None):
        """How many members are computed at once, for so many rows."""
        if self.num_members == 1:
            return 1
        count = min(member_chunk or self._cached_members(rows), self.num_members)
        while count > 1 and memory_limit is not None and self.activations(rows, count) > memory_limit:
            count = math.ceil(count / 2)
        return count if member_chunk else _evenly(self.num_members, count)

    def chunks(self, members):
        """How many chunks so many members are."""
        return math.ceil(self.num_members / members)

    def rows(self, memory_limit=None, member_chunk=None, most_rows=None):
        """How many rows are computed at once at most: `most_rows`, or a power of two up to 8192."""
        rows = most_rows or self._cached_rows()
        while rows > 1 and memory_limit is not None and self.activations(rows, member_chunk or 1) > memory_limit:
            rows //= 2
        return rows

    def check(self, rows, members, memory_limit):
        """Raise where even this is more than the limit."""
        if memory_limit is not None and self.activations(rows, members) > memory_limit:
            raise ValueError(
                f"memory_limit must hold what {members} of the members take for {rows} of the rows, an estimated "
                f"{_mb(self.activations(rows, members))}. Received: memory_limit={memory_limit:,} bytes."
            )

    def activations(self, rows, members):
        """Bytes that are held while a batch is computed, its answers and its slices of the weights among them."""
        slices = self._weights if members < self.num_members else 0
        held = (rows * LAYERS_AT_ONCE * self._widest + slices) * members / self.num_members + rows * self._border
        return math.ceil(self._bytes * held)

    def estimate(self, rows, batch_size, member_chunk):
        """The `Estimate` for rows that are computed so."""
        return Estimate(
            rows,
            batch_size,
            member_chunk,
            self.num_members,
            self._bytes * self._weights,
            self.activations(min(rows, batch_size), member_chunk),
            self._bytes * rows * self._border,
        )

    def _cached_rows(self):
        return max(min(_power_of_two(self._rows_in_caches()), MOST_ROWS), LEAST_ROWS)

    def _rows_in_caches(self):
        """How many rows stay in the caches."""
        cached = self._cached
        if self.num_members == 1 or cached is None:
            return lowerings.batch_numbers() / self._widest
        widest = self._widest / self.num_members * min(cached.members, self.num_members)  # of the smallest chunk
        return max(cached.whole / self._widest, min((cached.batch or cached.chunk) / widest, CHUNKED_ROWS))

    def _cached_members(self, rows):
        cached = self._cached
        if cached is None or rows < cached.rows or self._widest * rows <= cached.whole + COPIES * self._weights:
            return self.num_members
        return max(int(cached.chunk * self.num_members / (self._widest * rows + self._weights)), 1)


def memory_limit_in_bytes(memory_limit):
    """The limit as given, or by default a part of what is free; None where nothing tells what is."""
    if memory_limit is not None:
        if not isinstance(memory_limit, numbers.Real) or not memory_limit > 0:
            raise ValueError(
                f"memory_limit must be a number of bytes above 0. Received: memory_limit={memory_limit!r}. "
                "Two gigabytes are 2e9."
            )
        return int(memory_limit)
    free = lowerings.free_memory()
    return None if free is None else int(PART_OF_FREE * free)


def _evenly(total, most):
    """The size of chunks, at most so large, with which all cost least: the last one is filled up by members once more."""
    return min(range(most, 0, -1), key=lambda size: math.ceil(total / size) * (size + CHUNK_COSTS))


def _power_of_two(number):
    return 2 ** int(math.log2(max(number, 1)))


def _itemsize(dtype):
    return int("".join(filter(str.isdigit, dtype)) or 32) // 8


def _widest(layer):
    """The size of a layer's outputs for one row of input, or of the largest outputs of a model's layers."""
    if isinstance(layer, keras.Model) and layer.layers:
        return max(map(_widest, layer.layers))
    return sum(map(_size_a_row, tree.flatten(layer.output)))


def _size_a_row(y):
    """The size of a tensor for one row of input, with 64 in the place of open dimensions."""
    shape = list(y.shape)
    if None in shape:
        shape.remove(None)  # the batch
    return math.prod(d or 64 for d in shape)
