"""The demo: small real models, one after another and packed, with the time, the difference and the gain of averaging.

Two tasks on data that comes with scikit-learn: handwritten digits, classified by small CNNs, and the progress of
diabetes, regressed by small MLPs. Each member has its own seed and its own bootstrap of the training rows.
"""

import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import layers as k
from rich.console import Console
from rich.table import Table

from keras_multiweight.packing.pack import pack
from keras_multiweight.packing.progress import with_progress
from keras_multiweight.packing.verify import relative_difference

REPEATS = 3  # of each timing, after one call that compiles
LEARNING_RATE = 5e-3  # high, for few steps


@dataclasses.dataclass(frozen=True)
class Task:
    """Data, an architecture, and how its answers are scored.

    Attributes:
        load: Gives inputs and targets.
        build: Gives a new model.
        loss: Keras's name of the loss.
        steps, rows: Training steps, and the rows of each.
        metric, score: What the score is called, and `score(targets, answers)`; more is better.
    """

    name: str
    load: Callable
    build: Callable
    loss: str
    steps: int
    rows: int
    metric: str
    score: Callable


@dataclasses.dataclass(frozen=True)
class Result:
    """One row of the demo's table. Times are seconds, scores are on rows that no member was trained on."""

    task: str
    members: int
    loop_seconds: float
    packed_seconds: float
    difference: float
    metric: str
    member_score: float
    average_score: float

    @property
    def ratio(self):
        return self.loop_seconds / self.packed_seconds


def run(members=24, keep=None, console=None):
    """Train, save, pack and compare; print one table.

    Args:
        members: int. Models a task.
        keep: Path of a new folder that keeps the files. Left out, they are removed at the end.
        console: A `rich` console.

    Returns:
        A list of `Result`, one for each task.
    """
    console = console or Console()
    _check_scikit_learn()
    with _folder(keep) as folder:
        results = [_run_task(task, members, folder) for task in TASKS]
    console.print(_table(results))
    if keep:
        console.print(f"The models are in '{folder}'; try: keras-multiweight inspect {folder}/digits.keras", soft_wrap=True)
    return results


def _run_task(task, members, folder):
    x, y = task.load()
    split = len(x) * 7 // 10
    paths = _train(task, members, x[:split], y[:split], folder / task.name)
    multi = pack(paths)
    multi.save(folder / f"{task.name}.keras")
    np.save(folder / f"{task.name}_inputs.npy", x[split:])
    return _compare(task, [keras.models.load_model(path) for path in paths], multi, x[split:], y[split:])


def _train(task, members, x, y, folder):
    """Train the members one by one, in one compiled model that starts anew for each; the paths of their files."""
    folder.mkdir()
    model = task.build()
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    model.compile(optimizer, task.loss, steps_per_execution=1 if keras.backend.backend() == "torch" else task.steps)
    model.optimizer.build(model.trainable_variables)
    fresh = [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]
    paths = [folder / f"member_{i:03}.keras" for i in range(members)]
    for seed, path in enumerate(with_progress(paths, members, f"training {task.name}")):
        rng = np.random.default_rng(seed)
        keras.utils.set_random_seed(seed)
        model.set_weights(task.build().get_weights())
        for variable, value in zip(model.optimizer.variables, fresh):
            variable.assign(value)
        bootstrap = rng.integers(0, len(x), len(x))
        rows = rng.choice(bootstrap, task.steps * task.rows)
        model.fit(x[rows], y[rows], batch_size=task.rows, shuffle=False, verbose=0)
        model.save(path)
    return paths


def _compare(task, models, multi, x, y):
    """The loop of `predict` and the one packed `predict`, on the same rows."""
    loop_seconds, singles = _median_time(lambda: [model.predict(x, verbose=0) for model in models])
    packed_seconds, packed = _median_time(lambda: multi.predict(x, verbose=0))
    return Result(
        task=task.name,
        members=len(models),
        loop_seconds=loop_seconds,
        packed_seconds=packed_seconds,
        difference=max(relative_difference(packed[:, i], own) for i, own in enumerate(singles)),
        metric=task.metric,
        member_score=statistics.fmean(task.score(y, own) for own in singles),
        average_score=task.score(y, packed.mean(axis=1)),
    )


def _median_time(call):
    answer, times = call(), []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times), answer


def _table(results):
    table = Table(title=f"{results[0].members} models one after another, and packed ({keras.backend.backend()})")
    table.add_column("task", no_wrap=True)
    for column in ("loop of predict", "packed predict", "faster", "largest error", "mean member", "average"):
        table.add_column(column, justify="right")
    for r in results:
        table.add_row(
            f"{r.task}, {r.metric}", f"{r.loop_seconds * 1e3:.0f} ms", f"{r.packed_seconds * 1e3:.3g} ms",
            f"{r.ratio:.3g}x", f"{r.difference:.0e}" if r.difference else "0",
            f"{r.member_score:.3f}", f"{r.average_score:.3f}",
        )  # fmt: skip
    return table


# ---- the tasks ----


def _digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    return _shuffled(data.images[..., None] / 16, data.target)


def _diabetes():
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    x, y = _shuffled(data.data, data.target[:, None])
    return (x - x.mean(axis=0)) / x.std(axis=0), (y - y.mean()) / y.std()


def _shuffled(x, y):
    order = np.random.default_rng(0).permutation(len(x))
    return x[order].astype("float32"), y[order].astype("float32")


def _cnn():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            k.Conv2D(8, 3, activation="relu"),
            k.Conv2D(16, 3, activation="relu"),
            k.Flatten(),
            k.Dense(10, activation="softmax"),
        ],
        name="cnn",
    )


def _mlp():
    return keras.Sequential(
        [keras.Input((10,)), k.Dense(64, activation="relu"), k.Dense(64, activation="relu"), k.Dense(1)], name="mlp"
    )


def _accuracy(y, answers):
    return float(np.mean(answers.argmax(axis=-1) == y))


def _r2(y, answers):
    return float(1 - np.mean((y - answers) ** 2) / np.var(y))


TASKS = [
    Task("digits", _digits, _cnn, "sparse_categorical_crossentropy", 50, 128, "accuracy", _accuracy),
    Task("diabetes", _diabetes, _mlp, "mse", 60, 64, "R²", _r2),
]


# ---- before the work ----


def _check_scikit_learn():
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'The demo needs scikit-learn for its data sets. Install it: pip install "keras-multiweight[demo]"'
        ) from error


@contextlib.contextmanager
def _folder(keep):
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="keras-multiweight-") as folder:
            yield Path(folder)
        return
    keep = Path(keep)
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise FileExistsError(f"The demo keeps its files in a new or empty folder. Received: '{keep}'.")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep
