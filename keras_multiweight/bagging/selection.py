"""Which members to keep, and how much each counts, from one pass of predictions. B rows, N members.

Use rows that the members were not trained on. The weights are for `multi.average(member_weights=...)`, the numbers for
`multi.select(...)`.
"""

import dataclasses

import numpy as np
from scipy import optimize

from keras_multiweight.bagging.oob import checked_targets
from keras_multiweight.bagging.resampling import checked_count, sample_size
from keras_multiweight.metrics import metric_function
from keras_multiweight.seeding import seed_sequence


@dataclasses.dataclass(frozen=True)
class Selection:
    """Members chosen by `greedy_selection`.

    Attributes:
        weights: `(N,)`, of sum 1: how often each was chosen.
        indices: The members that were chosen, in order.
        score: The score of their weighted average.
    """

    weights: np.ndarray
    indices: list
    score: float


def greedy_selection(answers, y, metric, mode, *, num_steps=None, num_best=1, bags=1, bag_size=0.5, seed=None):
    """Forward selection with replacement: begin with the best members, then add the one that helps the average most.

    Args:
        answers: `(B, N, ...)`, as `multi.predict` gives them.
        y: Targets of one answer, `(B, ...)`.
        metric: As for `oob_score`.
        mode: `"max"` where more is better, `"min"` where less is, as for a loss.
        num_steps: int: members to choose, counted with repetition. Left out, N. The best average on the way is kept.
        num_best: int: how many of the best members to begin with.
        bags: int: how often to choose, each time among some of the members, against overfitting of the selection; the
            counts are added.
        bag_size: int or float: how many members, or which share of them, are in a bag, where there are several.
        seed: int, of the bags.

    Returns:
        A `Selection`. A member that answers NaN is not chosen.

    Example:

    ```python
    found = kmw.bagging.greedy_selection(multi.predict(x_val), y_val, "accuracy", "max")
    smaller = multi.select(found.indices).average(member_weights=found.weights[found.indices])
    ```

    Reference: Caruana, Niculescu-Mizil, Crew and Ksikes, "Ensemble selection from libraries of models", 2004.
    """
    answers, y, score = _scored(answers, y, metric, mode)
    numbers, answers, whole = _sound(answers)
    steps = len(whole) if num_steps is None else checked_count(num_steps, "num_steps")
    rng, size = np.random.default_rng(seed_sequence(seed)), sample_size(bag_size, len(numbers), "bag_size", replace=False)
    counts = np.zeros(len(numbers))
    for _ in range(checked_count(bags, "bags")):
        bag = np.arange(len(numbers)) if bags == 1 else np.sort(rng.choice(len(numbers), size, replace=False))
        counts += _grow(answers, lambda a: score(y, a), bag, steps, checked_count(num_best, "num_best"))
    whole[numbers] = weights = counts / counts.sum()
    found = score(y, np.tensordot(answers, weights, (1, 0)))
    return Selection(whole, np.flatnonzero(whole).tolist(), found if mode == "max" else -found)


def best_members(answers, y, metric, mode, k):
    """The numbers of the k members with the best scores of their own, best first.

    Args:
        answers, y, metric, mode: As for `greedy_selection`.
        k: int, 1 to N. A member that answers NaN does not count.
    """
    answers, y, score = _scored(answers, y, metric, mode)
    numbers, answers, _ = _sound(answers)
    if checked_count(k, "k") > len(numbers):
        raise ValueError(f"k must be at most the {len(numbers)} members that do not answer NaN. Received: k={k}.")
    order = np.argsort([-score(y, answers[:, i]) for i in range(len(numbers))], kind="stable")
    return numbers[order[:k]].tolist()


def stacking_weights(answers, y, loss="mse", *, iterations=1000):
    """The weights of the members, at least 0 and of sum 1, whose average has the smallest loss.

    Args:
        answers: `(B, N, ...)`: numbers for `"mse"`, probabilities of classes for `"log_loss"`.
        y: `(B, ...)` numbers, or `(B,)` integer classes.
        loss: `"mse"`, solved exactly, or `"log_loss"`, by expectation maximisation, which does not get worse in any step.
        iterations: int, of expectation maximisation, at most.

    Returns:
        `(N,)`; 0 for a member that answers NaN.

    Example:

    ```python
    weights = kmw.bagging.stacking_weights(multi.predict(x_val), y_val)
    ensemble = multi.average(member_weights=weights)
    ```

    Reference: Breiman, "Stacked regressions", 1996, with weights of sum 1.
    """
    numbers, answers, whole = _sound(_answers(answers))
    y = checked_targets(y, len(answers))
    if loss not in ("mse", "log_loss"):
        raise ValueError(f"loss must be 'mse' or 'log_loss'. Received: loss={loss!r}.")
    whole[numbers] = _least_squares(answers, y) if loss == "mse" else _mixture(probability_of(answers, y), iterations)
    return whole


def _least_squares(answers, y):
    """With weights of sum 1 the error of the average is the weighted sum of the members' errors, `E w`. The weights at
    least 0 that make `|E w|^2 + c^2 (sum(w) - 1)^2` smallest are, divided by their sum, those of sum 1 that make `|E w|`
    smallest, for whichever c.
    """
    errors = errors_of(answers, y)
    flat = np.moveaxis(errors, 1, 0).reshape(answers.shape[1], -1).T  # (B * ..., N)
    scale = np.linalg.norm(flat) or 1.0
    target = np.append(np.zeros(len(flat)), scale)
    found, _ = optimize.nnls(np.vstack([flat, np.full(answers.shape[1], scale)]), target)
    return found / found.sum()


def errors_of(answers, y):
    """How far answers `(B, N, ...)` are above the targets `(B, ...)`."""
    if y.size * answers.shape[1] != answers.size:
        raise ValueError(
            "Targets must have the shape of a member's answers. "
            f"Received: targets {y.shape} and answers {answers.shape[:1] + answers.shape[2:]}. "
            "For probabilities of classes take loss='log_loss'."
        )
    return answers - y.reshape(len(y), 1, *answers.shape[2:])


def _mixture(likelihoods, iterations):
    """The shares of a mixture, from the probability of what came `(B, N)`: expectation maximisation."""
    weights = np.full(likelihoods.shape[1], 1 / likelihoods.shape[1])
    likelihoods = np.maximum(likelihoods, 1e-12)
    for _ in range(iterations):
        new = weights * (likelihoods / (likelihoods @ weights)[:, None]).mean(axis=0)
        if np.abs(new - weights).max() < 1e-9:
            break
        weights = new
    return weights / weights.sum()


def checked_probabilities(p):
    """Probabilities as an array of float64; logits are none."""
    p = np.asarray(p, "float64")
    if (p < -1e-6).any() or (p > 1 + 1e-6).any():
        raise ValueError(
            f"Probabilities must be from 0 to 1. Received: shape {p.shape}, {p.min():.4g} to {p.max():.4g}. Of logits give "
            "keras.ops.softmax(logits), or keras.ops.sigmoid(logits) where their last axis has length 1."
        )
    return p


def probability_of(answers, y):
    """The probability of the class that came, from probabilities `(B, ..., C)` or, of the second of two, `(B, ..., 1)`."""
    answers = checked_probabilities(answers)
    y = np.asarray(y).reshape(len(answers))
    num_classes = max(answers.shape[-1], 2)
    if not np.all(y == y.astype(int)) or y.min() < 0 or y.max() >= num_classes:
        raise ValueError(
            f"Targets must be integer classes from 0 to {num_classes - 1}. Received: numbers from {y.min()} to {y.max()}."
        )
    places = y.astype(int).reshape(-1, *[1] * (answers.ndim - 1))
    if answers.shape[-1] == 1:
        return np.where(places == 1, answers, 1.0 - answers)[..., 0]
    return np.take_along_axis(answers, places, axis=-1)[..., 0]


def _grow(answers, score, bag, steps, num_best):
    """How often each member is chosen."""
    alone = np.array([score(answers[:, i]) for i in bag])
    chosen = [int(i) for i in bag[np.argsort(-alone, kind="stable")[: min(num_best, steps)]]]
    total = answers[:, chosen].sum(axis=1)
    best, kept = score(total / len(chosen)), list(chosen)
    while len(chosen) < steps:
        scores = [score((total + answers[:, i]) / (len(chosen) + 1)) for i in bag]
        chosen.append(int(bag[np.argmax(scores)]))
        total = total + answers[:, chosen[-1]]
        if max(scores) > best:
            best, kept = max(scores), list(chosen)
    return np.bincount(kept, minlength=answers.shape[1])


def _scored(answers, y, metric, mode):
    """Checked answers and targets, and a score of which more is better."""
    if mode not in ("max", "min"):
        raise ValueError(f'mode must be "max" or "min". Received: mode={mode!r}.')
    answers, function, sign = _answers(answers), metric_function(metric), 1 if mode == "max" else -1
    return answers, checked_targets(y, len(answers)), lambda y, a: np.nan_to_num(sign * function(y, a), nan=-np.inf)


def _sound(answers):
    """The numbers of the members that never answer NaN, their answers, and a zero for each of all members."""
    is_sound = ~np.isnan(np.moveaxis(answers, 1, 0).reshape(answers.shape[1], -1)).any(axis=1)
    if not is_sound.any():
        raise ValueError(f"A member must answer without NaN. Received: NaN from each of the {len(is_sound)} members.")
    return np.flatnonzero(is_sound), answers[:, is_sound], np.zeros(len(is_sound))


def _answers(answers):
    answers = np.asarray(answers, "float64")
    if answers.ndim < 2 or not answers.size:
        raise ValueError(f"Answers must be (B, N, ...), as multi.predict gives them. Received: shape {answers.shape}.")
    return answers
