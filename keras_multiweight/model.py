"""MultiModel: N weight sets of one architecture as one Keras model."""

import contextlib
import dataclasses
import math
import operator

import keras
import numpy as np
from keras import ops, tree

from keras_multiweight.bagging.oob import oob_predict, oob_score
from keras_multiweight.copies import (
    CannotCopyError,
    check_savable,
    copy_built,
    draws_in_training,
    serialized,
    set_all_weights,
    uncompiled,
)
from keras_multiweight.deep import deep_graphs
from keras_multiweight.ensemble import EnsembleModel
from keras_multiweight.layers.aggregate import EnsembleAverage, EnsembleSpread
from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.plumbing import PACKAGE
from keras_multiweight.plan import Plan
from keras_multiweight.prediction.batches import check_at_least_one
from keras_multiweight.prediction.chunks import graph_of
from keras_multiweight.prediction.lowerings import worth_trying
from keras_multiweight.prediction.predicting import Predicting
from keras_multiweight.prediction.tuned import Tuned
from keras_multiweight.prediction.tuning import Tuner
from keras_multiweight.settings import settings_of, with_settings
from keras_multiweight.training.checks import check_trains_as_keras
from keras_multiweight.training.resume import compile_alone
from keras_multiweight.training.trainer import MemberTrainer


class Hidden:
    """What Keras must not track: the template is no sublayer of the packed model."""

    def __init__(self, member, settings):
        self.member = member  # or why there is none
        self.settings = settings  # plain values, as they are saved


@keras.saving.register_keras_serializable(PACKAGE)
class MultiModel(Predicting, MemberTrainer):
    """N models of one architecture in one graph. Made by `pack` and `replicate`, not by hand.

    Called on the inputs of one member, it gives for each output of the member, in the same structure, the answers of all
    members, `(B, N, ...)`. Packed with `member_inputs=True`, it is called on the inputs of all, `(B, N, ...)`. It is saved
    and loaded like any Keras model, after `import keras_multiweight`.

    Attributes:
        num_members: N.
        member_names: How messages call the members: file paths, or model names.
        member_seeds: The seeds that `replicate` drew the members with, or None.
        member_inputs: For each input whether its axis 1 holds the members, as `pack(member_inputs=...)` had it.
        member_settings: The settings of layers that differ between the members, such as rates of dropout: a dict of their
            paths to the lists of the members' values, `{"dropout/rate": [0.1, 0.5]}`.

    Example:

    ```python
    multi = kmw.pack(models)
    multi.predict(x)[:, 3]  # what models[3].predict(x) gives
    multi.save("packed.keras")
    ```
    """

    def __init__(
        self,
        inputs,
        outputs,
        *,
        member,
        member_names,
        slots,
        plan,
        member_seeds=None,
        member_inputs=(),
        member_settings=None,
        tuned=(),
        **kwargs,
    ):
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        settings = {"member_names": member_names, "member_seeds": member_seeds, "slots": slots, "plan": plan}
        settings |= {"member_inputs": member_inputs, "member_settings": dict(member_settings or {}), "tuned": list(tuned)}
        self._hidden = Hidden(member, settings)

    @property
    def num_members(self):
        return len(self._hidden.settings["member_names"])

    @property
    def member_names(self):
        return list(self._hidden.settings["member_names"])

    @property
    def member_seeds(self):
        return self._hidden.settings["member_seeds"]

    @property
    def member_inputs(self):
        return list(self._hidden.settings["member_inputs"] or [False] * len(self.inputs))

    @property
    def member_settings(self):
        """What the members differ in beside weights, such as rates of dropout: a dict of paths to lists of N values.

        A path is the names of the layers around a setting and its name: `"encoder/dropout/rate"`. Those in which all members
        agree are not among them: `settings_of_members()` has all.
        """
        return {path: list(values) for path, values in self._hidden.settings["member_settings"].items()}

    def plan(self, rows=None):
        """Which rule each layer got and which lowering it takes, as a `Plan`: a list of rows, and a table when printed.

        Args:
            rows: int. For batches of so many rows; left out, for those of a program that serves any number.
        """
        check_at_least_one(rows=rows)
        saved = (self.num_members - 1) * sum(map(_bytes, self.shared_layers()))
        layers = {layer.name: layer for layer in self.layers}
        found = [{**row, "lowering": _lowering(layers.get(row["name"]), rows)} for row in self._hidden.settings["plan"]]
        return Plan(found, self.num_members, saved, self.tuned())

    def __call__(self, inputs, *args, **kwargs):
        with self._hint_at_member_inputs(inputs):
            return super().__call__(inputs, *args, **kwargs)

    def compute_output_spec(self, inputs, *args, **kwargs):
        with self._hint_at_member_inputs(inputs):
            return super().compute_output_spec(inputs, *args, **kwargs)

    @contextlib.contextmanager
    def _hint_at_member_inputs(self, inputs):
        try:
            yield
        except ValueError as error:
            if "member_inputs=True" in str(error) or not self._reads_as_of_members(inputs):
                raise
            raise ValueError(
                f"{error}\nAxis 1 of the inputs has the length {self.num_members}, as if it held the members; this model's "
                "members all read one input. For inputs of each member, (B, N, ...), give member_inputs=True to pack, "
                "replicate or select."
            ) from error

    def _reads_as_of_members(self, inputs):
        """Whether inputs have one axis more than they should, with room for the members."""
        given, expected = tree.flatten(inputs), self.inputs
        pairs = zip(given, expected, self.member_inputs) if len(given) == len(expected) else ()
        shapes = [(tuple(getattr(x, "shape", ())), tuple(own.shape)) for x, own, flag in pairs if not flag]
        return any(len(a) == len(b) + 1 and a[1] == self.num_members for a, b in shapes)

    # ---- members ----

    def template(self):
        """The Keras model that says what one member is. Its own weight values mean nothing.

        A method: Keras saves what it finds in the properties of a model.

        Raises:
            ValueError: The members' class cannot be made again from its config.
        """
        if isinstance(self._hidden.member, CannotCopyError):
            raise self._hidden.member
        return self._hidden.member

    @deep_graphs()
    def member(self, i):
        """Member `i` as an ordinary Keras model, with the weights that it has here, bit for bit.

        Raises:
            IndexError: There is no member `i`. Negative numbers count from the end.
        """
        weights = self.member_weights(i)
        model = copy_built(self.template(), self._member_config(i))
        set_all_weights(model, weights)
        return model

    def member_weights(self, i):
        """The weights of member `i` as a list of NumPy arrays, in the order of a single model's `get_weights()`."""
        i = self.number(i)
        return [_member_value(self.get_layer(name), index, i) for name, index in self.weight_places()]

    def stacked_member_weights(self):
        """For each weight of a single model, in order, the `(N, ...)` array of the members' values, each read once."""
        return [_stacked_value(self.get_layer(name), index, self.num_members) for name, index in self.weight_places()]

    def settings_of_members(self):
        """All settings of layers that may differ between members, pairs of paths and lists of the members' values."""
        found = settings_of(serialized(self.template()))
        return [(path, self.member_settings.get(path, [value] * self.num_members)) for path, value in found]

    def _member_config(self, i):
        """The config of member `i` where it is not the template's."""
        own = {path: values[self.number(i)] for path, values in self.member_settings.items()}
        return with_settings(serialized(self.template()), own)["config"] if own else None

    def number(self, i):
        """The number of member `i` from 0, which may count from the end; an IndexError where there is none."""
        if not -self.num_members <= operator.index(i) < self.num_members:
            raise IndexError(f"Members are numbered from 0 to {self.num_members - 1}. Received: i={i}.")
        return i % self.num_members

    def set_member_weights(self, i, weights):
        """Give member `i` weights, a list of arrays as `member_weights(i)` gives it."""
        for (name, index), value in zip(self.weight_places(), weights, strict=True):
            _set_member_value(self.get_layer(name), index, i, value)

    def weight_places(self):
        """For each weight of a single model, in order: the name of the layer here and the index among its weights.

        A `MultiLayer` has it in its `stacked_weights`; a layer that all members share, in its `weights`.
        """
        return [tuple(place) for place in self._hidden.settings["slots"]]

    def shared_layers(self):
        """The layers with weights that are equal in all members, stored and computed once."""
        names = [row["name"] for row in self._hidden.settings["plan"] if row["rule"] == "shared"]
        return [layer for layer in map(self.get_layer, names) if layer.variables]

    def unpack(self, optimizer=False):
        """All members as ordinary Keras models, in order; compiled as those that were packed, where Keras can do that again
        (metrics must be registered) and they do not come from a file.

        Args:
            optimizer: bool. The members come compiled, each with its optimizer and that optimizer's state, and train on
                alone as they would have here.

        Raises:
            ValueError: `optimizer=True` of a model that is not compiled.
        """
        if optimizer and not self.compiled:
            raise ValueError(f"optimizer=True needs a compiled model. Received: '{self.name}', which was never compiled.")
        members = [self.member(i) for i in range(self.num_members)]
        for i, member in enumerate(members if optimizer else ()):
            compile_alone(member, self, i)
        return members

    @deep_graphs()
    def average(self, **options):
        """A model whose outputs are the averages over the members. It shares this model's weights.

        Its `predict` goes through the rows and the members part by part, and never holds the answers of all members for
        all rows.

        Args:
            **options: Arguments of `EnsembleAverage`, for every output: `member_weights`, `from_logits`, ...

        Returns:
            An `EnsembleModel`, which is a Keras model.
        """
        return EnsembleModel.of(self, lambda name: EnsembleAverage(name=name, **options), f"{self.name}_average")

    @deep_graphs()
    def spread(self, **options):
        """A model whose outputs say how far the members are apart; else as `average`.

        Args:
            **options: Arguments of `EnsembleSpread`, for every output: `measure`, `from_logits`, `ddof`.
        """
        return EnsembleModel.of(self, lambda name: EnsembleSpread(name=name, **options), f"{self.name}_spread")

    def check_trainable(self):
        """Raise where one layer serves all members that training would change, or draw in, for each member alone."""
        check_trains_as_keras(getattr(self._hidden.member, "model_class", type(self._hidden.member)))
        coupled = [x.name for x in self.shared_layers() if x.trainable_variables or draws_in_training(x)]
        if coupled:
            raise ValueError(
                "Members are trained each with layers of its own, but for frozen ones. Received: layers that all members "
                f"share, {', '.join(coupled)}. Pack with share='frozen' or share=None, or freeze them before packing."
            )

    @deep_graphs()
    def graph_of(self, num_members):
        """This model's graph for another number of members, as a Keras model with weights of its own.

        Raises:
            ValueError: A layer has settings of each member that are not among the weights.
        """
        fixed = [x.name for x in self.layers if getattr(x, "member_settings", None) and not x.settings_are_weights]
        if fixed:
            raise ValueError(f"Layers with settings of each member stay whole. Received: {', '.join(fixed)}.")
        graph = keras.Model(self.input, self.output, name=self.name)
        own = [x.name for x, flag in zip(self.inputs, self.member_inputs) if flag]
        shared = [row["name"] for row in self._hidden.settings["plan"] if row["rule"] == "shared"]
        return graph_of(graph, own, shared, self.num_members, num_members)

    def take_lowerings(self, other):
        """Force each layer to the lowering that the layer of its name in another packed model is forced to."""
        layers = {layer.name: layer for layer in other.layers if isinstance(layer, MultiLayer)}
        for layer in self.layers:
            if layer.name in layers and type(layer) is type(layers[layer.name]):
                layer.lowering = layers[layer.name].lowering

    # ---- predict ----

    def tune(self, x, *, jit_compile=None, seconds=120, verbose=True):
        """Find the fastest way to predict `x` on this machine, by trying, and predict inputs of about as many rows so.

        Tried are: to compile or not, how many members and rows are computed at once, and the lowerings of the layers. Each
        candidate must give the answers that the model gives untuned, and is timed against the best so far in turns. What
        wins is saved with the model and shown by `plan()`; the lowerings of the layers hold for all numbers of rows.
        Predictors that were made before stay as they are.

        Args:
            x: Arrays, as `predict` takes them: of the usual kind and number of rows.
            jit_compile: List of the values of `jit_compile` to try. Left out, both on TensorFlow, False on torch, where
                `torch.compile` takes long.
            seconds: After these no further candidate is begun.
            verbose: bool. Print what it gained.

        Returns:
            A `Tuned`, which `str` tells in words.
        """
        self._keep([entry for entry in self.tuned() if not entry.is_for(len(tree.flatten(x)[0]))])
        found = Tuner(self, x, worth_trying() if jit_compile is None else jit_compile, seconds).run()
        self._keep([*self.tuned(), found])
        if verbose:
            print(found)
        return found

    def tuned(self):
        return [Tuned(**entry) for entry in self._hidden.settings["tuned"]]

    def _keep(self, entries):
        self._hidden.settings["tuned"] = [dataclasses.asdict(entry) for entry in entries]

    # ---- out of bag ----

    def oob_predict(self, x, bootstrap, **options):
        """The mean answers of the members that did not draw a row: `kmw.bagging.oob_predict`."""
        return oob_predict(self, x, bootstrap, **options)

    def oob_score(self, x, y, bootstrap, metric, **options):
        """How good the out-of-bag answers are: `kmw.bagging.oob_score`."""
        return oob_score(self, x, y, bootstrap, metric, **options)

    # ---- saving ----

    def save(self, filepath, *args, **kwargs):
        """Save as `keras.Model.save` does, to a `.keras` file: Keras does not find the classes of an `.h5` file again."""
        if not str(filepath).endswith(".keras"):
            raise ValueError(f"A MultiModel is saved to a file that ends in .keras. Received: filepath='{filepath}'.")
        self._check_savable()
        super().save(filepath, *args, **kwargs)

    def _check_savable(self):
        check_savable(self.template())

    @deep_graphs()
    def get_config(self):
        graph = keras.Model(self.input, self.output, name=self.name).get_config()
        member = uncompiled(keras.saving.serialize_keras_object(self.template()))
        return {"graph": {**graph, "trainable": self.trainable}, "member": member, **self._hidden.settings}

    @classmethod
    @deep_graphs()
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        graph = keras.Model.from_config(config.pop("graph"), custom_objects)
        member = keras.saving.deserialize_keras_object(config.pop("member"), custom_objects)
        return cls(graph.input, graph.output, member=member, name=graph.name, trainable=graph.trainable, **config)


def _member_value(layer, index, i):
    """A weight of member `i`, as a NumPy array."""
    return layer.member_value(index, i) if isinstance(layer, MultiLayer) else ops.convert_to_numpy(layer.weights[index])


def _stacked_value(layer, index, num_members):
    """A weight of all members, as a NumPy array `(N, ...)`."""
    if isinstance(layer, MultiLayer):
        return layer.stacked_value(index)
    value = ops.convert_to_numpy(layer.weights[index])
    return np.broadcast_to(value, (num_members, *value.shape))


def _set_member_value(layer, index, i, value):
    if isinstance(layer, MultiLayer):
        layer.set_member_value(index, i, value)
    elif not np.array_equal(ops.convert_to_numpy(layer.weights[index]), value):
        raise ValueError(
            "A weight that all members share cannot be set for one of them. Received: another value for layer "
            f"'{layer.name}' of member {i}. Pack with share=None."
        )


def _lowering(layer, rows):
    """How a plan calls the lowering that a layer takes."""
    name = layer.lowering_for_rows(rows) if isinstance(layer, MultiLayer) else None
    return f"{name}{'!' * (name == layer.lowering)}" if name else ""


def _bytes(layer):
    """The size of a layer's weights."""
    return sum(math.prod(w.shape) * ops.convert_to_numpy(w).dtype.itemsize for w in layer.weights)
