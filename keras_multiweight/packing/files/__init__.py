"""Members from files, which others may have written: what is in them is compared and read, never run.

`sources` opens members; `paths` says which files are meant, `formats` where each kind keeps what; `archive`, `h5` and
`config` read with the limits of `limits`; `allowed` says what a config may name; `build` makes the one model that is built,
and `layout` finds the weights for all others.
"""

from keras_multiweight.packing.files.formats import ENDINGS
from keras_multiweight.packing.files.layout import assign
from keras_multiweight.packing.files.limits import UnsafeFileError
from keras_multiweight.packing.files.paths import model_paths
from keras_multiweight.packing.files.sources import (
    LiveModels,
    Member,
    ModelFiles,
    listed,
    open_members,
    read_config,
)
from keras_multiweight.packing.files.template import load_model

__all__ = [
    "ENDINGS",
    "LiveModels",
    "Member",
    "ModelFiles",
    "UnsafeFileError",
    "assign",
    "listed",
    "load_model",
    "model_paths",
    "open_members",
    "read_config",
]
