"""MultiModel: N weight sets of one architecture as one Keras model."""

import contextlib
import dataclasses
import math

import keras
from keras import ops, tree

from keras_multiweight.bagging.oob import oob_predict, oob_score
from keras_multiweight.copies import check_savable, draws_in_training, uncompiled
from keras_multiweight.deep import deep_graphs
from keras_multiweight.ensemble import EnsembleModel
from keras_multiweight.layers.aggregate import EnsembleAverage, EnsembleSpread
from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.plumbing import PACKAGE
from keras_multiweight.members import Hidden, Members
from keras_multiweight.plan import Plan
from keras_multiweight.prediction.batches import check_at_least_one
from keras_multiweight.prediction.chunks import graph_of
from keras_multiweight.prediction.lowerings import worth_trying
from keras_multiweight.prediction.predicting import Predicting
from keras_multiweight.prediction.tuned import Tuned
from keras_multiweight.prediction.tuning import Tuner
from keras_multiweight.training.checks import check_trains_as_keras
from keras_multiweight.training.trainer import MemberTrainer


@keras.saving.register_keras_serializable(PACKAGE)
class MultiModel(Members, Predicting, MemberTrainer):
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

    # ---- all members ----

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


def _lowering(layer, rows):
    """How a plan calls the lowering that a layer takes."""
    name = layer.lowering_for_rows(rows) if isinstance(layer, MultiLayer) else None
    return f"{name}{'!' * (name == layer.lowering)}" if name else ""


def _bytes(layer):
    """The size of a layer's weights."""
    return sum(math.prod(w.shape) * ops.convert_to_numpy(w).dtype.itemsize for w in layer.weights)
