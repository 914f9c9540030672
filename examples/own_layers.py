"""A layer of your own, and a model of your own: do they pack, and what does a rule for the layer gain?"""

import time

import keras
import numpy as np

import keras_multiweight as kmw
from keras_multiweight.packing import kinds


class Mixing(keras.layers.Layer):
    """Two dense layers along the two axes of a table, as in an MLP-Mixer. Nothing in it knows of members."""

    def build(self, input_shape):
        rows, columns = input_shape[1:]
        self.down = self.add_weight((rows, rows), "glorot_uniform", name="down")
        self.across = self.add_weight((columns, columns), "glorot_uniform", name="across")

    def call(self, x):
        return keras.ops.tanh(keras.ops.einsum("brc,rs,cd->bsd", x, self.down, self.across))


class MixingWithRule(Mixing):
    """The same, with a rule of its own: `MultiMixing` below computes all members at once."""


class MultiMixing(kmw.layers.MultiLayer):
    """`self.down` and `self.across` have the members along axis 0, and so have the tensors that `run` hands over."""

    member_class = MixingWithRule

    def call(self, x):
        return self.run(self.mix, x)

    def mix(self, x):
        equation = "brc,nrs,ncd->nbsd" if self.shared_input else "nbrc,nrs,ncd->nbsd"
        return keras.ops.tanh(keras.ops.einsum(equation, x, self.down, self.across))


kmw.register_rule(MixingWithRule, kinds.weighted(MultiMixing))


class Classifier(keras.Model):
    """A subclassed model. It is called once before it is packed, so that its shapes are known."""

    def __init__(self, layer_class, **kwargs):
        super().__init__(**kwargs)
        self.mixing = [layer_class(), layer_class()]
        self.out = keras.layers.Dense(3, activation="softmax")

    def call(self, x):
        for layer in self.mixing:
            x = x + layer(x)
        return self.out(keras.ops.mean(x, axis=1))


def network(layer_class):
    """The same as a Functional model, whose layers `pack` sees one by one."""
    inputs = x = keras.Input((6, 8))
    for _ in range(2):
        x = x + layer_class()(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(keras.ops.mean(x, axis=1)))


def classifier(layer_class, x):
    model = Classifier(layer_class)
    model(x[:1])
    return model


def main(num_members=10, rows=64, repeats=20):
    """The largest difference between packed and single answers, for each kind of model."""
    x = np.random.default_rng(0).normal(size=(rows, 6, 8)).astype("float32")
    worst = {}
    for title, build in {
        "a layer without a rule": lambda: network(Mixing),
        "a layer with its own rule": lambda: network(MixingWithRule),
        "a subclassed model": lambda: classifier(Mixing, x),
    }.items():
        models = [build() for _ in range(num_members)]
        multi = kmw.pack(models)
        report = kmw.verify(multi, models, x)
        multi.predict(x)
        start = time.perf_counter()
        for _ in range(repeats):
            multi.predict(x)
        rules = ", ".join(sorted({row["rule"] for row in multi.plan()}))
        milliseconds = 1000 * (time.perf_counter() - start) / repeats
        print(f"{title}: rules {rules}; {milliseconds:.1f} ms a predict; largest difference {report.worst.difference:.1e}")
        worst[title] = report.worst.difference
    return worst


if __name__ == "__main__":
    main()
