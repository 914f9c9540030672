"""From evaluations to candidates: train the members on their windows, ascend, choose. N members, n points, D dimensions."""

import numpy as np

from keras_multiweight.surrogate import survey
from keras_multiweight.surrogate.acquisitions import ACQUISITIONS
from keras_multiweight.surrogate.frames import box_of, denormalised, normalised, whole_cube
from keras_multiweight.surrogate.members import groups, is_plain, out_of_bag
from keras_multiweight.surrogate.pool import BETWEEN, WHOLE
from keras_multiweight.surrogate.regions import LARGEST, Niches, Region

NUM_REGIONS = 2
TRAIN_STEPS, PRETRAIN_STEPS, ASCENT_STEPS = 100, 300, 20
EARLY_STEPS, EARLY_ROWS = 500, 50_000  # at most, and steps times points told, where a plain function is learned
STARTS = 8  # a member
DRAWS = 64  # candidates of a group that no member leads to
TURNS = "CLLLLLLLOL"  # whose turn it is: the whole cube, the most promising region, another region
PLAIN_TURNS = "CLLOLLOLLO"  # a plain function is climbed so soon that another region may have its own climb
LOOK, PLACES = 15, (0.4, 0.6, 0.5)  # turns from one look for a valley between regions to the next, and where it is
GAP, NOISY_GAP = 0.1, 0.5  # of half a box, without and with noise: how far a batch is apart, root mean square
MIDDLE, RECALLED = 20, 4  # told points round whose middle one is recommended, and windows that are learned for it
JUDGED, CONSENSUS = 2048, 100  # points drawn there, and those of which the middle is recommended
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
        seen: How many of the pool's points were learned.
        trust: Rank correlation of what was predicted for the last points with what was told, a moving average, in 0..1.
    """

    def __init__(self, ensemble, width, noise, rng, acquisitions):
        self.ensemble, self.rng, self.noise, self.acquisitions = ensemble, rng, noise, acquisitions
        num_members = ensemble.num_members if ensemble else 0
        num_local = num_members - len(groups(num_members, 1)[1])
        self.num_regions = 1 if noise else min(NUM_REGIONS, num_local) if ensemble else NUM_REGIONS
        self.window = int(np.clip(8 * width, 64, 128)) * (2 if noise else 1)
        self.niches = Niches(self.num_regions, patience=max(8, width), floor=2 * noise)
        self.is_plain = is_plain(width, noise)
        self.frames, self.seen, self.turn, self.trust = [], 0, 0, 1.0

    @property
    def groups(self):
        """For each region the numbers of its members, and at the end those of the whole cube."""
        num_members = self.ensemble.num_members if self.ensemble else 0
        return groups(num_members, self.num_regions, self.alone(), *self.niches.promising()[:1])

    def alone(self):
        """The number of the region that has all members and calls, or None.

        With noise there is but one: to tell which of two maxima is higher takes more calls than it brings.
        """
        return 0 if self.noise else self.niches.alone()

    # ---- learning ----

    def learn(self, pool):
        """Take in what was told since the last time: one training program."""
        if len(pool) == self.seen:
            return
        self._judge(pool)
        heights = pool.heights
        if self.noise and self.frames and self.ensemble:
            self._train(pool)
            heights = self.expected(pool)
            self.niches.regions[0].reshape(self._effects(self.frames[0]))
        self.niches.update(pool.unit, heights, pool.origins)
        self._train(pool)

    def _effects(self, frame):
        """(D,): how much each coordinate matters in a box, as the mean of all members has it (Jansen 1999)."""
        drawn, anew = self.rng.uniform(frame.low, frame.high, (2, self.window, len(frame.low)))
        one = np.eye(drawn.shape[1], dtype=bool)
        changed = [drawn, *(np.where(coordinate, anew, drawn) for coordinate in one)]
        expected = self._outputs([frame] * len(self.groups), np.concatenate(changed)).mean(axis=1)
        first, *others = expected.reshape(len(changed), -1)
        return np.mean((np.array(others) - first) ** 2, axis=1)

    def _train(self, pool):
        """All members on the windows of their groups, as the regions are now."""
        self.seen = len(pool)
        self.frames = self.make_frames(pool.unit)
        if self.ensemble:
            self.ensemble.train(*self._windows(pool.unit, pool.heights), self._steps())

    def _steps(self):
        """How long to train: of a plain function the longer the fewer points are told, as each of them counts the more."""
        steps = TRAIN_STEPS if self.ensemble.steps.any() else PRETRAIN_STEPS
        return max(steps, min(EARLY_STEPS, EARLY_ROWS // self.seen)) if self.is_plain else steps

    def make_frames(self, unit):
        return [box_of(region, unit, self.window) for region in self.niches.regions] + [whole_cube(unit)]

    def _judge(self, pool):
        """Compare what the members expect at the points told since the last time with what was told."""
        new = slice(self.seen, None)
        if self.frames and self.ensemble and len(pool) - self.seen > 2:
            knows = len(self.groups[-1]) > 0  # a region's members know its window alone: they make all steps
            correlation = _rank_correlation(self.expected(pool)[new], pool.heights[new]) if knows else 1.0
            self.trust = 0.7 * self.trust + 0.3 * max(correlation, 0.0)

    def expected(self, pool):
        """(n,): what the group that knows a point best expects there, by the members that did not learn it, if any.

        The others have learned some of its noise by heart, and a lucky draw would look like a top.
        """
        heights, known = pool.heights, pool.heights[: self.seen]
        expected, done = heights.copy(), np.zeros(len(heights), bool)
        left_out = self._left_out(len(heights))
        for frame, members in zip(self.frames, self.groups):
            rows = np.flatnonzero(~done) if frame.is_cube else frame.rows[: self.window][~done[frame.rows[: self.window]]]
            if len(rows) and len(members):
                answers = self.answers([frame] * len(self.groups), pool.unit[rows], known)[:, members]
                expected[rows], done[rows] = _mean_of(answers, left_out[rows][:, members]), True
        return expected

    def _left_out(self, num_rows):
        return out_of_bag(num_rows, self.ensemble.num_members, self.noise > 0, self.ensemble.seed)

    def consensus(self, pool):
        """(D,) and a number: the middle of where all members together expect the most, and how much. It changes them.

        In a run each learns some of the noise by heart. Here all learn anew, from all that is known round the best.
        """
        frame, shape = self._best_frame(pool), (RECALLED * self.window, self.ensemble.num_members)
        heights, share = pool.heights[frame.rows], np.full(len(frame.rows), 1 / len(frame.rows))
        data = survey.windows(frame.to_own(pool.unit[frame.rows]), normalised(heights), share, shape, self.rng)
        self.ensemble.begin_anew()
        self.ensemble.train(*data, PRETRAIN_STEPS)
        drawn, frames = self.rng.uniform(frame.low, frame.high, (JUDGED, len(frame.low))), [frame] * len(self.groups)
        best = np.argsort(-self._outputs(frames, drawn).mean(axis=1), kind="stable")[:CONSENSUS]
        point = pool.space.snapped(drawn[best].mean(axis=0)[None])
        return point[0], float(denormalised(self._outputs(frames, point).mean(), heights))

    def _best_frame(self, pool):
        """A box round the middle of the points that the members expect to be the best, of those round the very best."""
        expected = self.expected(pool)
        top, shape = pool.unit[expected.argmax()], self.niches.regions[0].shape
        near = np.flatnonzero(Region(top, 0.0, top, shape=shape).away(pool.unit) <= LARGEST)
        middle = pool.unit[near[np.argsort(-expected[near], kind="stable")[:MIDDLE]]].mean(axis=0)
        return box_of(
            Region(middle, expected.max(), middle, half=LARGEST / 2, shape=shape), pool.unit, RECALLED * self.window
        )

    def answers(self, frames, unit, known):
        """(n, N): what every member predicts at points, as heights, each in its group's frame."""
        answers = self._outputs(frames, unit)
        for frame, members in zip(frames, self.groups):
            answers[:, members] = denormalised(answers[:, members], known[frame.rows[: _scale_rows(frame, self.window)]])
        return answers

    def _outputs(self, frames, unit):
        """(n, N): what the networks give at points, each in its group's frame."""
        answers = np.empty((len(unit), self.ensemble.num_members))
        for start in range(0, len(unit), self.window):
            block = unit[start : start + self.window]
            x = np.zeros((self.window, self.ensemble.num_members, unit.shape[1]))
            for frame, members in zip(frames, self.groups):
                x[: len(block), members] = frame.to_own(block)[:, None]
            answers[start : start + self.window] = self.ensemble.predict(x)[: len(block)]
        return answers

    # ---- answering ----

    def speaking(self, unit):
        """(n, N): whether a member has learned what lies round a point: the cube's members have, a region's in its box."""
        speaks = np.ones((len(unit), self.ensemble.num_members), bool)
        if len(self.groups[-1]):  # without them a region's members answer for all
            for frame, members in zip(self.frames, self.groups):
                speaks[:, members] = frame.contains(unit)[:, None]
        return speaks

    def opinions(self, pool, unit):
        """(n, N) heights and (n, N) bools: what every member expects at points, and whether that counts.

        Near a region the cube's members answer from what they know, and in its box its own too; all else is surveyed. The
        members are not afterwards what they were.
        """
        own, speaks = self.answers(self.frames, unit, pool.heights), self.speaking(unit)
        far = ~np.any([frame.reaches(unit) for frame in self.frames[:-1]], axis=0)[:, None]
        heights = np.where(speaks & ~far, own, self._survey(pool, unit))
        return survey.bounded(heights, pool.heights), speaks | far

    def _survey(self, pool, unit):
        """(n, N): what members expect at points once they have learned the whole. It changes them."""
        cube, heights, share = self.frames[-1], pool.heights, survey.shares(pool.unit)
        mean, std = survey.moments(heights, share)
        data = cube.to_own(pool.unit), (heights - mean) / std, share, (self.window, self.ensemble.num_members), self.rng
        for _ in range(survey.ROUNDS):
            self.ensemble.train(*survey.windows(*data), TRAIN_STEPS, survey.DECAY)
        return mean + std * self._outputs([cube] * len(self.groups), unit)

    def _windows(self, unit, heights):
        """The data of each member: rows `(W, N, D)`, targets and weights `(W, N)`, zero beyond what there is."""
        shape = (self.window, self.ensemble.num_members)
        x, y, weights = np.zeros((*shape, unit.shape[1])), np.zeros(shape), np.zeros(shape)
        left_out = self._left_out(len(unit))
        for frame, members in zip(self.frames, self.groups):
            targets = np.zeros(len(heights))
            scaled = frame.rows[: _scale_rows(frame, self.window)]
            targets[scaled] = normalised(heights[scaled])
            for i in members:
                rows = frame.window(heights, self.window, self.rng)
                x[: len(rows), i], y[: len(rows), i] = frame.to_own(unit[rows]), targets[rows]
                weights[: len(rows), i] = np.sqrt(self.rng.exponential(size=len(rows)))  # a gentle bootstrap
                weights[: len(rows), i] *= ~left_out[rows, i]
        return x, y, weights

    # ---- proposing ----

    def candidates(self, pool):
        """For each group candidates `(P, D)`, and the predictions of its members `(P, M)`, none if it has none."""
        unit, heights = pool.unit[: self.seen], pool.heights[: self.seen]
        draws = [self._draws(frame, unit, heights) for frame in self.frames]
        if not self.ensemble:
            return [(points, np.empty((len(points), 0))) for points in draws]
        ends = self._ascend(unit, heights)
        size = DRAWS + STARTS * self.ensemble.num_members
        x = np.zeros((size, self.ensemble.num_members, unit.shape[1]))
        found = []
        for frame, members, drawn in zip(self.frames, self.groups, draws):
            led = [frame.to_unit(ends[:, i]) for i in members]
            found.append(np.resize(pool.space.snapped(np.concatenate([*led, drawn])), (size, unit.shape[1])))
            x[:, members] = frame.to_own(found[-1])[:, None]
        predictions = self.ensemble.predict(x)
        return [(points, predictions[:, members]) for points, members in zip(found, self.groups)]

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

    def _draws(self, frame, unit, heights):
        """Points of a box in which some coordinates, or all, differ from the incumbent's."""
        shape = (DRAWS, unit.shape[1])
        drawn = self.rng.uniform(frame.low, frame.high, shape)
        best = unit[self.rng.choice(np.argsort(-heights, kind="stable")[:5], DRAWS)] if frame.is_cube else frame.centre
        share = np.maximum(min(1.0, DRAWN_DIMS / shape[1]), self.rng.random((DRAWS, 1)))
        return np.where(self.rng.random(shape) < share, drawn, best)

    def next_points(self, pool, taken):
        """Encoded candidates in the order in which they are wanted, with their origins, without end.

        Args:
            pool: The `Pool`.
            taken: List of (D,) points from which the candidates keep apart. It grows by what the caller accepts.
        """
        groups = self.candidates(pool)
        while True:
            point, origin = self._between() if self._looks() else self._candidate(groups, taken)
            self.turn += 1
            yield point, origin

    def _looks(self):
        """Whether it is time to evaluate a place between two regions that no valley is known to part."""
        return self.num_regions > 1 and not self.niches.is_valley and self.turn % LOOK == LOOK // 3

    def _between(self):
        return self.niches.between(PLACES[self.turn // LOOK % len(PLACES)]), BETWEEN

    def _candidate(self, groups, taken):
        """The most wanted candidate of the group whose turn it is, and its origin."""
        number = self._group_in_turn()
        points, predictions = groups[number]
        frame = self.frames[number]
        shape = self.niches.regions[number].shape if number < self.num_regions else 1.0
        gap = (NOISY_GAP if self.noise else GAP) * float(np.mean((frame.high - frame.low) / shape)) / 2
        order = self._order(points, predictions)
        if not frame.is_cube:
            order = order[self.niches.owns(number, points[order])]
        at = _first_apart(points / shape, order, [p / shape for p in taken], gap)
        origin = number if number < self.num_regions else WHOLE
        return (points[at] if at is not None else self.rng.uniform(frame.low, frame.high)), origin

    def _group_in_turn(self):
        alone = self.alone()
        if alone is not None:
            return alone
        ranked, whole, turns = self.niches.promising(), self.num_regions, PLAIN_TURNS if self.is_plain else TURNS
        turn = turns[self.turn % len(turns)]
        if turn == "C" and (len(self.groups[whole]) or not self.ensemble):
            return whole
        others = ranked[1:] or ranked
        return others[self.turn // len(turns) % len(others)] if turn == "O" else ranked[0]

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
        group = self._group(i)
        if i == j or not 0 <= j < self.ensemble.num_members:
            raise ValueError(f"A member merges with another, by number. Received: i={i}, j={j}.")
        if j not in group:
            return False
        before, error = self.ensemble.weights, self._errors(pool)[i]
        self.ensemble.weights = before.copy()
        self.ensemble.weights[i] = (before[i] + before[j]) / 2
        if self._errors(pool)[i] < error:
            return True
        self.ensemble.weights = before
        return False

    def _group(self, i):
        found = [members for members in self.groups if i in members]
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


def _scale_rows(frame, window):
    """How many of a frame's rows set the scale of its targets: a region's window, or all that is known."""
    return len(frame.rows) if frame.is_cube else window


def _mean_of(answers, counts):
    """(n,): the means of rows `(n, M)` over those that count, and over all where none does."""
    return np.average(answers, axis=1, weights=counts | ~counts.any(axis=1, keepdims=True))


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
