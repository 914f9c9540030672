"""Cross-validation and sweeps of settings in one `fit`. R rows, K folds, N members."""

import dataclasses
import functools
import inspect
import io
import itertools
from collections.abc import Iterable

import keras
import numpy as np
from keras import tree
from rich.console import Console
from rich.table import Table

from keras_multiweight.bagging.oob import checked_targets
from keras_multiweight.bagging.resampling import checked_count
from keras_multiweight.metrics import metric_function
from keras_multiweight.model import MultiModel
from keras_multiweight.packing.match import IncompatibleModelsError, config_differences, model_config
from keras_multiweight.packing.replicate import replicate
from keras_multiweight.seeding import seed_sequence, seeded
from keras_multiweight.settings import settings_of


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """What `cross_val_fit` found. Printed, it is a table of the settings.

    Attributes:
        multi: The MultiModel of all members, in the order settings, repeats, folds.
        params: The settings, as given.
        scores: `(settings, repeats, folds)`: of each member on the rows of its fold, which it was not trained on.
        predictions: `(settings, repeats, R, ...)`: each row's answer by the member that was not trained on it; their mean,
            where a row is in several folds, and NaN for rows of no fold.
        test_rows: For each repeat, for each fold, its rows.
    """

    multi: MultiModel
    params: list
    scores: np.ndarray
    predictions: np.ndarray
    test_rows: list

    def member(self, setting, repeat, fold):
        """The number of a member in `multi`."""
        return int(np.ravel_multi_index((setting, repeat, fold), self.scores.shape))

    def table(self):
        """A `rich` table: the mean score of each setting, and its standard deviation over repeats and folds."""
        table = Table("setting", "mean score", "deviation", title=f"{self.multi.num_members} members in one fit")
        for setting, scores in zip(self.params, self.scores):
            table.add_row(str(setting), f"{scores.mean():.4g}", f"{scores.std():.2g}")
        return table

    def __str__(self):
        console = Console(file=io.StringIO(), width=120)
        console.print(self.table())
        return console.file.getvalue()


def cross_val_fit(
    build,
    x,
    y,
    folds=5,
    repeats=1,
    params=({},),
    *,
    loss,
    metric,
    optimizer="adam",
    normalize=False,
    epochs=1,
    batch_size=32,
    seed=0,
    **fit_args,
):
    """Train K folds x repeats x settings as the members of one model, and score each on the rows that it was not trained on.

    A member sees the rows of its fold with weight 0 and the others with `R / rows it trains on`: the mean loss over all rows
    is the mean over its own. All settings and folds of a repeat begin with the same weights.

    Args:
        build: Function that builds a model with one output; or a built Keras model, where `params` are of the optimizer.
        x, y: Arrays `(R, ...)`; `x` may be a structure of them.
        folds: int, K: every repeat has a new partition. Or a splitter of scikit-learn, such as `StratifiedKFold(5)`; or a
            list of pairs `(rows to train on, rows to test)` of numbers or boolean masks of the rows, as
            `list(GroupKFold(5).split(x, y, groups))`. A row that is to be trained on twice counts twice.
        repeats: int: how many initial weights.
        params: List of dicts: settings of the optimizer, such as `{"learning_rate": 0.01, "weight_decay": 0.1}`; others are
            arguments of `build`, `{"dropout": 0.5}` of `build(dropout=0.5)`. They may change what the members of one model
            may differ in: rates of dropout and noise, but no width.
        loss: Keras loss.
        metric: As for `oob_score`.
        optimizer: Name or unused Keras optimizer, which has what a setting does not say.
        normalize: bool. Subtract from the inputs the mean, and divide by the deviation, of the rows that a member is
            trained on; those of its fold have no part in it. For one input.
        epochs, batch_size, **fit_args: As for `fit`.
        seed: int, of the partitions, the initial weights and the order of the rows.

    Returns:
        A `CrossValidation`.

    Raises:
        ValueError: A setting that neither the optimizer nor `build` takes, folds that are empty, out of range or tested on
            rows that they are trained on, an unknown metric, or targets that are NaN.
        IncompatibleModelsError: Settings with which `build` gives models of different architectures.

    Example:

    ```python
    params = [{"learning_rate": r, "dropout": d} for r in (1e-3, 1e-2) for d in (0.0, 0.2)]  # for build(dropout=...)
    found = kmw.cross_val_fit(build, x, y, folds=5, params=params, loss="mse", metric="mae", epochs=20)
    print(found)
    found.scores.mean(axis=(1, 2))  # of each setting
    ```
    """
    y = checked_targets(y, len(tree.flatten(x)[0]))
    score, params, folds = metric_function(metric), _checked_params(params), _checked_folds(folds, y)
    sizes = {"batch_size": checked_count(batch_size, "batch_size"), "epochs": checked_count(epochs, "epochs")}
    seeds = seed_sequence(seed).generate_state(2) & 0x7FFFFFFF
    splits = [_split(folds, len(y), [int(seeds[0]), r]) for r in range(checked_count(repeats, "repeats"))]
    shape = (len(params), repeats, len(splits[0]))
    places = list(itertools.product(*map(range, shape)))
    networks, settings = zip(*(_network_and_settings(build, optimizer, setting) for setting in params))
    optimizers = [_optimizer(optimizer, settings[g]) for g, _, _ in places]
    multi = _members(networks, places, splits, x if normalize else None, repeats, int(seeds[1]))
    multi.compile(optimizers, loss, steps_per_execution="auto")
    weights = np.stack([_weights(splits[r][f][0], len(y)) for _, r, f in places], axis=1)
    with seeded(int(seeds[1])):
        multi.fit(x, y, sample_weight=weights, **sizes, **{"verbose": 0, **fit_args})
    return _scored(multi, x, y, score, params, splits, shape, places)


def _scored(multi, x, y, score, params, splits, shape, places):
    answers = multi.predict(x)  # (R, N, ...)
    scores = np.empty(shape)
    total = np.zeros((*shape[:2], len(y), *answers.shape[2:]), answers.dtype)
    count = np.zeros((*shape[:2], len(y), *[1] * (answers.ndim - 2)), answers.dtype)
    for i, (g, r, f) in enumerate(places):
        rows = splits[r][f][1]
        scores[g, r, f] = score(y[rows], answers[rows, i])
        total[g, r, rows] += answers[rows, i]
        count[g, r, rows] += 1
    with np.errstate(invalid="ignore"):
        predictions = total / count
    return CrossValidation(multi, params, scores, predictions, [[test for _, test in split] for split in splits])


def _members(networks, places, splits, normalized, repeats, seed):
    """The members with the initial weights of their repeats, and the statistics of the rows that they are trained on."""
    if normalized is not None:
        wrapped = {id(network): functools.partial(_with_normalization, network) for network in networks}
        networks = [wrapped[id(network)] for network in networks]
    first = replicate(networks[0], repeats, seed=seed)
    multi = first.select([r for _, r, _ in places], member_settings=_settings_of_layers(first, networks, places))
    if normalized is None:
        return multi
    for i, (_, r, f) in enumerate(places):
        layer = keras.layers.Normalization()
        layer.adapt(np.asarray(normalized)[splits[r][f][0]])
        statistics = [keras.ops.convert_to_numpy(w) for w in layer.weights]
        multi.set_member_weights(i, [*statistics, *multi.member_weights(i)[len(statistics) :]])
    return multi


def _settings_of_layers(multi, networks, places):
    """What `networks` differ in, as `select` takes it: a dict of paths to the values of the members."""
    if all(network is networks[0] for network in networks):
        return None
    with seeded(0):
        configs = [model_config(network()) for network in networks]
    found = [config_differences(configs[0], config, g, f"that of params[{g}]") for g, config in enumerate(configs)]
    if any(found):
        hint = "Call cross_val_fit once for each architecture."
        raise IncompatibleModelsError(itertools.chain(*found), hint=hint)
    values = zip(*([value for _, value in settings_of(config)] for config in configs))
    columns = zip((path for path, _ in multi.settings_of_members()), values)
    return {path: [own[g] for g, _, _ in places] for path, own in columns if any(value != own[0] for value in own)}


def _with_normalization(build):
    """A model whose inputs are normalised first; the statistics are its first weights."""
    model = keras.models.clone_model(build) if isinstance(build, keras.Model) else build()
    if len(model.inputs) != 1:
        raise ValueError(f"normalize=True is for models of one input. Received: {len(model.inputs)} inputs.")
    inputs = keras.Input(model.inputs[0].shape[1:])
    layer = keras.layers.Normalization()
    return keras.Model(inputs, model(layer(inputs)), name=f"normalized_{model.name}")


def _network_and_settings(build, optimizer, setting):
    """What builds the members with a setting, and what of it is the optimizer's."""
    optimizer = keras.optimizers.get(optimizer)
    known = optimizer.get_config()
    arguments = {key: value for key, value in setting.items() if key not in known}
    if not arguments:
        return build, setting
    try:
        inspect.signature(build).bind(**arguments)
    except TypeError:
        raise ValueError(
            f"params must be settings of the optimizer, {type(optimizer).__name__}, or arguments of the function build. "
            f"Received: {sorted(arguments)}, which neither takes. Let build take them: def build(dropout=0.0): ..."
        ) from None
    return functools.partial(build, **arguments), {key: value for key, value in setting.items() if key in known}


def _optimizer(optimizer, setting):
    config = keras.optimizers.serialize(keras.optimizers.get(optimizer))
    return keras.optimizers.deserialize({**config, "config": {**config["config"], **setting}})


def _checked_params(params):
    """The settings, a list of dicts."""
    settings = None if isinstance(params, dict) or not isinstance(params, Iterable) else list(params)
    if not settings or not all(isinstance(setting, dict) for setting in settings):
        raise ValueError(
            "params must be a list of dicts, one for each setting, which may be {}. "
            f"Received: params={params!r}. Write [{{'learning_rate': 0.01}}] for one setting, and "
            "sklearn.model_selection.ParameterGrid({'learning_rate': [0.01, 0.1], ...}) for all combinations."
        )
    return settings


def _checked_folds(folds, y):
    """The number of folds, or pairs of the numbers of rows to train on and to test."""
    if isinstance(folds, (int, np.integer)):
        if not 2 <= checked_count(folds, "folds") <= len(y):
            raise ValueError(f"folds must be from 2 to the {len(y)} rows. Received: folds={folds}.")
        return folds
    pairs = list(folds.split(y, y)) if hasattr(folds, "get_n_splits") else folds
    pairs = [list(pair) if isinstance(pair, Iterable) else [pair] for pair in pairs] if isinstance(pairs, Iterable) else []
    if not pairs or not all(len(pair) == 2 for pair in pairs):
        raise ValueError(
            "folds must be an int, a splitter of scikit-learn, or a list of pairs (rows to train on, rows to test). "
            f"Received: folds={folds!r}."
        )
    return [_checked_fold(*(_numbers_of_rows(part, len(y)) for part in pair)) for pair in pairs]


def _checked_fold(train, test):
    both = np.intersect1d(train, test)
    if len(both):
        raise ValueError(
            "The rows to test must not be among those to train on: a score on them would say nothing about new rows. "
            f"Received: a fold that has {len(both)} rows in both, such as row {both[0]}."
        )
    return train, test


def _numbers_of_rows(part, rows):
    part = np.asarray(part)
    part = np.flatnonzero(part) if part.dtype == bool and part.shape == (rows,) else part
    if not part.size or not np.issubdtype(part.dtype, np.integer) or part.min() < 0 or part.max() >= rows:
        raise ValueError(
            f"folds must be pairs of numbers of rows, 0 to {rows - 1}, or of masks of {rows} bools, none empty. "
            f"Received: {part!r}."
        )
    return part


def _split(folds, rows, seed):
    """Pairs of rows to train on and rows to test, of one repeat."""
    if not isinstance(folds, (int, np.integer)):
        return folds
    parts = np.array_split(np.random.default_rng(seed).permutation(rows), folds)
    return [(np.setdiff1d(np.arange(rows), part), np.sort(part)) for part in parts]


def _weights(train, rows):
    """So that the mean loss over all rows is that over those to train on."""
    return (np.bincount(train, minlength=rows) * (rows / len(train))).astype("float32")
