"""Soups: averages of weights as they are. For members that began from the same weights, such as fine-tunes of one model.

Averages of members that were initialised apart are near chance: align them first (`merge_members`).
"""

import numpy as np

from keras_multiweight.merging.members import average, coefficients_of, open_for_merging
from keras_multiweight.merging.scores import Scorer


def uniform_soup(models, weights=None):
    """The average of the members' weights, as one Keras model.

    Integer variables are not averaged: the member with the largest weight, the first of equals, gives them.

    Args:
        models: A MultiModel, or what `pack` takes: a list of models or paths, or a pattern. They are not changed.
        weights: `(N,)` numbers not below zero, in proportion to which the members count. Left out, all alike.

    Returns:
        A Keras model of the members' architecture.

    Raises:
        IncompatibleModelsError: Models of different architectures.
        ValueError: Weights that are NaN or infinite, or not one number for each member.

    Example:

    ```python
    soup = merging.uniform_soup(multi)
    ```

    Reference: Wortsman et al., 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy
    without increasing inference time".
    """
    members = open_for_merging(models)
    return members.model(average(members, coefficients_of(weights, len(members))))


def greedy_soup(models, validation_data, metric="accuracy", mode="max", return_members=False):
    """The soup that grows from the best member, by each next best one that does not make it worse.

    On `validation_data` it is never worse than the best member.

    Args:
        models: As for `uniform_soup`.
        validation_data: `(x, y)`, arrays as a member takes them.
        metric: `"accuracy"`, the name or an instance of a Keras metric or loss, or a function `metric(y, answers)`.
        mode: `"max"` where more is better, `"min"` where less is, as for a loss.
        return_members: bool. Give the indices of the members in the soup, too.

    Returns:
        A Keras model, or the pair of it and a list of ints.

    Example:

    ```python
    soup = merging.greedy_soup(multi, (x, y), "sparse_categorical_crossentropy", mode="min")
    ```

    Reference: Wortsman et al., 2022, recipe 1.
    """
    if mode not in ("max", "min"):
        raise ValueError(f'mode must be "max" or "min". Received: mode={mode!r}.')
    members = open_for_merging(models)
    scorer, sign = Scorer(members.template, validation_data, metric), 1 if mode == "max" else -1
    chosen, weights = _grow(members, lambda w: sign * scorer(w))
    soup = members.model(weights)
    return (soup, chosen) if return_members else soup


def _grow(members, score):
    """The indices of the members in the soup, and its weights."""
    alone = [score(members.weights(i)) for i in range(len(members))]
    order = [int(i) for i in np.argsort(-np.nan_to_num(alone, nan=-np.inf), kind="stable")]
    chosen, best, weights = order[:1], alone[order[0]], members.weights(order[0])
    for i in order[1:]:
        counts = np.isin(np.arange(len(members)), [*chosen, i])
        candidate = average(members, counts / counts.sum())
        if (reached := score(candidate)) >= best:
            chosen, best, weights = [*chosen, i], reached, candidate
    return chosen, weights
