"""Pictures of members and ensembles. Needs Matplotlib. Each function draws into `ax`, or into new axes, and returns them.

B rows, N members, C classes.
"""

import io
import itertools
import pathlib
import time

import keras
import numpy as np

try:
    import matplotlib.pyplot as plt
except ImportError as error:
    raise ImportError("keras_multiweight.plots needs Matplotlib: pip install 'keras-multiweight[plots]'.") from error

from keras_multiweight.bagging.calibration import reliability
from keras_multiweight.bagging.oob import checked_targets
from keras_multiweight.bagging.resampling import checked_count
from keras_multiweight.bagging.uncertainty import uncertainty
from keras_multiweight.metrics import metric_function

__all__ = [
    "TensorBoardPlots",
    "disagreement_matrix",
    "learning_curves",
    "prediction_map",
    "predictions",
    "reliability_diagram",
    "score_by_members",
]

BAND = {"alpha": 0.25, "linewidth": 0}


def learning_curves(member_history, names=None, *, ax=None):
    """Each member's numbers epoch by epoch, their mean, and a band of one standard deviation.

    Args:
        member_history: `multi.member_history`, dict of names to `(epochs, N)`.
        names: Which to draw. Left out, the losses.
        ax: Matplotlib axes.

    Example:

    ```python
    multi.fit(x, y, epochs=20, validation_split=0.2)
    kmw.plots.learning_curves(multi.member_history, ["loss", "val_loss"])
    ```
    """
    ax = _axes(ax)
    names = [n for n in ("loss", "val_loss") if n in member_history] if names is None else names
    missing = [name for name in names if name not in member_history]
    if missing or not names:
        raise ValueError(f"names must be among {sorted(member_history)}. Received: names={names!r}.")
    for name in names:
        values = np.asarray(member_history[name])
        epochs, mean, std = np.arange(1, len(values) + 1), values.mean(axis=1), values.std(axis=1)
        (line,) = ax.plot(epochs, mean, label=f"{name}, mean")
        ax.plot(epochs, values, color=line.get_color(), alpha=0.3, linewidth=0.5)
        ax.fill_between(epochs, mean - std, mean + std, color=line.get_color(), **BAND)
    ax.set(xlabel="epoch")
    ax.legend()
    return ax


def predictions(x, answers, *, data=None, quantiles=(0.05, 0.95), ax=None):
    """Answers over one input: each member's, their mean, and a band between two quantiles of the members.

    Args:
        x: `(B,)` or `(B, 1)`, in any order.
        answers: `(B, N)` or `(B, N, 1)`, as `multi.predict(x)` gives them.
        data: Pair `(x, y)` of points to show, such as the training rows.
        quantiles: The lower and the upper end of the band.
        ax: Matplotlib axes.
    """
    ax, answers = _axes(ax), np.asarray(answers)
    x, answers = _column(x, "x"), _column(answers, "answers", axes=2)
    if len(x) != len(answers):
        raise ValueError(f"x and answers must have as many rows. Received: {len(x)} and {len(answers)}.")
    order = np.argsort(x, kind="stable")
    x, found = x[order], uncertainty(answers[order], "numbers", quantiles=quantiles)
    (line,) = ax.plot(x, found.mean, label="mean")
    ax.plot(x, answers[order], color=line.get_color(), alpha=0.2, linewidth=0.5)
    label = f"{quantiles[0]:.0%} to {quantiles[1]:.0%} of the members"
    ax.fill_between(x, *found.quantiles, color=line.get_color(), label=label, **BAND)
    if data is not None:
        ax.scatter(_column(data[0], "x of data"), _column(data[1], "y of data"), s=8, color="black", label="data")
    ax.legend()
    return ax


def prediction_map(multi, low, high, measure="std", *, kind="numbers", output=0, steps=60, data=None, ax=None):
    """The mean answer over two inputs as contour lines, and how far the members are apart as colours.

    Args:
        multi: A MultiModel of one input `(B, 2)` and one output.
        low, high: Pairs: the corners of the map.
        measure: What the colours are: a name of `Uncertainty`, such as `"std"` or `"mutual_information"`.
        kind: `"numbers"` or `"classes"`, as for `uncertainty`.
        output: int: which number, or class, of the answers.
        steps: int, points along each side.
        data: Pair `(x, y)` of points to show.
        ax: Matplotlib axes.
    """
    ax = _axes(ax)
    sides = [np.linspace(a, b, steps) for a, b in zip(low, high)]
    grid = np.stack(np.meshgrid(*sides), axis=-1)  # (steps, steps, 2)
    found = uncertainty(multi.predict(grid.reshape(-1, 2).astype("float32")), kind)
    values = getattr(found, measure, None)
    if not isinstance(values, np.ndarray) or measure == "quantiles":
        raise ValueError(f"measure must be one of an Uncertainty of {kind!r}. Received: measure={measure!r}.")
    values = values if values.ndim == 1 else values[:, output]
    colours = ax.pcolormesh(*sides, values.reshape(steps, steps), shading="auto")
    ax.figure.colorbar(colours, ax=ax, label=measure)
    ax.clabel(ax.contour(*sides, found.mean[:, output].reshape(steps, steps), colors="white"), fontsize=7)
    if data is not None:
        ax.scatter(*np.asarray(data[0]).T, c=np.ravel(data[1]), s=8, cmap="coolwarm")
    return ax


def reliability_diagram(p, y, *, bins=10, ax=None):
    """How often answers are right, by how confident they are; on the diagonal, confidence means what it says.

    Args:
        p: Probabilities `(B, C)`, or `(B, 1)` of the second of two classes.
        y: Classes `(B,)`, ints.
        bins: int.
        ax: Matplotlib axes.
    """
    ax, found = _axes(ax), reliability(p, y, bins)
    ax.bar(found.edges[:-1], np.nan_to_num(found.accuracy), width=1 / bins, align="edge", edgecolor="white", label="rows")
    ax.plot(found.confidence, found.accuracy, "o", color="black", label="mean of a bin")
    ax.plot([0, 1], [0, 1], "--", color="grey")
    ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    ax.legend()
    return ax


def disagreement_matrix(report, *, ax=None):
    """How far each pair of members is apart, as colours.

    Args:
        report: A `Diversity`, as `kmw.bagging.diversity` gives it.
        ax: Matplotlib axes.
    """
    ax = _axes(ax)
    ax.figure.colorbar(ax.imshow(report.disagreement), ax=ax, label="disagreement")
    ax.set(xlabel="member", ylabel="member")
    return ax


def score_by_members(answers, y, metric, *, orders=10, seed=0, ax=None):
    """The score of the mean answer of 1, 2, ..., N members: whether more of them would help.

    Args:
        answers: `(B, N, ...)`.
        y: Targets of one answer, `(B, ...)`.
        metric: As for `oob_score`.
        orders: int: the members are added in so many random orders, whose mean and standard deviation are drawn.
        seed: int, of the orders.
        ax: Matplotlib axes.
    """
    ax, answers = _axes(ax), np.asarray(answers, "float64")
    y, score, rng = checked_targets(y, len(answers)), metric_function(metric), np.random.default_rng(seed)
    members = np.arange(1, answers.shape[1] + 1)
    found = []
    for _ in range(orders):
        sums = itertools.accumulate(answers[:, i] for i in rng.permutation(len(members)))
        found.append([score(y, total / count) for total, count in zip(sums, members)])
    mean, std = np.mean(found, axis=0), np.std(found, axis=0)
    (line,) = ax.plot(members, mean)
    ax.fill_between(members, mean - std, mean + std, color=line.get_color(), **BAND)
    ax.set(xlabel="members", ylabel=metric if isinstance(metric, str) else getattr(metric, "__name__", "score"))
    return ax


class TensorBoardPlots(keras.callbacks.Callback):
    """Shows plots in TensorBoard while members train: the learning curves, and what else is asked for. Needs `tensorboard`.

    The numbers of each member are `kmw.callbacks.MemberTensorBoard`'s.

    Args:
        log_dir: Path of the folder.
        plots: Dict of names to functions `draw(multi, ax)`, which draw into Matplotlib axes.
        every: int: epochs from one picture to the next. Left out, there is one of each, at the end.

    Example:

    ```python
    def disagreement(multi, ax):
        report = kmw.bagging.diversity(multi.predict(x_val), y_val)
        kmw.plots.disagreement_matrix(report, ax=ax)


    pictures = kmw.plots.TensorBoardPlots("logs", {"disagreement": disagreement}, every=10)
    multi.fit(x, y, epochs=50, callbacks=[kmw.callbacks.MemberTensorBoard("logs"), pictures])
    ```
    """

    def __init__(self, log_dir, plots=None, every=None):
        super().__init__()
        self.log_dir, self.every = pathlib.Path(log_dir), every and checked_count(every, "every")
        self.plots = {"learning curves": lambda multi, ax: learning_curves(multi.member_history, ax=ax), **(plots or {})}

    def on_train_begin(self, logs=None):
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer, self._epoch, self._drawn = EventFileWriter(str(self.log_dir / "plots")), -1, -1

    def on_epoch_end(self, epoch, logs=None):
        self._epoch = epoch
        if self.every and (epoch + 1) % self.every == 0:
            self._draw_all()

    def on_train_end(self, logs=None):
        if self._epoch > self._drawn:
            self._draw_all()
        self._writer.close()

    def _draw_all(self):
        self._drawn = self._epoch
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # `draw` may read the weights
        for name, draw in self.plots.items():
            figure, ax = plt.subplots(layout="constrained")
            draw(self.model, ax)
            self._write(name, figure)
            plt.close(figure)

    def _write(self, name, figure):
        from tensorboard.compat.proto import event_pb2, summary_pb2

        png = io.BytesIO()
        figure.savefig(png, format="png")
        width, height = figure.canvas.get_width_height()
        image = summary_pb2.Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png.getvalue())
        value = summary_pb2.Summary.Value(tag=name, image=image)
        summary = summary_pb2.Summary(value=[value])
        self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=self._epoch, summary=summary))


def _axes(ax):
    return plt.subplots()[1] if ax is None else ax


def _column(x, what, axes=1):
    """An array of so many axes, without a last axis of length 1."""
    x = np.asarray(x)
    shape = x.shape
    x = x[..., 0] if x.ndim == axes + 1 and shape[-1] == 1 else x
    if x.ndim != axes:
        raise ValueError(f"{what} must be numbers of {axes} axes, or one more of length 1. Received: shape {shape}.")
    return x
