"""Which files a user means: paths, folders and patterns."""

import glob
import os
import re

from keras_multiweight.packing.files.formats import ENDINGS


def model_paths(files):
    """The paths of model files that names, folders and patterns stand for.

    Args:
        files: A path, folder or pattern, or a list of them.

    Returns:
        List of str, in the order given; what a folder or a pattern holds in natural order.

    Raises:
        FileNotFoundError: A missing file, or a folder or pattern without a model.
        ValueError: A file with another ending.
    """
    files = [files] if isinstance(files, (str, os.PathLike)) else files
    paths = [path for file in files for path in _matching(os.fspath(file))]
    for path in paths:
        check_file(path)
    return paths


def check_file(path, endings=ENDINGS):
    """Refuse a path that is no file, or no model's."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"Every model must be a file that exists. Received: '{path}'.")
    if not os.path.isfile(path) or ending(path, endings) is None:
        raise ValueError(f"A saved model ends in {', '.join(endings)}. Received: '{path}'.")


def ending(path, endings=ENDINGS):
    """The ending of a model file, or None. `.weights.h5` is not `.h5`."""
    name = os.path.basename(path).lower()
    return next((ending for ending in endings if name.endswith(ending)), None)


def natural_order(path):
    """A sort key that takes numbers as numbers: `2.keras` before `10.keras`."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", str(path))]


def _matching(file):
    if os.path.isdir(file):
        entries = [os.path.join(file, name) for name in os.listdir(file)]
        found = [path for path in entries if os.path.isfile(path) and ending(path)]
    elif glob.has_magic(file) and not os.path.exists(file):
        found = glob.glob(file, recursive=True)
    else:
        return [file]
    if not found:
        raise FileNotFoundError(
            f"A folder or pattern must hold at least one saved model ({', '.join(ENDINGS)}). Received: '{file}', which "
            "matches none."
        )
    return sorted(found, key=natural_order)
