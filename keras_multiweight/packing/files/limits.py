"""What a file from elsewhere may not exceed, and the errors for one that cannot be used."""

import contextlib

CONFIG_BYTES = 32 * 2**20  # the largest config of `keras.applications` has 1.2 MB
CONFIG_DEPTH = 200  # one level of nested models takes 6
ARCHIVE_MEMBERS = 10_000
H5_OBJECTS = 200_000
SMALL = 2**20  # bytes, below which nothing is called a bomb
EXPANSION = 100  # times what is stored; Keras stores weights as they are

WAY_OUT = "If you trust the file, load it yourself with `keras.models.load_model` and pack the loaded models."


class UnsafeFileError(ValueError):
    """A file asks for what a file may not ask for. Nothing in it was run or built.

    Args:
        path: The file.
        must: What must hold.
        received: What came.
        way_out: What to do.
    """

    def __init__(self, path, must, received, way_out=WAY_OUT):
        super().__init__(f"{must} Received: {received}, in '{path}'. {way_out}")


@contextlib.contextmanager
def reading(path, endings):
    """Say which file it was that could not be read."""
    try:
        yield
    except UnsafeFileError:
        raise
    except Exception as error:
        raise ValueError(
            f"Every file must be a model that Keras saved ({', '.join(endings)}; weights with their architecture beside "
            f"them or as template). Received: '{path}', which cannot be read: {type(error).__name__}: "
            f"{_shortened(str(error).strip())}"
        ) from error


def _shortened(text):
    """Keras says what it was about first, and what went wrong last, with the whole config between them."""
    return text if len(text) <= 800 else f"{text[:300]} ... {text[-500:]}"
