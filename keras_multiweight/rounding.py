"""How far answers that should be equal are apart, and how far rounding brings them."""

import numpy as np

TOLERANCE = {"float64": 1e-10, "float32": 1e-4, "bfloat16": 1e-1, "float16": 2e-2}  # relative to the largest number


def relative_difference(received, expected):
    """The largest difference, relative to the largest number that is expected. NaN equals NaN, inf equals inf.

    Infinite for other shapes, for an inf or NaN on one side only, and for strings, ints and bools that are not equal.
    """
    if received.shape != expected.shape:
        return float("inf")
    if expected.dtype.kind in "OSUbiu":
        return 0.0 if np.array_equal(received, expected) else float("inf")
    received, expected = np.asarray(received, "float64"), np.asarray(expected, "float64")
    same = (received == expected) | (np.isnan(received) & np.isnan(expected))
    if same.all():
        return 0.0
    finite = np.abs(expected[np.isfinite(expected)])
    scale = max(finite.max(initial=0.0), 1e-30)
    difference = np.abs(received - expected)[~same].max()
    return float(difference / scale) if np.isfinite(difference) else float("inf")
