"""The arguments of `MultiModel.compile` in a file, and in a clone."""

import keras

from keras_multiweight.layers.plumbing import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class CompileArguments:
    """Arguments that only a `MultiModel` understands.

    `keras.models.clone_model` makes a plain graph of a `MultiModel` and hands these to the graph's own `compile`, whose loss
    would couple the members: to Keras this is a mapping without keys, so that the clone predicts, and has no loss.

    Args:
        arguments: Dict of the arguments of `MultiModel.compile`.
    """

    def __init__(self, arguments):
        self.arguments = arguments

    def keys(self):
        return ()

    def __getitem__(self, key):
        raise KeyError(key)

    def get_config(self):
        return {"arguments": keras.saving.serialize_keras_object(self.arguments)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["arguments"]))


def arguments_of(config):
    """The arguments in a compile config, in whatever form it has them: files of 0.1 have a dict."""
    found = keras.saving.deserialize_keras_object(config)
    return found.arguments if isinstance(found, CompileArguments) else found
