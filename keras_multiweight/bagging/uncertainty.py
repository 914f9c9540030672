"""What the members' answers say about each row. B rows, N members, C classes."""

import dataclasses

import numpy as np
from keras import ops

from keras_multiweight.bagging.oob import probabilities
from keras_multiweight.layers.aggregate import CLASS_MEASURES, EnsembleSpread


@dataclasses.dataclass(frozen=True)
class Uncertainty:
    """What `uncertainty` found.

    Attributes:
        mean: `(B, ...)`.
        std: `(B, ...)`, over the members.
        quantiles: `(Q, B, ...)`, over the members.
        predictive_entropy, mutual_information, disagreement: `(B,)` for classes, as `EnsembleSpread` defines them; else
            None.
    """

    mean: np.ndarray
    std: np.ndarray
    quantiles: np.ndarray
    predictive_entropy: np.ndarray | None = None
    mutual_information: np.ndarray | None = None
    disagreement: np.ndarray | None = None


def uncertainty(answers, kind, *, quantiles=(0.05, 0.5, 0.95), from_logits=False):
    """Mean, spread and quantiles over the members, and how unsure and how much at odds they are about classes.

    The predictive entropy is the whole doubt about a row, the mutual information the part of it that comes from the
    members' being at odds, which more data would take away.

    Args:
        answers: `(B, N, ...)`, as `multi.predict` gives them.
        kind: `"numbers"`, or `"classes"`: probabilities `(B, N, C)`, or `(B, N, 1)` of the second of two classes.
        quantiles: Numbers from 0 to 1.
        from_logits: bool. The answers are logits of classes.

    Returns:
        An `Uncertainty`, of probabilities where there are classes.

    Example:

    ```python
    found = kmw.bagging.uncertainty(multi.predict(x), "classes")
    ask_a_human = found.mutual_information > 0.1
    ```
    """
    answers = np.asarray(answers)
    if kind not in ("numbers", "classes") or answers.ndim < 2 + (kind == "classes"):
        raise ValueError(
            "kind must be 'numbers' with answers (B, N, ...), or 'classes' with answers (B, N, C). "
            f"Received: kind={kind!r}, answers of shape {answers.shape}."
        )
    levels = np.asarray(quantiles, "float64")
    if levels.ndim != 1 or (levels < 0).any() or (levels > 1).any():
        raise ValueError(f"quantiles must be numbers from 0 to 1. Received: quantiles={quantiles!r}.")
    answers = probabilities(answers) if from_logits else answers
    of_classes = {measure: _spread(answers, measure) for measure in (CLASS_MEASURES if kind == "classes" else ())}
    return Uncertainty(answers.mean(axis=1), answers.std(axis=1), np.quantile(answers, levels, axis=1), **of_classes)


def _spread(answers, measure):
    return ops.convert_to_numpy(EnsembleSpread(measure=measure)(answers))
