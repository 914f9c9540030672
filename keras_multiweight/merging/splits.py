"""Parts of the data for members that are averaged while they train. R rows, N members, B rows a batch."""

import numpy as np
from keras import tree

from keras_multiweight.bagging.dataset import MemberRows
from keras_multiweight.seeding import seed_sequence


class SplitDataset(MemberRows):
    """Feeds each member a part of the data of its own, drawn anew at every epoch.

    The rows are cut into N parts of equal size, without overlap; up to N - 1 rows are left out of an epoch. With
    `PeriodicModelAveraging` this is training on N times the rows a step, which the average brings together.

    Args:
        x: Array `(R, ...)`, or a structure of arrays.
        y: Targets, `(R, ...)`, or a structure. Those of shape `(R,)` come as `(B, N, 1)`.
        num_members: int, N, from 1 to R. Of a model with `member_inputs=True`.
        batch_size: int, B, of each member.
        reshuffle: bool. `False` keeps the parts of the first epoch, in a new order at each.
        sample_weight: `(R,)`.
        seed: int. Left out, the parts are new for each object.

    Example:

    ```python
    multi = kmw.replicate(build, 4, member_inputs=True)
    multi.compile("sgd", "sparse_categorical_crossentropy", member_targets=True)  # labels are (B, N, 1)
    averaging = merging.PeriodicModelAveraging(1, unit="epoch")
    multi.fit(merging.SplitDataset(x, y, 4, seed=0), epochs=20, callbacks=[averaging])
    merged = merging.uniform_soup(multi)
    ```
    """

    def __init__(self, x, y, num_members, batch_size=32, *, reshuffle=True, sample_weight=None, seed=None, **kwargs):
        rows = len(tree.flatten(x)[0])
        if not isinstance(num_members, int) or not 1 <= num_members <= rows:
            raise ValueError(f"num_members must be an int from 1 to the {rows} rows. Received: num_members={num_members!r}.")
        self.reshuffle = reshuffle
        self._shape = (rows // num_members, num_members)
        self._streams = seed_sequence(seed).spawn(2)
        super().__init__(x, y, batch_size, sample_weight=sample_weight, **kwargs)

    def order(self, epoch):
        """The rows that the members see in an epoch, in order: `(R // N, N)` int, each row once at most."""
        parts = np.random.default_rng([*self._streams[0].generate_state(4), epoch if self.reshuffle else 0])
        rows = parts.permutation(len(tree.flatten(self.x)[0]))[: np.prod(self._shape)].reshape(self._shape)
        orders = np.random.default_rng([*self._streams[1].generate_state(4), epoch])
        return orders.permuted(rows, axis=0)
