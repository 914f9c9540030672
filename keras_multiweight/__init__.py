"""N weight sets of one Keras 3 architecture as one model: one compiled graph, one `predict()`.

See `pack` to join trained models, `replicate` for fresh members, and `layers` for the layers with a member axis.
"""

import importlib
import os

import keras

from keras_multiweight import bagging, callbacks, layers, merging, testing
from keras_multiweight.bagging import BaggingDataset, Bootstrap, PoissonWeights
from keras_multiweight.distribution import MemberParallel
from keras_multiweight.folds import cross_val_fit
from keras_multiweight.layers import EnsembleAverage, MultiDense, MultiSparseLinear
from keras_multiweight.mixed import MixedMultiModel
from keras_multiweight.model import MultiModel
from keras_multiweight.packing.files.paths import check_file
from keras_multiweight.packing.match import IncompatibleModelsError
from keras_multiweight.packing.pack import pack
from keras_multiweight.packing.replicate import replicate
from keras_multiweight.packing.select import select
from keras_multiweight.packing.verify import verify
from keras_multiweight.registry import register_rule

__version__ = "0.1.0"

__all__ = [
    "BaggingDataset",
    "Bootstrap",
    "EnsembleAverage",
    "IncompatibleModelsError",
    "MemberParallel",
    "MixedMultiModel",
    "MultiDense",
    "MultiModel",
    "MultiSparseLinear",
    "PoissonWeights",
    "bagging",
    "callbacks",
    "cross_val_fit",
    "layers",
    "merging",
    "pack",
    "plots",
    "register_rule",
    "replicate",
    "select",
    "sklearn",
    "testing",
    "unpack",
    "verify",
]

OPTIONAL = ("plots", "sklearn")  # modules whose requirements are extras


def __getattr__(name):
    if name in OPTIONAL:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def unpack(multi, optimizer=False, custom_objects=None):
    """All members of a MultiModel as ordinary Keras models, in order; their weights are bit-equal to what was packed.

    Args:
        multi: A MultiModel, or the path of a saved one.
        optimizer: bool. The members come compiled, and train on alone as they would have in the MultiModel.
        custom_objects: Dict of names to custom classes or functions in the file.

    Raises:
        ValueError: Something else, or a file that holds another model.
        FileNotFoundError: A missing file.
    """
    is_path = isinstance(multi, (str, os.PathLike))
    if is_path:
        check_file(multi)
    model = keras.models.load_model(multi, custom_objects) if is_path else multi
    if not isinstance(model, MultiModel):
        raise ValueError(f"unpack takes a MultiModel, or the path of a saved one. Received: {multi!r}.")
    return model.unpack(optimizer)
