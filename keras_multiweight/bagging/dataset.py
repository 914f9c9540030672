"""Rows of its own for each member, in an order of its own. R rows, N members, B rows a batch."""

import numpy as np
from keras import tree

from keras_multiweight.bagging.oob import checked_targets
from keras_multiweight.bagging.resampling import checked_count
from keras_multiweight.seeding import seed_sequence
from keras_multiweight.training.steps import RowDataset


class MemberRows(RowDataset):
    """Batches `(B, N, ...)` of rows that each member sees in an order of its own, taken from one copy of the data.

    A subclass says in `order(epoch)` which rows these are.

    Args:
        x: Array `(R, ...)`, or a structure of arrays.
        y: Targets, `(R, ...)`, or a structure.
        batch_size: int, B.
        sample_weight: `(R,)`.
    """

    def __init__(self, x, y, batch_size=32, *, sample_weight=None, **kwargs):
        super().__init__(**kwargs)
        self.batch_size = checked_count(batch_size, "batch_size")
        self.x, self.y = tree.map_structure(np.asarray, (x, y))
        rows = len(tree.flatten(self.x)[0])
        self.y = tree.map_structure(lambda y: _with_axis(checked_targets(y, rows)), self.y)
        weights = () if sample_weight is None else (checked_targets(sample_weight, rows),)
        self.arrays = (self.x, self.y, *weights)
        self._epoch = -1
        self.rows = self.order(0)

    def order(self, epoch):
        """The rows that the members see in an epoch, in order: `(rows of an epoch, N)` int."""
        raise NotImplementedError

    def on_epoch_begin(self):  # not `on_epoch_end`, which Keras calls before the first epoch too
        self._epoch += 1
        self.rows = self.order(self._epoch)


def _with_axis(y):
    """(R,) as (R, 1): of (B, N) nobody could tell whether axis 1 holds members."""
    return y[:, None] if y.ndim == 1 else y


class BaggingDataset(MemberRows):
    """Feeds each member the rows that it drew, as a separate `fit` on those rows would see them.

    For models whose members read inputs of their own, `pack(models, member_inputs=True)` or
    `replicate(..., member_inputs=True)`. The batches are `(B, N, ...)`, taken from one copy of the data, with
    `compile(steps_per_execution="auto")` on the device and inside the program that trains; after training
    `multi.select(range(N), member_inputs=False)` is the model whose members answer the same rows.

    Args:
        x: Array `(R, ...)`, or a structure of arrays.
        y: Targets, `(R, ...)`, or a structure.
        bootstrap: A `Bootstrap` of the R rows. The members' draws must be of one length. Where it has features, `x` is one
            array, and each member reads its own from the last axis.
        batch_size: int, B.
        shuffle: bool. Every member sees its rows in a new order at each epoch. `False`: in the order drawn.
        sample_weight: `(R,)`.
        seed: int, of the orders.

    The order of the rows is the data set's, whatever `fit(shuffle=)` says; the short batch is the last.

    Example:

    ```python
    multi = kmw.replicate(build, 20, member_inputs=True)
    bootstrap = kmw.Bootstrap(len(x), 20, seed=0)
    multi.fit(kmw.BaggingDataset(x, y, bootstrap, batch_size=32, seed=0), epochs=10)
    ```
    """

    def __init__(self, x, y, bootstrap, batch_size=32, *, shuffle=True, sample_weight=None, seed=None, **kwargs):
        self.bootstrap, self.shuffle = bootstrap, shuffle
        self._check(x, y, sample_weight)
        self.finish = None if bootstrap.features is None else self._own_features
        self._drawn = np.stack(bootstrap.indices, axis=1)  # (rows drawn, N)
        self._seeds = seed_sequence(seed).spawn(bootstrap.num_members)
        super().__init__(x, y, batch_size, sample_weight=sample_weight, **kwargs)

    def __repr__(self):
        return f"<{type(self).__name__}: batches of {self.batch_size} rows of each member, {self.bootstrap!r}>"

    def _check(self, x, y, sample_weight):
        given = {"x": x, "y": y, **({} if sample_weight is None else {"sample_weight": np.asarray(sample_weight)})}
        found = {name: {(np.shape(part) or (1,))[0] for part in tree.flatten(data)} for name, data in given.items()}
        if set().union(*found.values()) != {self.bootstrap.num_rows}:
            lengths = ", ".join(f"{name} of {' and '.join(map(str, sorted(sizes)))}" for name, sizes in found.items())
            raise ValueError(
                "x, y and the bootstrap must be of the same rows; a list is a list of arrays. "
                f"Received: {lengths} and a bootstrap of {self.bootstrap.num_rows} rows."
            )
        lengths = sorted({len(drawn) for drawn in self.bootstrap.indices})
        if len(lengths) > 1:
            raise ValueError(
                "Members must draw as many rows each to be fed side by side. Received: a bootstrap that draws from "
                f"{lengths[0]} to {lengths[-1]} rows, as whole groups do. Train with sample_weight=bootstrap.weights."
            )
        if self.bootstrap.features is not None and not hasattr(x, "shape"):
            raise ValueError("Features are drawn from the last axis of one array x. Received: a structure of arrays.")

    def order(self, epoch):
        if not self.shuffle:
            return self._drawn
        rngs = [np.random.default_rng([*seed.generate_state(4), epoch]) for seed in self._seeds]
        return np.stack([rng.permutation(drawn) for rng, drawn in zip(rngs, self._drawn.T)], axis=1)

    def _own_features(self, batch, numpy):
        """Each member's features of rows `(B, N, ..., C)`: `(B, N, ..., F)`."""
        x, *others = batch
        features = self.bootstrap.features  # (N, F)
        features = features.reshape(1, len(features), *[1] * (len(x.shape) - 3), -1)
        return numpy.take_along_axis(x, features, axis=-1), *others
