"""From evaluations to candidates: train the members on their windows, ascend, choose. N members, n points, D dimensions."""

import numpy as np

from keras_multiweight.surrogate.acquisitions import ACQUISITIONS
from keras_multiweight.surrogate.frames import box_of, denormalised, normalised, whole_cube
from keras_multiweight.surrogate.members import dealt, groups
from keras_multiweight.surrogate.regions import LARGEST, Niches

NUM_REGIONS = 2
TRAIN_STEPS, PRETRAIN_STEPS, ASCENT_STEPS = 100, 300, 20
STARTS = 8  # a member
DRAWS = 64  # candidates of a region that no member leads to
GAP = 0.1  # of half a box: how far the candidates of one batch are apart, root mean square
CONSENSUS = 20  # points whose middle is recommended where the function is noisy
DRAWN_DIMS = 20  # of a draw, about as many coordinates differ from the incumbent's


class Search:
    """What is learned from a `Pool`, and what is proposed next.

    Args:
        ensemble: A `PackedEnsemble`, or None to search without networks, by draws in the same boxes.
        width: D.
        noise: The standard deviation of the noise, or 0.
        rng: The private `numpy.random.Generator`.
        acquisitions: List of names of `ACQUISITIONS`, which have their turns.

    Attributes:
        groups: For each region the numbers of the members that serve it now, and at the end those of the whole cube.
        seen: How many of the pool's points were learned.
        trust: Rank correlation of what was predicted for the last points with what was told, a moving average, in 0..1.
    """

    def __init__(self, ensemble, width, noise, rng, acquisitions):
        self.ensemble, self.rng, self.noise, self.acquisitions = ensemble, rng, noise, acquisitions
        num_members = ensemble.num_members if ensemble else 0
        num_local = num_members - len(groups(num_members, 1)[1])
        self.num_regions = min(NUM_REGIONS, num_local) if ensemble else NUM_REGIONS
        self.groups = self._home = groups(num_members, self.num_regions)
        self.window = int(np.clip(8 * width, 64, 128)) * (2 if noise else 1)
        self.niches = Niches(self.num_regions, patience=max(6, width), floor=2 * noise)
        self.frames, self.seen, self.turn, self.trust = [], 0, 0, 1.0

    # ---- learning ----

    def learn(self, pool):
        """Take in what was told since the last time: one training program."""
        if len(pool) == self.seen:
            return
        self._judge(pool)
        heights = pool.heights
        if self.noise and self.frames and self.ensemble:
            self._train(pool, TRAIN_STEPS)
            heights = self.expected(pool)
        self.niches.update(pool.unit, heights, pool.origins)
        self._deal()
        self._train(pool, TRAIN_STEPS if self._is_trained() else PRETRAIN_STEPS)

    def _deal(self):
        """Members to the regions in play. Under noise those of the whole stay: they say what is expected far from all."""
        stay = self._home[-1:] if self.noise else []
        self.groups = dealt(self._home[: len(self._home) - len(stay)], self.niches.in_play()) + stay

    def _train(self, pool, steps):
        """All members on the windows of their groups, as the regions are now."""
        self.seen = len(pool)
        self.frames = self.make_frames(pool.unit)
        if self.ensemble:
            self.ensemble.train(*self._windows(pool.unit, pool.heights), steps)

    def learn_whole(self, pool):
        """Send the members home, those of the whole cube too, and train them there: now they can speak for any point."""
        self.groups = self._home
        self._train(pool, PRETRAIN_STEPS)

    def _is_trained(self):
        return self.ensemble is not None and self.ensemble.steps.any()

    def make_frames(self, unit):
        leader = self.niches.regions[self.niches.ranked()[0]]  # which stands for a region that has not begun
        return [box_of(region or leader, unit, self.window) for region in self.niches.regions] + [whole_cube(unit)]

    def _judge(self, pool):
        """Compare what the members expect at the points told since the last time with what was told."""
        new = slice(self.seen, None)
        if self.frames and self.ensemble and len(pool) - self.seen > 2:
            correlation = _rank_correlation(self.expected(pool)[new], pool.heights[new])
            self.trust = 0.7 * self.trust + 0.3 * max(correlation, 0.0)

    def expected(self, pool):
        """(n,): what the group that knows a point best expects there."""
        heights, known = pool.heights, pool.heights[: self.seen]
        expected, done = heights.copy(), np.zeros(len(heights), bool)
        for frame, members in zip(self.frames, self.groups):
            rows = np.flatnonzero(~done) if frame.is_cube else frame.rows[: self.window][~done[frame.rows[: self.window]]]
            if len(rows) and len(members):
                answers = self.answers([frame] * len(self.groups), pool.unit[rows], known)[:, members]
                expected[rows], done[rows] = answers.mean(axis=1), True
        return expected

    def consensus(self, pool):
        """(D,): the middle of the points that the members expect to be the best, of those round the very best."""
        expected = self.expected(pool)
        near = np.flatnonzero(np.abs(pool.unit - pool.unit[expected.argmax()]).max(axis=1) <= LARGEST)
        return pool.unit[near[np.argsort(-expected[near], kind="stable")[:CONSENSUS]]].mean(axis=0)

    def answers(self, frames, unit, known):
        """(n, N): what every member predicts at points, as heights, each in its group's frame."""
        answers = np.empty((len(unit), self.ensemble.num_members))
        for start in range(0, len(unit), self.window):
            block = unit[start : start + self.window]
            x = np.zeros((self.window, self.ensemble.num_members, unit.shape[1]))
            for frame, members in zip(frames, self.groups):
                x[: len(block), members] = frame.to_own(block)[:, None]
            answers[start : start + self.window] = self.ensemble.predict(x)[: len(block)]
        for frame, members in zip(frames, self.groups):
            answers[:, members] = denormalised(answers[:, members], known[frame.rows[: _scale_rows(frame, self.window)]])
        return answers

    def _windows(self, unit, heights):
        """The data of each member: rows `(W, N, D)`, targets and weights `(W, N)`, zero beyond what there is."""
        shape = (self.window, self.ensemble.num_members)
        x, y, weights = np.zeros((*shape, unit.shape[1])), np.zeros(shape), np.zeros(shape)
        for frame, members in zip(self.frames, self.groups):
            targets = np.zeros(len(heights))
            scaled = frame.rows[: _scale_rows(frame, self.window)]
            targets[scaled] = normalised(heights[scaled])
            for i in members:
                rows = frame.window(heights, self.window, self.rng)
                x[: len(rows), i], y[: len(rows), i] = frame.to_own(unit[rows]), targets[rows]
                weights[: len(rows), i] = np.sqrt(self.rng.exponential(size=len(rows)))  # a gentle bootstrap
        return x, y, weights

    # ---- proposing ----

    def candidates(self, pool):
        """Of the regions in play, by number: candidates `(P, D)` and what its M members predict there, `(P, M)`."""
        unit, heights, playing = pool.unit[: self.seen], pool.heights[: self.seen], self.niches.in_play()
        draws = {number: self._draws(self.frames[number]) for number in playing}
        if not self.ensemble:
            return {number: (points, np.empty((len(points), 0))) for number, points in draws.items()}
        ends = self._ascend(unit, heights)
        size = DRAWS + STARTS * self.ensemble.num_members
        x = np.zeros((size, self.ensemble.num_members, unit.shape[1]))
        for number, drawn in draws.items():
            frame, members = self.frames[number], self.groups[number]
            led = [frame.to_unit(ends[:, i]) for i in members]
            draws[number] = np.resize(pool.space.snapped(np.concatenate([*led, drawn])), (size, unit.shape[1]))
            x[:, members] = frame.to_own(draws[number])[:, None]
        predictions = self.ensemble.predict(x)
        return {number: (points, predictions[:, self.groups[number]]) for number, points in draws.items()}

    def _ascend(self, unit, heights):
        """(S, N, D): where each member leads from its siblings' best points and from drawn ones."""
        shape = (self.ensemble.num_members, unit.shape[1])
        starts, low, high = np.zeros((STARTS, *shape)), np.zeros(shape), np.zeros(shape)
        for frame, members in zip(self.frames, self.groups):
            top = unit[frame.top(unit, heights, STARTS // 2)]
            for i in members:
                points = self.rng.uniform(frame.low, frame.high, (STARTS, shape[1]))
                points[: len(top)] = top
                starts[:, i], low[i], high[i] = frame.to_own(points), frame.to_own(frame.low), frame.to_own(frame.high)
        return self.ensemble.ascend(starts, low, high, max(round(ASCENT_STEPS * self.trust), ASCENT_STEPS // 4))

    def _draws(self, frame):
        """Points of a box in which some coordinates, or all, differ from the incumbent's."""
        shape = (DRAWS, len(frame.centre))
        drawn = self.rng.uniform(frame.low, frame.high, shape)
        share = np.maximum(min(1.0, DRAWN_DIMS / shape[1]), self.rng.random((DRAWS, 1)))
        return np.where(self.rng.random(shape) < share, drawn, frame.centre)

    def next_points(self, pool, taken):
        """Encoded candidates in the order in which they are wanted, with their origins, without end.

        Args:
            pool: The `Pool`.
            taken: List of (D,) points from which the candidates keep apart. It grows by what the caller accepts.
        """
        found = self.candidates(pool)
        while True:
            number = self._region_in_turn()
            points, predictions = found[number]
            frame = self.frames[number]
            gap = GAP * float(np.mean(frame.high - frame.low)) / 2
            order = self._order(points, predictions)
            order = order[self.niches.owns(number, points[order])]
            at = _first_apart(points, order, taken, gap)
            self.turn += 1
            yield (points[at] if at is not None else self.rng.uniform(frame.low, frame.high)), number

    def _region_in_turn(self):
        """The leading region, and every second time another that plays."""
        leader, *others = self.niches.in_play()
        return others[self.turn // 2 % len(others)] if others and self.turn % 2 else leader

    def _order(self, points, predictions):
        if not predictions.shape[1]:
            return self.rng.permutation(len(points))
        name = self.acquisitions[self.turn % len(self.acquisitions)]
        return np.argsort(-ACQUISITIONS[name](predictions, 1.0, self.turn), kind="stable")

    # ---- members that fork and merge ----

    def fork(self, pool, i, j=None):
        """See `SurrogateOptimizer.fork`."""
        siblings = [int(k) for k in self._group(i) if k != i]
        if j is None and siblings:
            j = max(siblings, key=self._errors(pool).__getitem__)
        if j not in siblings:
            raise ValueError(f"Member {i} must have member j beside it in its group: one of {siblings}. Received: j={j}.")
        self.ensemble.copy_member(i, j)
        return j

    def merge(self, pool, i, j):
        """See `SurrogateOptimizer.merge`."""
        if j not in self._group(i) or i == j:
            raise ValueError(f"Members of one group merge: {i} with one of {self._group(i).tolist()}. Received: j={j}.")
        before, error = self.ensemble.weights, self._errors(pool)[i]
        self.ensemble.weights = before.copy()
        self.ensemble.weights[i] = (before[i] + before[j]) / 2
        if self._errors(pool)[i] < error:
            return True
        self.ensemble.weights = before
        return False

    def _group(self, i):
        """The members that always see what member i sees."""
        found = [members for members in self._home if i in members]
        if not found or not self.frames:
            raise ValueError(f"fork and merge take a member that has learned, by number. Received: i={i}.")
        return found[0]

    def _errors(self, pool):
        """(N,): each member's root mean squared error on its group's window."""
        errors = np.zeros(self.ensemble.num_members)
        for frame, members in zip(self.frames, self.groups):
            rows = frame.rows[: self.window] if not frame.is_cube else frame.rows
            answers = self.answers(self.frames, pool.unit[rows], pool.heights[: self.seen])
            errors[members] = np.sqrt(np.mean((answers - pool.heights[rows, None]) ** 2, axis=0))[members]
        return errors

    # ---- saving ----

    def state(self):
        """Plain values and arrays that make an equal search of an equal pool."""
        plain = {"niches": self.niches.state(), "seen": self.seen, "turn": self.turn, "trust": self.trust}
        return plain, self.ensemble.state() if self.ensemble else {}

    def restore(self, plain, arrays, unit):
        self.niches.restore(plain["niches"])
        self.seen, self.turn, self.trust = plain["seen"], plain["turn"], plain["trust"]
        if self.ensemble:
            self.ensemble.restore(arrays)
        self.frames = self.make_frames(unit[: self.seen]) if self.seen else []
        if self.frames:
            self._deal()


def _scale_rows(frame, window):
    """How many of a frame's rows set the scale of its targets: a region's window, or all that is known."""
    return len(frame.rows) if frame.is_cube else window


def _first_apart(points, order, taken, gap):
    """The first in the order that is at least `gap` from all taken; None if there is none."""
    if not taken or not len(order):
        return order[0] if len(order) else None
    away = np.sqrt(np.mean((points[:, None] - np.array(taken)[None]) ** 2, axis=2)).min(axis=1)
    fitting = order[away[order] >= gap]
    return fitting[0] if len(fitting) else None


def _rank_correlation(a, b):
    ranks = np.argsort(np.argsort(a)), np.argsort(np.argsort(b))
    return float(np.corrcoef(*ranks)[0, 1])
