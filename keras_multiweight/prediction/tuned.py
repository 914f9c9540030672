"""What `MultiModel.tune` found, as it is kept and saved."""

import dataclasses
import math

import keras


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What won for so many rows on a backend.

    Attributes:
        backend: Name of the Keras backend.
        rows: int, how many rows it was tried on.
        batch_size: int, how many rows are computed at once, at most.
        member_chunk: int, how many members are computed at once.
        jit_compile: bool, as for `Predictor`.
        lowerings: Dict of the layers that take another lowering than the table of costs says, by name.
        gain: float, how many times as fast it is as what would have run untuned.
        threads: int, how many batches are computed at once; None: as `Predictor` chooses.
    """

    backend: str
    rows: int
    batch_size: int
    member_chunk: int
    jit_compile: bool
    lowerings: dict
    gain: float
    threads: int | None = None

    def is_for(self, rows):
        """Whether it is what so many rows are predicted by on this backend, and would be found anew."""
        return self.backend == keras.backend.backend() and self.rows == rows

    def options(self):
        """The arguments of a `Predictor` that follows it."""
        sizes = {"member_chunk": self.member_chunk, "most_rows": self.batch_size, "threads": self.threads}
        return {"jit_compile": self.jit_compile, **sizes}

    def __str__(self):
        layers = "".join(f", {name} by '{lowering}'" for name, lowering in self.lowerings.items())
        cores = f" on each of {self.threads} cores" if (self.threads or 1) > 1 else ""
        return (
            f"Tuned for {self.rows:,} rows on {self.backend}: {self.member_chunk} members and {self.batch_size:,} rows at "
            f"once{cores}, {'' if self.jit_compile else 'not '}compiled{layers}; {self.gain:.2f} times as fast as untuned."
        )


def nearest(tuned, rows):
    """Of the entries of this backend that of the nearest number of rows, within a factor of four; or None."""
    own = [entry for entry in tuned if entry.backend == keras.backend.backend()]
    return min(
        (e for e in own if e.rows <= 4 * rows <= 16 * e.rows), key=lambda e: abs(math.log2(e.rows / rows)), default=None
    )
