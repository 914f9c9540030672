"""The demo: small real models, one after another and packed, with the time, the difference and the gain of averaging.

Each member has its own seed and its own bootstrap of the training rows.
"""

import contextlib
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.table import Table

from keras_multiweight_cli.start import console, library, say
from keras_multiweight_cli.tasks import TASKS

REPEATS = 3  # of each timing, after one call that compiles
LEARNING_RATE = 5e-3  # high, for few steps


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


def run(members=24, keep=None):
    """Train, save, pack and compare; print one table.

    Args:
        members: int. Models a task.
        keep: Path of a new folder that keeps the files. Left out, they are removed at the end.

    Returns:
        A list of `Result`, one for each task.
    """
    library()
    data = [task.load() for task in TASKS]
    with _folder(keep) as folder:
        results = [_run_task(task, *xy, members, folder) for task, xy in zip(TASKS, data)]
    console.print(_table(results))
    if keep:
        say(f"The models are in '{folder}'; try: keras-multiweight inspect {folder}/{TASKS[0].name}.keras")
    return results


@contextlib.contextmanager
def _folder(keep):
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="keras-multiweight-") as folder:
            yield Path(folder)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise FileExistsError(f"The demo keeps its files in a new or empty folder. Received: '{keep}'.")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep


def _run_task(task, x, y, members, folder):
    import keras

    split = len(x) * 7 // 10
    paths = _train(task, members, x[:split], y[:split], folder / task.name)
    multi = library().pack(paths)
    multi.save(folder / f"{task.name}.keras")
    np.save(folder / f"{task.name}_inputs.npy", x[split:])
    return _compare(task, [keras.models.load_model(path) for path in paths], multi, x[split:], y[split:])


def _train(task, members, x, y, folder):
    """Train the members one by one, in one compiled model that starts anew for each; the paths of their files."""
    import keras

    from keras_multiweight.packing.progress import with_progress

    folder.mkdir()
    model, fresh = _compiled(task)
    paths = [folder / f"member_{i:03}.keras" for i in range(members)]
    for seed, path in enumerate(with_progress(paths, members, f"training {task.name}")):
        keras.utils.set_random_seed(seed)
        model.set_weights(task.build().get_weights())
        for variable, value in zip(model.optimizer.variables, fresh):
            variable.assign(value)
        rows = _bootstrap(len(x), task.steps * task.rows, seed)
        model.fit(x[rows], y[rows], batch_size=task.rows, shuffle=False, verbose=0)
        model.save(path)
    return paths


def _compiled(task):
    """A model to train, and its optimizer's state before the first step."""
    import keras

    model = task.build()
    steps = 1 if keras.backend.backend() == "torch" else task.steps
    model.compile(keras.optimizers.Adam(LEARNING_RATE), task.loss, steps_per_execution=steps)
    model.optimizer.build(model.trainable_variables)
    return model, [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]


def _bootstrap(available, count, seed):
    rng = np.random.default_rng(seed)
    return rng.choice(rng.integers(0, available, available), count)


def _compare(task, models, multi, x, y):
    """The loop of `predict` and the one packed `predict`, on the same rows."""
    from keras_multiweight.rounding import relative_difference

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
    import keras

    table = Table(title=f"{results[0].members} models one after another, and packed ({keras.backend.backend()})")
    table.add_column("task", no_wrap=True)
    for column in ("loop of predict", "packed predict", "faster", "largest error", "mean member", "average"):
        table.add_column(column, justify="right")
    for r in results:
        table.add_row(
            f"{r.task}, {r.metric}", f"{r.loop_seconds * 1e3:.0f} ms", f"{r.packed_seconds * 1e3:.1f} ms",
            _ratio(r.ratio), f"{r.difference:.0e}" if r.difference else "0",
            f"{r.member_score:.3f}", f"{r.average_score:.3f}",
        )  # fmt: skip
    return table


def _ratio(x):
    return f"{x:,.0f}x" if x >= 100 else f"{x:.3g}x"
