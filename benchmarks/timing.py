"""Interleaved timings: every variant in turn, round after round, so that a slow minute slows all of them alike."""

import pathlib
import random
import re
import statistics
import time

TURN = 0.05  # seconds: a turn of a fast variant is as many calls as fill it
LEAST = 3  # calls in a turn, where they take less than a second: the first finds the caches as another variant left them


def interleaved(variants, repeats):
    """The median seconds of a call of each variant.

    Args:
        variants: Dict of names to functions without arguments.
        repeats: int, how many turns each variant has, after it is warmed up.
    """
    calls = {name: _calls_in_a_turn(run) for name, run in variants.items()}
    seconds = {name: [] for name in variants}
    order, shuffle = list(variants), random.Random(0).shuffle
    for _ in range(repeats):
        shuffle(order)  # or one variant would always follow the same other
        for name in order:
            seconds[name].append(_seconds_a_call(variants[name], calls[name]))
    return {name: statistics.median(turns) for name, turns in seconds.items()}


def _calls_in_a_turn(run):
    """Warm up, and count how many calls fill a turn."""
    for _ in range(2):  # the first compiles
        run()
    seconds = _seconds_a_call(run, 1)
    return max(int(TURN / seconds), LEAST if seconds * LEAST < 1 else 1)


def _seconds_a_call(run, calls):
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def peak_memory(run):
    """What a function returns, and by how many MB the memory of the process grew at most while it ran; None but on Linux."""
    status, reset = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")
    if not status.exists():
        return run(), None
    before = _kilobytes(status, "VmRSS")
    reset.write_text("5")  # the peak is that of now
    answer = run()
    return answer, (_kilobytes(status, "VmHWM") - before) / 1024


def _kilobytes(status, name):
    return int(re.search(rf"{name}:\s+(\d+) kB", status.read_text())[1])
