"""The model that all files are compared with, and files opened one at a time."""

import contextlib
import dataclasses
import os

import keras

from keras_multiweight.copies import all_layers
from keras_multiweight.packing.files import allowed
from keras_multiweight.packing.files.build import build
from keras_multiweight.packing.files.formats import ENDINGS, FORMATS, read_json
from keras_multiweight.packing.files.limits import reading
from keras_multiweight.packing.files.paths import check_file, ending


@dataclasses.dataclass(frozen=True)
class Template:
    """The model that all files are compared with, and its config in the words of a format and version of Keras."""

    model: keras.Model
    config: dict
    dialect: str | None
    assets: dict = dataclasses.field(default_factory=dict)


def open_template(template, first, custom_objects):
    if isinstance(template, keras.Model):
        found = Template(template, keras.saving.serialize_keras_object(template), keras.__version__)
    elif template is not None and not isinstance(template, (str, os.PathLike)):
        raise ValueError(f"template must be a Keras model or a path. Received: template={template!r:.200}.")
    else:
        found = _read_template(os.fspath(template or first), first, custom_objects)
    check_packable(found.model, "template" if template is not None else first)
    return found


def _read_template(path, first, custom_objects):
    """A config in a JSON file needs weights for the model to be built: those of the first member."""
    check_file(path, (*ENDINGS, ".json"))
    config = None
    if path.lower().endswith(".json"):
        with reading(path, (".json",)):
            config = read_json(path)
            allowed.check(config, path, custom_objects)
    with opened(first if config else path) as file, reading(file.path, ENDINGS):
        model = build(file, custom_objects, config)
        return Template(model, config or file.config(), None if config else dialect_of(file), file.assets())


def dialect_of(file):
    """Files of one version of Keras say the same in the same words. Legacy configs name layers in ways of their own."""
    return None if file.legacy else file.version()


@contextlib.contextmanager
def opened(path):
    """A file of a known ending, closed at the end."""
    with reading(path, ENDINGS):
        file = FORMATS[ending(path)](path)
    try:
        yield file
    finally:
        file.close()


def load_model(path, custom_objects=None):
    """The model in a file, built as `pack` builds the first one.

    Args:
        path: A saved model: `.keras`, `.h5`, or weights with a config beside them.
        custom_objects: Dict of names to the user's own classes and functions.

    Raises:
        FileNotFoundError: A missing file.
        ValueError: No model, or an unsafe one.
    """
    check_file(path)
    with opened(os.fspath(path)) as file, reading(file.path, ENDINGS):
        return build(file, custom_objects)


def check_packable(model, which):
    unbuilt = not model.weights and any(not layer.built for layer in all_layers(model))
    if not model.built or unbuilt:
        raise ValueError(
            f"pack takes built Keras models. Received: an unbuilt {type(model).__name__} '{model.name}' as member {which}. "
            "Call it on data, or give it an Input."
        )
