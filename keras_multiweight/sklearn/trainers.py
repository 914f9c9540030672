"""Compiled models that are trained again from other weights: a search over folds compiles once for each setting."""

import contextlib
import json

import keras
import numpy as np
from keras import ops

from keras_multiweight.configs import comparable
from keras_multiweight.copies import all_layers
from keras_multiweight.packing.match import model_config

MOST = 2  # models that are kept


class Trainers:
    """The compiled models of an estimator and its clones. One in use is not kept, so that threads do not meet in it."""

    def __init__(self):
        self._kept = {}  # key -> (model, initial values of its optimizer)

    @contextlib.contextmanager
    def borrowed(self, multi, make_optimizer, keep=True, **compile_args):
        """A compiled model with the weights of a MultiModel; what it has learned at the end is the MultiModel's.

        Args:
            multi: A MultiModel that is not compiled.
            make_optimizer: Function that gives an unused optimizer.
            keep: bool. Whether the compiled model may serve other fits.
            **compile_args: Arguments of `compile`.
        """
        key = _key(multi, make_optimizer(), compile_args) if keep else None
        model, starts = self._kept.pop(key, None) or _compiled(multi, make_optimizer(), compile_args)
        _assign(model.variables, map(ops.convert_to_numpy, multi.variables))
        _assign(model.optimizer.variables, starts)
        yield model
        _assign(multi.variables, map(ops.convert_to_numpy, model.variables))
        if key is not None:
            self._kept[key] = model, starts
            while len(self._kept) > MOST:
                self._kept.pop(next(iter(self._kept)), None)


def _compiled(multi, optimizer, compile_args):
    model = multi.select(range(multi.num_members))
    model.compile(optimizer, **compile_args)
    model.optimizer.build(model.trainable_variables)
    return model, [np.array(ops.convert_to_numpy(v)) for v in model.optimizer.variables]


def _key(multi, optimizer, compile_args):
    """Equal where one compiled model serves; None where that is not known, as of functions and objects."""
    template = multi.template()
    said = [
        comparable(model_config(template)),
        multi.member_settings,
        multi.num_members,
        multi.member_inputs,
        comparable(keras.optimizers.serialize(optimizer)),
        compile_args,
    ]
    try:
        return json.dumps(said, sort_keys=True), *map(type, all_layers(template))
    except TypeError:
        return None


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
