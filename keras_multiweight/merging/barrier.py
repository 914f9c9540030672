"""How much worse than its ends a network is on the way between members: the loss barrier."""

import dataclasses

import keras
import numpy as np

from keras_multiweight.merging.members import average, open_for_merging
from keras_multiweight.merging.scores import Scorer


@dataclasses.dataclass(frozen=True)
class Barrier:
    """The loss between members.

    Attributes:
        barrier: The most by which the loss exceeds the straight line between its values at the ends. 0 or less: none.
        positions: `(steps,)` from 0 to 1.
        losses: `(steps,)` the loss on the way from one member to the other; of more than two members `(N, steps)`, from
            each to the average of all.
        scores: As `losses`, of `metric`; None without one.
    """

    barrier: float
    positions: np.ndarray
    losses: np.ndarray
    scores: np.ndarray | None


def loss_barrier(a, b, data, steps=25, loss=None, metric=None):
    """The loss on the straight way between two members, or between each of many and the average of all.

    Args:
        a, b: Two Keras models. Or, of many members, a MultiModel or list of models as `a`, and None as `b`.
        data: `(x, y)`.
        steps: int, at least 3: how many points on the way, both ends included.
        loss: The name or an instance of a Keras loss. Left out, the loss that `a` was compiled with.
        metric: What else is scored at each point: as for `greedy_soup`.

    Returns:
        A `Barrier`.

    Raises:
        ValueError: No loss is known, or the models or the data do not fit.

    Example:

    ```python
    before = merging.loss_barrier(a, b, (x, y))
    after = merging.loss_barrier(*merging.weight_matching([a, b]).models(), (x, y), loss=a.loss)
    print(before.barrier, after.barrier)
    ```

    Reference: Frankle et al., 2020, "Linear mode connectivity and the lottery ticket hypothesis".
    """
    members = open_for_merging(a if b is None else [a, b])
    if steps < 3:
        raise ValueError(f"steps must be at least 3. Received: steps={steps}.")
    score = Scorer(members.template, data, _loss_of(a, loss))
    extra = metric and Scorer(members.template, data, metric)
    positions = np.linspace(0.0, 1.0, steps)
    ends, ways = _ways(len(members))
    points = [[score.answers(average(members, (1 - t) * start + t * end)) for t in positions] for start, end in ways]
    losses = np.array([[score.of_answers(answers) for answers in way] for way in points])
    at_members = losses[:, 0] if ends is None else losses[0, [0, -1]]
    straight = [np.outer(1 - positions, start) @ at_members + np.outer(positions, end) @ at_members for start, end in ways]
    scores = extra and _line(np.array([[extra.of_answers(answers) for answers in way] for way in points]))
    return Barrier(float((losses - straight).max()), positions, _line(losses), scores if extra else None)


def _ways(count):
    """The ends of each way, as coefficients of the members."""
    corners = np.eye(count)
    if count == 2:
        return (0, -1), [(corners[0], corners[1])]
    return None, [(corner, np.full(count, 1 / count)) for corner in corners]


def _line(values):
    return values[0] if len(values) == 1 else values


def _loss_of(model, loss):
    loss = loss if loss is not None else getattr(model, "loss", None)
    if loss is None:
        raise ValueError("loss must be given for a model that is not compiled. Received: loss=None.")
    return keras.losses.get(loss)
