"""SurrogateOptimizer: optimise an expensive, noisy function with N networks in one graph. n points, d dimensions."""

import contextlib
import copy
from collections import namedtuple

import numpy as np
from scipy.stats import qmc

from keras_multiweight.surrogate import records, saving
from keras_multiweight.surrogate.acquisitions import EXACT, NOISY, checked_names
from keras_multiweight.surrogate.ensemble import PackedEnsemble, default_network
from keras_multiweight.surrogate.members import STEEPNESS, diversity, is_plain
from keras_multiweight.surrogate.minimize import evaluate
from keras_multiweight.surrogate.pool import DESIGN, RANDOM, Pool
from keras_multiweight.surrogate.search import Search
from keras_multiweight.surrogate.space import Space, keys

TRIES = 200  # batches of random points before a space counts as searched for one that is free

Point = namedtuple("Point", ["x", "y"])
Prediction = namedtuple("Prediction", ["mean", "std", "members"])


class SurrogateOptimizer:
    """Looks for the optimum of a function that is costly to evaluate, by networks that learn it and lead uphill.

    N networks, diverse by optimizer, learning rate, sparsity and data, are one packed model. Most see the points round one
    of a few distinct incumbents, in the coordinates of a box that shrinks and grows; the others see the whole. An `ask`
    trains all of them in one compiled program from their last weights, leads many starts uphill in each of them in a
    second one, and takes candidates by several acquisitions in turn. Its cost does not grow with the evaluations but for
    sorting them.

    After "Parallel optimization via multiple neural networks", with the boxes of TuRBO (Eriksson et al., NeurIPS 2019).

    Args:
        bounds: For each of the d dimensions `(low, high)`, or a `Real`, `Integer` or `Categorical`.
        num_members: int, N. 0 searches the same boxes without networks, which is for comparisons.
        model: A member: a built Keras model, or a function that builds one, from the encoded point `(B, D)` to `(B, 1)`;
            D is d, and for a `Categorical` as many as its choices. Left out, two hidden layers of 32 SiLU units.
        seed: int. Two runs with one seed and equal answers are equal. No global seed is read or set.
        maximize: bool. Look for the largest value in place of the smallest.
        n_init: int, points of a scrambled Sobol design before the networks begin. Left out, `max(20, 2 * d)`.
        batch_size: int, points of an `ask()` that does not say how many.
        noise: The standard deviation of the function's noise, about; left out, the function is taken for exact.
        constraints: A function, or a list of them, from points `(n, d)` to `(n,)` bools: where a point may be evaluated.
        callbacks: Functions that are called with the optimizer after every `tell`.
        member_update: "gradient", or "evolution" for natural evolution strategies, which train without gradients of weights.
        acquisitions: Names of what candidates are chosen by, in turn: "own" (one member's opinion, the members in turn),
            "mean", "bound" (the mean and one standard deviation) and "improvement" (the expected improvement). Left out,
            three of five by "mean"; with noise by "own".

    Raises:
        ValueError: Bad bounds or numbers, by name.

    Example:

    ```python
    optimizer = SurrogateOptimizer([(0, 1)] * 6, seed=0)
    while len(optimizer.pool) < 300:
        x = optimizer.ask(10)  # (10, 6)
        optimizer.tell(x, f(x))
    optimizer.best.x, optimizer.best.y
    ```
    """

    def __init__(
        self,
        bounds,
        num_members=8,
        model=None,
        seed=0,
        maximize=False,
        n_init=None,
        batch_size=8,
        noise=None,
        constraints=None,
        callbacks=(),
        member_update="gradient",
        acquisitions=None,
    ):
        self.space = Space(bounds)
        self.seed, self.maximize, self.batch_size, self.noise = seed, bool(maximize), batch_size, noise or 0.0
        self.n_init = max(20, 2 * self.space.num_dims) if n_init is None else n_init
        limits = {"num_members": (num_members, 0), "n_init": (self.n_init, 1), "batch_size": (batch_size, 1)}
        for name, (value, least) in limits.items():
            if not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"{name} must be an int of at least {least}. Received: {name}={value!r}.")
        if not isinstance(noise, (int, float, np.number, type(None))) or not 0.0 <= self.noise < np.inf:
            raise ValueError(f"noise must be a standard deviation, a number of at least 0. Received: noise={noise!r}.")
        self.num_members, self.member_update = num_members, member_update
        self.acquisitions = checked_names(acquisitions or (NOISY if self.noise else EXACT))
        self.constraints = [constraints] if callable(constraints) else list(constraints or ())
        self.callbacks = list(callbacks)
        self._start(self._ensemble(model))

    def _ensemble(self, model):
        if not self.num_members:
            return None
        width = self.space.width
        steepness = STEEPNESS if is_plain(width, self.noise) else 1.0
        options = {**diversity(self.num_members, bool(self.noise), steepness), "member_update": self.member_update}
        if model is not None:  # what a unit is in a network of the user's is not known
            del options["widths"], options["blocks"], options["steepness"]
        network = default_network(width) if model is None else model
        return PackedEnsemble(network, self.num_members, width, self.seed, **options)

    def _start(self, ensemble):
        width = self.space.width
        self.pool = Pool(self.space, 1 if self.maximize else -1)
        self.rng = np.random.default_rng(self.seed)
        self._design = qmc.Sobol(width, seed=self.seed).random(2 ** int(np.ceil(np.log2(self.n_init))))[: self.n_init]
        self._designed = 0
        self._search = Search(ensemble, width, self.noise, self.rng, self.acquisitions)

    def restart(self, seed):
        """Forget everything and begin anew with another seed, as a new optimizer would, without compiling again."""
        self.seed, ensemble = seed, self._search.ensemble
        if ensemble:
            ensemble.restart(seed)
        self._start(ensemble)

    # ---- ask and tell ----

    def ask(self, n=None):
        """Points to evaluate next, `(n, d)`: within the bounds, allowed, and distinct from all told and pending ones.

        The networks are trained here, if anything was told since they last were.

        Args:
            n: int; left out, `batch_size`.

        Raises:
            ValueError: `n` is no positive int, or so many points are not left.
        """
        n = self.batch_size if n is None else n
        if not isinstance(n, (int, np.integer)) or n < 1:
            raise ValueError(f"ask(n) takes a positive int. Received: n={n!r}.")
        batch = _Batch(self, n)
        self._take_design(batch)
        if batch.missing and self._is_known_enough():
            self._search.learn(self.pool)
            self._take(batch, self._search.next_points(self.pool, batch.units), 20 * n)
        self._fill(batch)
        self.pool.pending.update(zip(batch.keys, batch.origins))
        return np.array(batch.points, self.space.dtype).reshape(n, self.space.num_dims)

    def _is_known_enough(self):
        return not self._in_design() and self.pool.num_known >= 2

    def _in_design(self):
        """Whether the design is still to be asked for: evaluations from elsewhere stand in for it."""
        return max(self._designed, len(self.pool)) < self.n_init

    def _take_design(self, batch):
        while batch.missing and self._in_design():
            batch.offer(self._design[self._designed : self._designed + 1], [DESIGN])
            self._designed += 1

    def _take(self, batch, stream, tries):
        while batch.missing and tries > 0:
            unit, origin = next(stream)
            batch.offer(unit[None], [origin])
            tries -= 1

    def _fill(self, batch):
        """Random points for what is still missing; of a finite space, in the end, whatever is left."""
        for _ in range(TRIES):
            if not batch.missing:
                return
            batch.offer(self.rng.random((64, self.space.width)), [RANDOM] * 64)
        batch.offer_points(self.space.all_points(self.rng), RANDOM)
        if batch.missing:
            raise ValueError(
                "There must be allowed points that were neither told nor are pending. Received: "
                f"ask({batch.size}), where {len(batch.points)} were found."
            )

    def allowed(self, points):
        """Whether decoded points `(n, d)` keep all constraints, (n,)."""
        kept = np.ones(len(points), bool)
        for constraint in self.constraints:
            found = np.asarray(constraint(points), bool)
            if found.size != len(points):
                raise ValueError(f"constraints must give a bool for each of {len(points)} points. Received: {found.size}.")
            kept &= found.reshape(len(points))
        return kept

    def tell(self, points, values):
        """Evaluations: of pending points or of any others, in any order and number. Never trains.

        Args:
            points: (n, d), or one point (d,).
            values: (n,), or a number. NaN is a failed evaluation: it is recorded, and its neighbourhood avoided.

        Raises:
            ValueError: Points outside of the bounds, infinite values, or numbers that do not fit. Nothing is told then.
        """
        points = np.asarray(points, self.space.dtype)
        points = self.space.checked(points[None] if points.ndim == 1 else points)
        values = np.atleast_1d(np.asarray(values, float)).reshape(-1)
        if len(values) != len(points) or np.isinf(values).any():
            raise ValueError(
                "tell(points, values) takes as many values as points, finite or NaN for failed evaluations. Received: "
                f"{len(points)} points and values {values}."
            )
        self.pool.tell(points, values)
        for callback in self.callbacks:
            callback(self)

    def forget(self, points):
        """No longer wait for pending points, which may be asked for again."""
        for key in keys(self.space.checked(points)):
            self.pool.pending.pop(key, None)

    def minimize(self, f, budget, batched=True, executor=None, callback=None):
        """Evaluate `f` until `budget` evaluations are told, failed ones and those of before included. Returns `best`.

        With `maximize=True` the largest value is looked for.

        Args:
            f: From points `(n, d)` to values `(n,)`; with `batched=False` or an `executor`, from one `(d,)` to a number.
            budget: int. Exactly so many are told in the end.
            executor: A `concurrent.futures.Executor`: `batch_size` evaluations are out at any time, and each is told as it
                comes. The order is then the machine's, and runs differ.
            callback: Called with this optimizer after every `tell`; true ends the run.

        Raises:
            Exception: Whatever `f` raises. All that was told before is kept.
        """
        return evaluate(self, f, budget, batched, executor, callback)

    # ---- answers ----

    @property
    def best(self):
        """The best evaluation that was told, `Point(x, y)`.

        Raises:
            ValueError: No evaluation was told, or all failed.
        """
        if not self.pool.num_known:
            raise ValueError("best needs an evaluation that did not fail. Received: none so far.")
        at = self.pool.best()
        return Point(self.pool.points[at], float(self.pool.values[at]))

    def recommend(self):
        """Where the optimum is by the members' judgement, `Point(x, y)`, y as they expect it. Without `noise` it is `best`.

        The best of many noisy values is a lucky draw. Members that train on and on learn some of the noise by heart, each
        its own: copies of them learn anew from the points round the best, and the middle of where they together expect the
        most is taken. That takes some 300 steps, each time; the run goes on as if nothing had been asked.
        """
        if not self.noise or not self.num_members or not self._is_known_enough():
            return self.best
        with self._learned():
            unit, height = self._search.consensus(self.pool)
        point = self.space.decode(unit[None])
        return Point(point[0], self.pool.sign * height) if self.allowed(point)[0] else self.best

    def predict(self, points):
        """What the members expect at points `(n, d)`: `Prediction(mean, std, members)`, (n,), (n,) and (n, N).

        Near a region the members of the whole answer from what the search has taught them, and in its box its own too. Far
        from all regions every member counts, after a copy of it has learned the whole from points that lie apart (in some
        300 steps, each time): a coarse map, as good as these points are many. In `members`, one that does not count is such
        a copy too. No prediction is further beyond the told values than a tenth of their range. `std` is how far those
        that count are at odds, no bound of the error. The run goes on as if nothing had been asked.

        Raises:
            ValueError: Fewer than two evaluations are known, or there are no networks.
        """
        if not self.num_members or self.pool.num_known < 2:
            raise ValueError(
                "predict needs a network and two evaluations that did not fail. Received: "
                f"{self.num_members} members and {self.pool.num_known} evaluations."
            )
        unit = self._encoded(points)
        with self._learned():
            return self._prediction(*self._search.opinions(self.pool, unit))

    def _encoded(self, points):
        return self.space.encode(self.space.checked(points))

    def _prediction(self, heights, counts):
        """From heights `(n, N)`, and which of them count."""
        members = self.pool.sign * heights
        mean = np.average(members, axis=1, weights=counts)
        return Prediction(mean, np.sqrt(np.average((members - mean[:, None]) ** 2, axis=1, weights=counts)), members)

    @contextlib.contextmanager
    def _learned(self):
        """Within it all that was told is learned; afterwards all is as before, so that looking changes no run."""
        plain, arrays = copy.deepcopy(self._search.state())
        drawn = copy.deepcopy(self.rng.bit_generator.state)
        try:
            self._search.learn(self.pool)
            yield
        finally:
            self.rng.bit_generator.state = drawn
            self._search.restore(plain, arrays, self.pool.unit)

    @property
    def history(self):
        """Dict of arrays in the order told: `x` (n, d), `y` (n,), `best` (n,) so far, `origin` (n,) words."""
        return records.history(self.pool)

    def to_dataframe(self):
        """The history as a `pandas.DataFrame` (pandas must be installed)."""
        return records.to_dataframe(self.pool)

    def plot_convergence(self, ax=None, optimum=None):
        """Draw the best value so far, or its distance from a known optimum, by evaluations; returns matplotlib's Axes."""
        return records.plot_convergence(self.pool, ax, optimum)

    # ---- members ----

    def fork(self, i, j=None):
        """Give member `j` the weights of member `i`, so that it goes on apart: on draws of its own, with its own optimizer.

        Args:
            i: int, the parent.
            j: int, another member of the same group. Left out, the one that fits the group's data worst.

        Returns:
            j.
        """
        return self._search.fork(self.pool, i, j)

    def merge(self, i, j):
        """Give member `i` the mean of its weights and those of its fork `j`, if that predicts its data better.

        Returns:
            bool, whether it did. It does not where the two are in different groups, as they may be some evaluations later:
            then they see different data, in different coordinates.
        """
        return self._search.merge(self.pool, i, j)

    # ---- saving ----

    def save(self, path):
        """Write everything that a run needs to go on to one `.npz` file, but for what is code: the model and functions."""
        saving.save(self, path)

    @classmethod
    def load(cls, path, model=None, constraints=None, callbacks=()):
        """A saved optimizer, which goes on as the one that was saved would have.

        Args:
            path: Of the file.
            model, constraints, callbacks: As given when it was made.
        """
        return saving.load(cls, path, model=model, constraints=constraints, callbacks=callbacks)


class _Batch:
    """The points of one `ask`, as they are found."""

    def __init__(self, optimizer, size):
        self.optimizer, self.size = optimizer, size
        self.points, self.keys, self.origins, self.units = [], [], [], []

    @property
    def missing(self):
        return self.size - len(self.points)

    def offer(self, unit, origins):
        """Encoded points `(m, D)`, of which those are taken that are new and allowed, as long as any are missing."""
        points = self.optimizer.space.decode(unit)
        for point, kept, key, row, origin in zip(points, self.optimizer.allowed(points), keys(points), unit, origins):
            if self.missing and kept and key not in self.keys and not self.optimizer.pool.knows(key):
                for found, value in zip((self.points, self.keys, self.origins, self.units), (point, key, origin, row)):
                    found.append(value)

    def offer_points(self, points, origin):
        if len(points):
            self.offer(self.optimizer.space.encode(points), [origin] * len(points))
