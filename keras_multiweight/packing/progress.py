"""A progress bar for what takes long, and none for what does not."""

import time

from rich.progress import Progress

PATIENCE = 2.0  # seconds


def with_progress(items, total, what):
    """Yield the items; after two seconds show a bar."""
    start, bar, task = time.monotonic(), None, None
    try:
        for done, item in enumerate(items):
            if bar is None and time.monotonic() - start > PATIENCE:
                bar = Progress(transient=True)
                bar.start()
                task = bar.add_task(what, total=total)
            if bar is not None:
                bar.update(task, completed=done)
            yield item
    finally:
        if bar is not None:
            bar.stop()
