"""The kinds of files that hold a model, or its weights: where each keeps its config, its tensors and its assets."""

import io
import json
import pathlib

import h5py

from keras_multiweight.packing.files.archive import Archive
from keras_multiweight.packing.files.config import parse
from keras_multiweight.packing.files.h5 import Tensors
from keras_multiweight.packing.files.limits import CONFIG_BYTES

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"


def read_json(path):
    """The config in a JSON file."""
    with open(path, "rb") as file:
        return parse(file.read(CONFIG_BYTES + 1), path)


class SavedFile:
    """An open file. The methods of the formats differ in where they look.

    Attributes:
        path: The file, as messages name it.
        legacy: Whether its config is in the words of Keras 2.
        has_config, has_assets: What a file of this format itself holds.
    """

    legacy = False
    has_config = True
    has_assets = False

    def __init__(self, path):
        self.path = path

    def config(self):
        """The config of the model as JSON values, or None where there is none."""
        return None

    def version(self):
        """The version of Keras that wrote it, if known: another one may write the same model in other words."""
        return None

    def assets(self):
        """The files of layers beside their weights as bytes, by name."""
        return {}

    def tensors(self):
        """`Tensors` of the weights."""
        raise NotImplementedError

    def close(self):
        pass


class KerasFile(SavedFile):
    """`.keras`: an archive of a config, weights and assets."""

    has_assets = True

    def __init__(self, path):
        super().__init__(path)
        self._archive = Archive(path)
        self._h5 = None

    def config(self):
        return parse(self._archive.read(CONFIG, CONFIG_BYTES), self.path)

    def version(self):
        if METADATA not in self._archive:
            return None
        return json.loads(self._archive.read(METADATA, CONFIG_BYTES)).get("keras_version")

    def assets(self):
        return self._archive.assets()

    def tensors(self):
        self._h5 = self._h5 or h5py.File(io.BytesIO(self._archive.read(WEIGHTS)), "r")
        return Tensors(self._h5, self.path)

    def close(self):
        self._archive.close()
        if self._h5:
            self._h5.close()


class H5File(SavedFile):
    """`.h5` of Keras 2 or 3: the config is an attribute. Without it the file holds weights alone."""

    legacy = True

    def __init__(self, path):
        super().__init__(path)
        self._h5 = h5py.File(path, "r")

    def config(self):
        text = self._h5.attrs.get("model_config")
        return parse(text, self.path) if isinstance(text, (str, bytes)) else None

    def tensors(self):
        return Tensors(self._h5, self.path).below("model_weights")

    def close(self):
        self._h5.close()


class WeightsFile(H5File):
    """`.weights.h5`: the config is a JSON text of `model.to_json()` beside it."""

    legacy = False
    has_config = False

    def config(self):
        beside = self._beside()
        return beside and read_json(beside)

    def _beside(self):
        path = pathlib.Path(self.path)
        own = path.name[: -len(".weights.h5")] + ".json"
        return next((file for name in (own, *SHARED_CONFIGS) if (file := path.with_name(name)).is_file()), None)


SHARED_CONFIGS = ("model.json", "config.json")  # one config for all weights in a folder
FORMATS = {".keras": KerasFile, ".weights.h5": WeightsFile, ".h5": H5File, ".hdf5": H5File}
ENDINGS = tuple(FORMATS)
