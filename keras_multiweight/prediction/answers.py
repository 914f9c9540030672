"""The answers for batch after batch, put together. B rows."""

import numpy as np


class Answers:
    """The outputs for B rows, written into their arrays as the batches come: nothing is held twice.

    Outputs that do not have a row for each row of the inputs are kept, and joined at the end.

    Args:
        rows: int, B. Rows of the last batch beyond it only fill it up, and are left out.
    """

    def __init__(self, rows):
        self._rows = rows
        self._at = 0
        self._wholes = None
        self._parts = []

    def add(self, outputs, rows):
        """Take the outputs for a batch of `rows` rows, a list of arrays."""
        is_first, left = self._at == 0, self._rows - self._at
        if is_first and rows < left and _have_rows(outputs, rows):
            self._wholes = [np.empty((self._rows, *y.shape[1:]), y.dtype) for y in outputs]
        if self._wholes is not None and not _have_rows(outputs, rows):
            self._parts, self._wholes = [[y[: self._at] for y in self._wholes]], None
        outputs = [y[:left] for y in outputs] if rows > left else outputs
        if self._wholes is None:
            self._parts.append(outputs)
        else:
            for whole, y in zip(self._wholes, outputs):
                whole[self._at : self._at + rows] = y
        self._at += rows

    def joined(self):
        """The outputs for all rows."""
        if self._wholes is not None:
            return self._wholes
        return self._parts[0] if len(self._parts) == 1 else list(map(np.concatenate, zip(*self._parts)))


def _have_rows(outputs, rows):
    return all(y.shape[:1] == (rows,) for y in outputs)
