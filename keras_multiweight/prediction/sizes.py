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
        threads: int, how many batches are computed at once, each on a core of its own.
    """

    rows: int
    batch_size: int
    member_chunk: int
    num_members: int
    weights: int
    activations: int
    answers: int
    threads: int = 1

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
        cores = f" on each of {self.threads} cores" if self.threads > 1 else ""
        return (
            f"{self.num_members} members on {self.rows:,} rows, {self.member_chunk} members and {self.batch_size:,} rows at "
            f"once{cores}: weights {_mb(self.weights)}, activations {_mb(self.activations)}, answers {_mb(self.answers)}, "
            f"together {_mb(self.total)}."
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
        self._lanes = lowerings.cores() if self._cached and self._cached.shared else 1
        self.beside = self._cached.beside if self._cached and self.num_members > 1 else 1  # chunks
        self._border = sum(map(_size_a_row, tree.flatten(model.outputs)))
        sizes = [math.prod(v.shape) for v in model.variables]
        self._weights = sum(sizes)
        self._largest_weight = max(sizes, default=0) / self.num_members

    def members(self, rows, member_chunk=None, memory_limit=None, threads=1):
        """How many members are computed at once, for so many rows, on each of so many cores."""
        if self.num_members == 1:
            return 1
        count = min(member_chunk or self._cached_members(rows, threads), self.num_members)
        while count > 1 and not self.fit(rows, count, memory_limit, threads):
            count = math.ceil(count / 2)
        return count if member_chunk else _evenly(self.num_members, count, self._lanes)

    def dealt(self, rows, most, threads=None, memory_limit=None, most_of_all=MOST_ROWS):
        """How many of so many rows each core takes at a time, at most `most`, or `most_of_all` where products are large;
        None where cores share each batch.
        """
        count, dealt = threads or lowerings.cores(), self._cached.dealt if self._cached else None
        if not rows or self.num_members == 1 or count == 1 or (dealt is None and threads is None):
            return None
        even = max(math.ceil(rows / count), 2)  # of one row nothing would tell whether rows meet
        if threads:
            return min(even, most) if rows > min(even, most) else None
        least = math.ceil(dealt.least * self.num_members / self._widest)
        size = min(max(even, least), most_of_all)
        if size * self._largest_weight < dealt.large or not self.fit(size, 1, memory_limit, count):
            size = min(size, max(dealt.rows, dealt.all // self._widest), most)
        size = math.ceil(rows / (math.ceil(rows / (count * size)) * count))  # as much for each core
        fits = size < rows and min(size, dealt.rows) * self._largest_weight <= dealt.product
        return None if self._are_in_caches(rows) or not fits else size

    def chunks(self, members):
        """How many chunks so many members are."""
        return math.ceil(self.num_members / members)

    def rows(self, memory_limit=None, member_chunk=None, most_rows=None):
        """How many rows are computed at once at most: `most_rows`, or a power of two up to 8192."""
        rows = most_rows or self._cached_rows()
        while rows > 1 and not self.fit(rows, member_chunk or 1, memory_limit):
            rows //= 2
        return rows

    def fit(self, rows, members, memory_limit, threads=1):
        """Whether so many batches at once stay within the limit."""
        return memory_limit is None or threads * self.activations(rows, members) <= memory_limit

    def check(self, rows, members, memory_limit):
        """Raise where even this is more than the limit."""
        if not self.fit(rows, members, memory_limit):
            raise ValueError(
                f"memory_limit must hold what {members} of the members take for {rows} of the rows, an estimated "
                f"{_mb(self.activations(rows, members))}. Received: memory_limit={memory_limit:,} bytes."
            )

    def activations(self, rows, members):
        """Bytes that are held while a batch is computed, its answers and its slices of the weights among them."""
        in_chunks = members < self.num_members
        at_once = min(members * self.beside, self.num_members) if in_chunks else members
        slices = self._weights if in_chunks else 0
        held = (rows * LAYERS_AT_ONCE * self._widest + slices) * at_once / self.num_members + rows * self._border
        return math.ceil(self._bytes * held)

    def estimate(self, rows, batch_size, member_chunk, threads=1):
        """The `Estimate` for rows that are computed so."""
        return Estimate(
            rows,
            batch_size,
            member_chunk,
            self.num_members,
            self._bytes * self._weights,
            threads * self.activations(min(rows, batch_size), member_chunk),
            self._bytes * rows * self._border,
            threads,
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

    def _are_in_caches(self, rows):
        return self._widest * rows <= self._cached.whole + self._cached.copies * self._weights

    def _cached_members(self, rows, threads):
        cached = self._cached
        if cached is None:
            return self.num_members
        if threads == 1 and (self._are_in_caches(rows) or rows < cached.rows):
            return self.num_members
        chunk, most = cached.chunk, self.num_members
        if threads > 1:
            chunk, most = (cached.dealt and cached.dealt.chunk) or chunk, self.num_members // 2
        count = min(int(chunk * self.num_members / (self._widest * rows + self._weights)), most)
        return count if count > cached.few else 1


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


def _evenly(total, most, lanes):
    """The size of chunks, at most so large, with which all cost least: the last one is filled up by members once more.

    So many lanes compute the members of a chunk, as many each: where none is left for the last lanes, these wait.
    """

    def cost(size):
        return math.ceil(total / size) * (math.ceil(size / lanes) * lanes + CHUNK_COSTS)

    return min(range(most, 0, -1), key=cost)


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
