"""The loop of ask, evaluate and tell: in batches, one by one, or by an executor."""

import concurrent.futures

import numpy as np


def evaluate(optimizer, f, budget, batched, executor, callback):
    """See `SurrogateOptimizer.minimize`."""
    if not isinstance(budget, (int, np.integer)) or budget < 1:
        raise ValueError(f"budget must be a positive int. Received: budget={budget!r}.")
    run = _in_batches if executor is None else _in_parallel
    f = f if batched or executor is not None else _each(f)
    run(optimizer, f, budget, executor, lambda: bool(callback and callback(optimizer)))
    return optimizer.best


def _each(f):
    return lambda points: [f(point) for point in points]


def _in_batches(optimizer, f, budget, executor, ends):
    while (left := budget - len(optimizer.pool)) > 0:
        points = optimizer.ask(min(optimizer.batch_size, left))
        try:
            values = f(points)
        except BaseException:
            optimizer.forget(points)
            raise
        optimizer.tell(points, values)
        if ends():
            return


def _in_parallel(optimizer, f, budget, executor, ends):
    running = {}
    try:
        while (left := budget - len(optimizer.pool) - len(running)) > 0 or running:
            if wanted := max(min(optimizer.batch_size - len(running), left), 0):
                running.update((executor.submit(f, point), point) for point in optimizer.ask(wanted))
            done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in sorted(done, key=list(running).index):
                optimizer.tell(running[future], future.result())
                del running[future]
            if ends():
                return
    finally:
        for future, point in running.items():
            future.cancel()
            optimizer.forget(point[None])
