"""Which rows and features each member of a bagging ensemble sees. R rows, N members.

Breiman, "Bagging predictors", 1996. Every member draws from a random stream of its own, so that member i draws the same
rows however many members there are.
"""

import math

import numpy as np

from keras_multiweight.bagging.streams import weighted
from keras_multiweight.seeding import seed_sequence

STREAMS = {"rows": 0, "features": 1}


class Bootstrap:
    """The rows, and the features, that each member draws.

    Args:
        num_rows: int, R.
        num_members: int, N.
        max_samples: How many rows a member draws, as in scikit-learn: an int is a number, a float a fraction of the
            rows, which may be above 1 with replacement; of the groups, where `groups` are given.
        replace: bool. Draw with replacement.
        stratify: `(R,)` labels: every member draws from each class its share of the rows, to within one row.
        groups: `(R,)` labels of what is drawn whole: a patient's rows come together, or not at all.
        block: int. Draw runs of so many rows that follow each other, for time series: the moving block bootstrap of
            Künsch, "The jackknife and the bootstrap for general stationary observations", 1989.
        num_features: int. Needed to draw features.
        max_features: How many features a member draws: int, or float of all.
        bootstrap_features: bool. Draw features with replacement.
        seed: int, for the same draws at every call. Left out, they are new each time.

    Attributes:
        indices: List of N int arrays: the rows of each member, in the order drawn.
        counts: `(R, N)` int: how often each member drew each row.
        weights: `(R, N)` float32 for `fit(sample_weight=)`: the counts, divided by their mean over the rows, so that the
            mean loss over all rows is the mean over the rows that the member drew.
        oob_mask: `(R, N)` bool: the rows that a member did not draw.
        features: `(N, F)` int: the features of each member, or None where all have all.

    Raises:
        ValueError: Sizes that are not positive, larger than what there is to draw from without replacement, or labels
            of another length.

    Example:

    ```python
    bootstrap = kmw.Bootstrap(len(x), 20, seed=0)
    multi.fit(x, y, sample_weight=bootstrap.weights)
    multi.oob_score(x, y, bootstrap, "accuracy")
    ```
    """

    def __init__(
        self,
        num_rows,
        num_members,
        max_samples=1.0,
        replace=True,
        stratify=None,
        groups=None,
        block=None,
        num_features=None,
        max_features=1.0,
        bootstrap_features=False,
        seed=None,
    ):
        self.num_rows = checked_count(num_rows, "num_rows")
        self.num_members = checked_count(num_members, "num_members")
        draw = _draw_function(self.num_rows, max_samples, replace, stratify, groups, block)
        streams = seed_sequence(seed).spawn(self.num_members)
        self.indices = [draw(_generator(stream, "rows")) for stream in streams]
        self.features = _draw_features(streams, num_features, max_features, bootstrap_features)

    def __repr__(self):
        sizes = sorted({len(rows) for rows in self.indices})
        drawn = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        features = "" if self.features is None else f" and {self.features.shape[1]} features"
        return f"<Bootstrap: {self.num_members} members, each of {drawn} of {self.num_rows} rows{features}>"

    @property
    def counts(self):
        return np.stack([np.bincount(rows, minlength=self.num_rows) for rows in self.indices], axis=1)

    @property
    def weights(self):
        counts = self.counts
        return (counts / counts.mean(axis=0)).astype("float32")

    @property
    def oob_mask(self):
        return self.counts == 0

    def take_features(self, x):
        """Each member's features of rows `(B, F)`: `(B, N, F of a member)`. Where all have all, `x` itself."""
        return x if self.features is None else x[:, self.features]


class PoissonWeights:
    """Bootstrap weights for streams of unknown length: how often a member sees a row has a Poisson distribution.

    A row of a long data set is drawn so often by a bootstrap. Batch number k has the same weights at every epoch, so that
    a member keeps its sample where the data come in the same order.

    Args:
        num_members: int, N.
        rate: float: how often a member sees a row, on average.
        seed: int. Left out, the weights are new for each object.

    Example:

    ```python
    poisson = kmw.PoissonWeights(20, seed=0)
    multi.fit(poisson.weigh(dataset), epochs=5)
    ```

    Reference: Oza and Russell, "Online bagging and boosting", 2001.
    """

    def __init__(self, num_members, rate=1.0, seed=None):
        self.num_members = checked_count(num_members, "num_members")
        if not (isinstance(rate, (int, float)) and 0 < rate < math.inf):
            raise ValueError(f"rate must be a positive number. Received: rate={rate!r}.")
        self.rate = rate
        self.entropy = seed_sequence(seed).entropy

    def batch_weights(self, batch, rows):
        """The weights of batch number `batch`, `(rows, N)` float32."""
        rng = np.random.default_rng([self.entropy, batch])
        return rng.poisson(self.rate, (rows, self.num_members)).astype("float32")

    def weigh(self, data):
        """The same batches with sample weights, for `fit`: a PyDataset, a `tf.data.Dataset` or a generator, as `data` is.

        Sample weights that the batches have are multiplied.
        """
        return weighted(data, self.batch_weights)


def checked_count(value, name, least=1):
    """An int of at least `least`; bools and fractions are none."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        received = f"{name}={value!r}" if np.ndim(value) == 0 else f"an array of shape {np.shape(value)}"
        raise ValueError(f"{name} must be an int of at least {least}. Received: {received}.")
    return int(value)


def sample_size(size, available, name, replace):
    """How many to draw of what is available: an int is a number, a float a fraction, at least one."""
    if isinstance(size, (float, np.floating)):
        if not 0 < size < math.inf or (size > 1 and not replace):
            limit = "" if replace else ", at most 1 without replacement"
            raise ValueError(f"{name} as a float must be a positive fraction{limit}. Received: {name}={size!r}.")
        return max(int(size * available), 1)
    size = checked_count(size, name)
    if size > available and not replace:
        raise ValueError(
            f"{name} must be at most {available} to draw without replacement. Received: {name}={size}. "
            f"Give {'bootstrap_features=True' if name == 'max_features' else 'replace=True'} to draw with it."
        )
    return size


def _generator(stream, purpose):
    """The random numbers of a member for one purpose, whatever it draws for another."""
    return np.random.default_rng(np.random.SeedSequence([*stream.generate_state(4), STREAMS[purpose]]))


def _draw_features(streams, num_features, max_features, replace):
    if max_features == 1.0 and not isinstance(max_features, int) and not replace:
        return None
    if num_features is None:
        raise ValueError("num_features must be given to draw features. Received: num_features=None.")
    available = checked_count(num_features, "num_features")
    size = sample_size(max_features, available, "max_features", replace)
    rngs = [_generator(stream, "features") for stream in streams]
    return np.stack([rng.choice(available, size, replace=replace) for rng in rngs])


# ---- how rows are drawn: each function returns `draw(rng) -> rows` ----


def _draw_function(num_rows, max_samples, replace, stratify, groups, block):
    kinds = {"stratify": (stratify, _strata), "groups": (groups, _whole_groups), "block": (block, _blocks)}
    given = {name: kind for name, kind in kinds.items() if kind[0] is not None}
    if len(given) > 1:
        raise ValueError(f"Rows are drawn in one way. Received: {' and '.join(given)}.")
    for value, make in given.values():
        return make(value, num_rows, max_samples, replace)
    size = sample_size(max_samples, num_rows, "max_samples", replace)
    return lambda rng: rng.choice(num_rows, size, replace=replace)


def _strata(labels, num_rows, max_samples, replace):
    rows_of = _rows_by_label(labels, num_rows, "stratify")
    shares = np.array([len(rows) for rows in rows_of]) * (
        sample_size(max_samples, num_rows, "max_samples", replace) / num_rows
    )

    def draw(rng):
        sizes = _rounded(shares, rng)
        drawn = [rng.choice(rows, size, replace=replace) for rows, size in zip(rows_of, sizes)]
        return rng.permutation(np.concatenate(drawn))

    return draw


def _rounded(shares, rng):
    """Ints beside the shares, of the same sum: the largest remainders are rounded up, equal ones by chance."""
    sizes = np.floor(shares + 1e-9).astype(int)
    order = np.lexsort((rng.random(len(shares)), np.round(sizes - shares, 9)))
    sizes[order[: round(shares.sum()) - sizes.sum()]] += 1
    return sizes


def _whole_groups(labels, num_rows, max_samples, replace):
    rows_of = _rows_by_label(labels, num_rows, "groups")
    size = sample_size(max_samples, len(rows_of), "max_samples", replace)
    return lambda rng: np.concatenate([rows_of[g] for g in rng.choice(len(rows_of), size, replace=replace)])


def _blocks(length, num_rows, max_samples, replace):
    length = checked_count(length, "block")
    if length > num_rows or not replace:
        raise ValueError(
            f"A block bootstrap draws runs of at most num_rows={num_rows} rows, with replacement. "
            f"Received: block={length}, replace={replace}."
        )
    size = sample_size(max_samples, num_rows, "max_samples", replace)

    def draw(rng):
        starts = rng.integers(num_rows - length + 1, size=math.ceil(size / length))
        return (starts[:, None] + np.arange(length)).reshape(-1)[:size]

    return draw


def _rows_by_label(labels, num_rows, name):
    """The numbers of the rows of each label."""
    labels = np.asarray(labels)
    if labels.shape != (num_rows,):
        raise ValueError(f"{name} must have one label for each of the {num_rows} rows. Received: shape {labels.shape}.")
    _, codes = np.unique(labels, return_inverse=True)
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
