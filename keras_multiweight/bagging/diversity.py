"""How different the members are, and what each is good for, from one pass of predictions. B rows, N members."""

import dataclasses
import io

import numpy as np
from rich.console import Console
from rich.table import Table

from keras_multiweight.bagging.oob import checked_targets
from keras_multiweight.bagging.selection import errors_of, probability_of

LOSSES = ("mse", "log_loss")


@dataclasses.dataclass(frozen=True)
class Diversity:
    """What `diversity` found. Printed, it is a table.

    Attributes:
        disagreement: `(N, N)`: the share of rows in which two members choose different classes, or the root mean square
            of their difference.
        error_correlation: `(N, N)`: the correlation of the members' errors over the rows; NaN for a member without any.
        duplicates: Pairs of members whose answers are equal.
        member_loss: `(N,)`.
        ensemble_loss: float, of the mean answer.
        left_out_loss: `(N,)`: the loss of the mean of the others. Below `ensemble_loss` the member does harm.
    """

    disagreement: np.ndarray
    error_correlation: np.ndarray
    duplicates: list
    member_loss: np.ndarray
    ensemble_loss: float
    left_out_loss: np.ndarray

    def table(self):
        """A `rich` table, a row for each member."""
        caption = f"loss of the mean: {self.ensemble_loss:.4g}; equal members: {self.duplicates or 'none'}"
        table = Table(title=f"{len(self.member_loss)} members", caption=caption)
        for column in ("member", "loss", "loss without it", "mean disagreement", "mean error correlation"):
            table.add_column(column)
        others = ~np.eye(len(self.member_loss), dtype=bool)
        for i, row in enumerate(others):
            parts = (self.disagreement[i, row], self.error_correlation[i, row])
            numbers = (self.member_loss[i], self.left_out_loss[i], *(p.mean() if p.size else np.nan for p in parts))
            table.add_row(str(i), *(f"{number:.4g}" for number in numbers))
        return table

    def __str__(self):
        console = Console(file=io.StringIO(), width=120)
        console.print(self.table())
        return console.file.getvalue()


def diversity(answers, y, loss="mse"):
    """How different members are, and what each adds to the ensemble.

    Args:
        answers: `(B, N, ...)`, as `multi.predict` gives them: numbers for `"mse"`, probabilities for `"log_loss"`.
        y: `(B, ...)` numbers, or `(B,)` integer classes.
        loss: `"mse"` or `"log_loss"`.

    Returns:
        A `Diversity`.

    Raises:
        ValueError: An unknown loss, targets of another length, NaN targets, or labels that are no class.

    Example:

    ```python
    print(kmw.bagging.diversity(multi.predict(x_val), y_val))
    ```

    Reference: Kuncheva and Whitaker, "Measures of diversity in classifier ensembles", 2003.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {LOSSES}. Received: loss={loss!r}.")
    answers = np.asarray(answers, "float64")
    y = checked_targets(y, len(answers))
    measure = _squared_error if loss == "mse" else _log_loss
    num_members = answers.shape[1]
    total = answers.sum(axis=1, keepdims=True)
    others = (total - answers) / max(num_members - 1, 1)
    differs = _differences if loss == "mse" else _other_choices
    pairs = np.array([[differs(answers[:, i], answers[:, j]) for j in range(num_members)] for i in range(num_members)])
    return Diversity(
        disagreement=pairs,
        error_correlation=_correlation(_errors(answers, y, loss)),
        duplicates=_duplicates(answers),
        member_loss=measure(answers, y),
        ensemble_loss=float(measure(total / num_members, y)[0]),
        left_out_loss=measure(others, y) if num_members > 1 else np.full(1, np.nan),
    )


def _squared_error(answers, y):
    """(N,)"""
    return np.square(errors_of(answers, y)).mean(axis=(0, *range(2, answers.ndim)))


def _log_loss(answers, y):
    """(N,)"""
    return -np.log(np.maximum(probability_of(answers, y), 1e-12)).mean(axis=0)


def _errors(answers, y, loss):
    """(N, numbers)"""
    errors = errors_of(answers, y) if loss == "mse" else 1.0 - probability_of(answers, y)
    return np.moveaxis(errors, 1, 0).reshape(answers.shape[1], -1)


def _correlation(errors):
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.atleast_2d(np.corrcoef(errors))


def _differences(a, b):
    return np.sqrt(np.square(a - b).mean())


def _other_choices(a, b):
    return np.mean(_choices(a) != _choices(b))


def _choices(p):
    return p[..., 0] > 0.5 if p.shape[-1] == 1 else p.argmax(axis=-1)


def _duplicates(answers):
    num_members = answers.shape[1]
    pairs = [(i, j) for i in range(num_members) for j in range(i + 1, num_members)]
    return [(i, j) for i, j in pairs if np.array_equal(answers[:, i], answers[:, j], equal_nan=True)]
