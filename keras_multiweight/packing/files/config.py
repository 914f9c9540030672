"""The config of a saved model as JSON values, read with limits."""

import json

from keras_multiweight.copies import uncompiled
from keras_multiweight.packing.files.limits import CONFIG_BYTES, CONFIG_DEPTH, UnsafeFileError


def parse(text, path):
    """The config in a JSON text, without what the model was trained with.

    Args:
        text: str or bytes.
        path: The file that messages name.

    Raises:
        UnsafeFileError: Too long or too deeply nested.
        ValueError: Not JSON, or not a config.
    """
    if len(text) > CONFIG_BYTES:
        must = f"The config of a model may have at most {CONFIG_BYTES:,} bytes."
        raise UnsafeFileError(path, must, f"{len(text):,} bytes")
    try:
        config = json.loads(text)
    except RecursionError as error:
        raise _too_deep(path, "more levels than Python can read") from error
    if not isinstance(config, dict) or not isinstance(config.get("config"), (dict, list)):
        raise ValueError("The config of a model is a JSON object with a 'class_name' and a 'config'.")
    check_depth(config, path)
    return uncompiled(config)


def check_depth(config, path):
    """Refuse a config of more levels than any model has, level by level, so that depth itself does no harm."""
    level, depth = [config], 0
    while level:
        if depth > CONFIG_DEPTH:
            raise _too_deep(path, f"more than {CONFIG_DEPTH} levels")
        level = [item for held in level for item in _children(held)]
        depth += 1


def _children(value):
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _too_deep(path, received):
    return UnsafeFileError(path, f"The config of a model may have at most {CONFIG_DEPTH} levels.", received)
