"""The fastest way to predict a user's own input on this machine, by trying. N members, B rows."""

import math
import statistics
import time

import keras
from keras import tree

from keras_multiweight.copies import all_layers
from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.prediction import lowerings
from keras_multiweight.prediction.predictor import Predictor
from keras_multiweight.prediction.tuned import Tuned
from keras_multiweight.rounding import TOLERANCE, relative_difference

TURNS = 5  # in which a candidate and the best so far are timed, one after the other
TURN = 0.02  # seconds that a turn takes at least
WORTH = 1.03  # how many times as fast a candidate must be to take the place of the best


class Tuner:
    """Times ways to predict `x`, each against the best so far, in turns, and keeps the fastest that answers right.

    First whether to compile, then whether each core has batches of its own, then how many members at once, then how many
    rows, then each kind of layer's lowerings.

    Args:
        model: A `MultiModel`. The lowerings of its layers are set to those that win.
        x: What it predicts, as it takes it.
        jit_compile: List of the values of `jit_compile` to try.
        seconds: After these no further candidate is begun.
    """

    def __init__(self, model, x, jit_compile, seconds):
        self.model = model
        self.x = x
        self._jit_compile = jit_compile
        self.rows = len(tree.flatten(x)[0])
        if not self.rows:
            raise ValueError("tune needs at least one row, better as many as are predicted later. Received: 0 rows.")
        self._end = time.perf_counter() + seconds
        self._untuned = self._best = Predictor(model)
        self._expected = tree.flatten(self._best(x))
        self._options = {"jit_compile": self._best.compiles, **self._sizes(self._best)}
        self._start = dict(self._options)
        self._lowerings = [(layer, layer.lowering) for layers in self._alike() for layer in layers]

    def run(self):
        """The `Tuned` that won."""
        for jit_compile in self._jit_compile:
            self._try(jit_compile=jit_compile)
        if self._options["jit_compile"]:
            self._try(**self._otherwise())
        for member_chunk in self._around("member_chunk", self.model.num_members):
            self._try(member_chunk=member_chunk)
        for most_rows in self._around("most_rows", self.rows):
            self._try(most_rows=most_rows)
        changed = self._try_lowerings()
        untuned, tuned = (1.0, 1.0) if self._best is self._untuned else self._seconds(self._untuned, self._best)
        if untuned < tuned:  # what won did so by chance
            self._options, changed, tuned = self._start, {}, untuned
            for layer, lowering in self._lowerings:
                layer.lowering = lowering
        return Tuned(
            keras.backend.backend(),
            self.rows,
            self._options["most_rows"],
            self._options["member_chunk"],
            self._options["jit_compile"],
            changed,
            untuned / tuned,
            self._options["threads"],
        )

    def _sizes(self, ask):
        found = ask.estimate(self.rows)
        return {"member_chunk": found.member_chunk, "most_rows": found.batch_size, "threads": found.threads}

    def _otherwise(self):
        """Sizes with which cores share all batches, where each was to compute its own; or the other way round."""
        count = lowerings.cores()
        if self._options["threads"] > 1:
            return self._sizes(Predictor(self.model, threads=1))
        return {"member_chunk": 1, "most_rows": max(math.ceil(self.rows / count), 1), "threads": count}

    def _around(self, option, most):
        """Sizes from that which is taken by default, doubled and halved as long as that wins."""
        for double in (True, False):
            while True:
                size = self._options[option]
                other = min(2 * size, most) if double else max(size // 2, 1)
                if other == size:
                    break
                yield other
                if self._options[option] != other:
                    break

    def _try(self, **changes):
        """Whether a candidate wins. Then it is the best."""
        options = {**self._options, **changes}
        if time.perf_counter() > self._end or options == self._options:
            return False
        candidate = Predictor(self.model, **options)
        if not self._is_right(candidate) or not self._is_faster(candidate):
            return False
        self._best, self._options = candidate, options
        return True

    def _is_right(self, candidate):
        """Whether it runs as it was told to, and gives the answers that the untuned model gives."""
        answers = tree.flatten(candidate(self.x))
        return not candidate.failed and all(map(self._close, answers, self._expected))

    def _close(self, received, expected):
        return relative_difference(received, expected) <= TOLERANCE.get(self.model.compute_dtype, TOLERANCE["float32"])

    def _is_faster(self, candidate):
        mine, best = self._seconds(candidate, self._best)
        return WORTH * mine < best

    def _seconds(self, *predictors):
        """The median seconds of a call of each, in turns."""
        turns = [[_seconds_a_call(ask, self.x) for ask in predictors] for _ in range(TURNS)]
        return map(statistics.median, zip(*turns))

    def _try_lowerings(self):
        """Each kind of layer's lowerings, tried for all layers of that kind together. Gives what was changed, by name."""
        changed = {}
        for layers in self._alike():
            for name in layers[0].lowerings():
                before = [layer.lowering for layer in layers]
                if name in before or not self._try_lowering(layers, name):
                    continue
                changed.update({layer.name: name for layer in layers})
        return changed

    def _try_lowering(self, layers, name):
        before = [layer.lowering for layer in layers]
        for layer in layers:
            layer.lowering = name
        options, self._options = self._options, {}  # other programs of the same options
        won = self._try(**options)
        self._options = options
        if not won:
            for layer, lowering in zip(layers, before):
                layer.lowering = lowering
        return won

    def _alike(self):
        """Lists of the layers that have a choice: those of one class and one amount of work together."""
        groups = {}
        for layer in all_layers(self.model):
            if isinstance(layer, MultiLayer) and len(layer.lowerings()) > 1:
                key = type(layer), layer.shared_input, *(tuple(weight.shape) for weight in layer.stacked_weights)
                groups.setdefault(key, []).append(layer)
        return groups.values()


def _seconds_a_call(ask, x):
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < TURN:
        ask(x)
        calls += 1
    return (time.perf_counter() - start) / calls
