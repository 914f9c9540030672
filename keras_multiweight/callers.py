"""Where in the user's code a warning belongs."""

import sys

_PACKAGES = ("keras_multiweight", "keras", "contextlib", "tensorflow", "jax", "torch")


def stack_level():
    """The `stacklevel` of `warnings.warn` that names the line of the user's code which called into this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _PACKAGES:
        frame, level = frame.f_back, level + 1
    return level
