"""What do the plots of members and ensembles show?

Draws every function of `kmw.plots` into a folder, `docs/pictures` if none is named: these are the pictures of the guide.
Three ensembles are trained: a curve with a gap in its data, two half moons, and the diabetes data of scikit-learn. With
`--tensorboard FOLDER` the last training writes its numbers and plots for TensorBoard, too.
"""

import argparse
import pathlib

import keras
import matplotlib
import numpy as np
from sklearn.datasets import load_diabetes, make_moons
from sklearn.preprocessing import StandardScaler

import keras_multiweight as kmw

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "pictures"


def network(features, outputs, activation=None, hidden=(32, 32)):
    x = inputs = keras.Input((features,))
    for units in hidden:
        x = keras.layers.Dense(units, activation="tanh")(x)
    return keras.Model(inputs, keras.layers.Dense(outputs, activation=activation)(x))


def trained(member, x, y, num_members, loss, epochs, **fit_args):
    """Members, each trained on its own bootstrap sample."""
    keras.utils.set_random_seed(0)
    multi = kmw.replicate(member, num_members, seed=0)
    multi.compile(
        keras.optimizers.Adam(0.005), loss, steps_per_execution="auto", jit_compile=keras.backend.backend() == "jax"
    )
    weights = kmw.Bootstrap(len(x), num_members, seed=0).weights
    multi.fit(x, y, sample_weight=weights, batch_size=32, epochs=epochs, verbose=0, **fit_args)
    return multi


def curve(num_members, epochs):
    """The members over one input, with a gap in the data."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-3, -0.8, 80), rng.uniform(0.8, 3, 80)])[:, None].astype("float32")
    y = np.sin(2 * x) + 0.15 * rng.normal(size=x.shape)
    multi = trained(network(1, 1), x, y, num_members, "mse", epochs)
    grid = np.linspace(-3.5, 3.5, 200, dtype="float32")[:, None]
    return {"predictions": lambda ax: kmw.plots.predictions(grid, multi.predict(grid), data=(x, y), ax=ax)}


def moons(num_members, epochs):
    """Where the members are at odds about two classes, and whether their probabilities mean what they say."""
    x, y = make_moons(150, noise=0.25, random_state=0)
    new, new_y = make_moons(2000, noise=0.25, random_state=1)
    multi = trained(network(2, 2, "softmax"), x.astype("float32"), y, num_members, "sparse_categorical_crossentropy", epochs)
    p = multi.predict(new.astype("float32")).mean(axis=1)
    low, high = (-2.5, -2), (3.5, 2.5)
    options = {"kind": "classes", "output": 1, "data": (x, y), "steps": 45}
    return {
        "prediction_map": lambda ax: kmw.plots.prediction_map(multi, low, high, "mutual_information", ax=ax, **options),
        "reliability_diagram": lambda ax: kmw.plots.reliability_diagram(p, new_y, ax=ax),
    }


def diabetes(num_members, epochs, log_dir=None):
    """How the members learn, how far they are apart, and whether more of them would help."""
    x, y = (StandardScaler().fit_transform(part) for part in _diabetes_rows())
    new, new_y, x, y = x[:142], y[:142], x[142:], y[142:]

    def disagreement(multi, ax):
        return kmw.plots.disagreement_matrix(kmw.bagging.diversity(multi.predict(new), new_y), ax=ax)

    callbacks = []
    if log_dir is not None:
        pictures = kmw.plots.TensorBoardPlots(log_dir, {"disagreement": disagreement})
        callbacks = [kmw.callbacks.MemberTensorBoard(log_dir), pictures]
    options = {"validation_data": (new, new_y), "callbacks": callbacks}
    multi = trained(network(10, 1), x, y, num_members, "mse", epochs, **options)
    return {
        "learning_curves": lambda ax: kmw.plots.learning_curves(multi.member_history, ax=ax),
        "disagreement_matrix": lambda ax: disagreement(multi, ax),
        "score_by_members": lambda ax: kmw.plots.score_by_members(multi.predict(new), new_y, "mse", ax=ax),
    }


def _diabetes_rows():
    x, y = load_diabetes(return_X_y=True)
    return x.astype("float32"), y[:, None].astype("float32")


def main(folder=FOLDER, num_members=12, epochs=60, log_dir=None):
    """The paths of the pictures."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plots = {**curve(num_members, 5 * epochs), **moons(num_members, 2 * epochs), **diabetes(num_members, epochs, log_dir)}
    paths = [folder / f"{name}.png" for name in plots]
    for path, draw in zip(paths, plots.values()):
        figure, ax = plt.subplots(figsize=(4.5, 3.2), layout="constrained")
        draw(ax)
        figure.savefig(path, dpi=80, metadata={"Software": None})  # equal bytes from equal numbers
        plt.close(figure)
    return paths


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default=FOLDER)
    parser.add_argument("--tensorboard", metavar="FOLDER")
    arguments = parser.parse_args()
    for path in main(arguments.folder, log_dir=arguments.tensorboard):
        print(path)
