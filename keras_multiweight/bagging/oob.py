"""Out of bag: each row is answered by the members that did not draw it. R rows, N members."""

import warnings

import numpy as np
from keras import tree
from scipy import special

from keras_multiweight.callers import stack_level
from keras_multiweight.metrics import metric_function


def oob_predict(multi, x, bootstrap, *, from_logits=False, batch_size=None):
    """The mean answer of the members that did not draw a row, for the rows that a bootstrap was drawn of.

    Args:
        multi: A MultiModel, trained on the rows of `bootstrap`.
        x: The training inputs `(R, ...)`, as `predict` takes them, in the order of the bootstrap.
        bootstrap: A `Bootstrap`, or the mask of out-of-bag rows itself, `(R, N)` bool.
        from_logits: bool. The answers are logits: average their probabilities, as `EnsembleAverage` does.
        batch_size: int, for `predict`.

    Returns:
        `(R, ...)` for each output. Rows that every member drew have NaN, and a warning says how many there are.

    Raises:
        ValueError: A mask of other rows or members, or one in which no row is out of bag.

    Example:

    ```python
    bootstrap = kmw.Bootstrap(len(x), multi.num_members, seed=0)
    multi.fit(x, y, sample_weight=bootstrap.weights)
    multi.oob_predict(x, bootstrap)  # (R, ...)
    ```
    """
    answers = multi.predict(x, batch_size=batch_size)
    mask = oob_mask_of(bootstrap, len(tree.flatten(answers)[0]), multi.num_members)
    _warn_of_rows_in_all(mask)
    return tree.map_structure(lambda a: masked_mean(probabilities(a) if from_logits else a, mask), answers)


def oob_score(multi, x, y, bootstrap, metric, *, from_logits=False, batch_size=None):
    """How good the out-of-bag answers are: an estimate of the score on new data, without holding data out.

    Args:
        multi, x, bootstrap, from_logits, batch_size: As for `oob_predict`.
        y: The training targets `(R, ...)`.
        metric: `"accuracy"`, the name or an instance of a Keras metric or loss, or a function `metric(y, answers)` of
            whole arrays, as those of `sklearn.metrics`. Of models with several outputs a list, with None for outputs
            without a score.

    Returns:
        float, or a list of one for each metric. Rows that every member drew do not count, and a warning says how many
        there are.

    Raises:
        ValueError: An unknown metric, targets of another length, or targets that are NaN.

    Example:

    ```python
    multi.oob_score(x, y, bootstrap, "accuracy")
    ```
    """
    several = isinstance(metric, (list, tuple))
    scores = [m if m is None else metric_function(m) for m in (metric if several else [metric])]
    mask = oob_mask_of(bootstrap, len(tree.flatten(x)[0]), multi.num_members)
    targets = [checked_targets(part, len(mask)) for part in (tree.flatten(y) if several else [y])]
    answers = tree.flatten(oob_predict(multi, x, mask, from_logits=from_logits, batch_size=batch_size))
    if not len(scores) == len(targets) == len(answers):
        raise ValueError(
            "A metric and targets must be given for each output. Received: "
            f"{len(scores)} metrics, {len(targets)} targets and {len(answers)} outputs."
        )
    there = mask.any(axis=1)
    found = [score and score(t[there], a[there]) for score, t, a in zip(scores, targets, answers)]
    return found if several else found[0]


def masked_mean(answers, mask):
    """The mean over the members that `mask`, `(R, N)`, has; `(R, N, ...)` to `(R, ...)`, NaN where it has none."""
    weights = np.reshape(mask, (*mask.shape, *[1] * (answers.ndim - 2)))
    kept = np.where(weights, answers.astype("float64"), 0.0)  # a NaN of another member must not spread
    with np.errstate(invalid="ignore"):
        means = kept.sum(axis=1) / weights.sum(axis=1)
    return means.astype(answers.dtype if np.issubdtype(answers.dtype, np.floating) else "float32")


def probabilities(logits):
    """The softmax of logits over their last axis, or their sigmoid where that has length 1."""
    return special.expit(logits) if logits.shape[-1] == 1 else special.softmax(logits, axis=-1)


def oob_mask_of(bootstrap, rows, num_members):
    """The `(R, N)` mask of a bootstrap, or the mask itself, that fits the data."""
    mask = np.asarray(getattr(bootstrap, "oob_mask", bootstrap))
    if mask.dtype != bool or mask.shape != (rows, num_members):
        raise ValueError(
            f"A bootstrap must be of the {rows} rows and {num_members} members that are asked about. "
            f"Received: {mask.dtype} of shape {mask.shape}."
        )
    if not mask.any():
        raise ValueError(
            "A row must be out of bag for some member. Received: a bootstrap in which every member draws every row. "
            "Draw with replacement, or fewer rows (max_samples)."
        )
    return mask


def checked_targets(y, rows):
    """Targets as an array of so many numbers or rows of numbers, none of them NaN."""
    try:
        y = np.asarray(y)
    except ValueError:
        raise ValueError("Targets must be one array, of one output. Received: several of different shapes.") from None
    if len(y) != rows:
        raise ValueError(f"Targets must have one for each of the {rows} rows. Received: {len(y)}.")
    if y.dtype.kind not in "biuf":
        raise ValueError(
            f"Targets must be numbers. Received: {y.reshape(-1)[:1].tolist()} of dtype {y.dtype}. Number labels with "
            "`classes, y = np.unique(labels, return_inverse=True)`; classes[i] is then the label of class i."
        )
    if np.issubdtype(y.dtype, np.floating) and np.isnan(y).any():
        raise ValueError(f"Targets must not be NaN. Received: {int(np.isnan(y).sum())} that are.")
    return y


def _warn_of_rows_in_all(mask):
    missing = np.flatnonzero(~mask.any(axis=1))
    if len(missing):
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        warnings.warn(
            f"{len(missing)} of {len(mask)} rows were drawn by every member and have no out-of-bag answer: rows {shown}. "
            "They are NaN in the answers and do not count in scores. More members leave fewer such rows.",
            stacklevel=stack_level(),
        )
