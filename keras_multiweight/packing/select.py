"""MultiModels from the members of MultiModels: some of one, or those of two."""

import keras
import numpy as np
from keras import tree

from keras_multiweight.copies import draws_in_training
from keras_multiweight.mixed import MixedMultiModel
from keras_multiweight.model import MultiModel
from keras_multiweight.packing.inputs import input_flags
from keras_multiweight.packing.pack import build, pack
from keras_multiweight.packing.weights import Stacks


def select(multi, indices, member_inputs=None, member_settings=None):
    """The MultiModel of some members, in the order given; also a method, `multi.select(indices)`.

    Args:
        multi: A MultiModel, which stays as it is.
        indices: List of ints. Negative numbers count from the end, and a number may come more than once.
        member_inputs: As for `pack`: whether each member reads inputs of its own. Left out, it stays as it is. Members that
            were trained on rows of their own answer one question together with `member_inputs=False`.
        member_settings: Other settings than the members have, such as rates of dropout: a dict of paths, as in
            `multi.settings_of_members()`, to lists of one value for each of `indices`.

    Returns:
        A MultiModel that is not compiled. Its weights are bit-equal, and its own. What all members share stays shared.

    Raises:
        IndexError: There is no such member.
        ValueError: No indices, or some that are not ints; unknown settings, or other than one value for each member.

    Example:

    ```python
    best = multi.select(np.argsort(losses)[:5])
    three_rates = multi.select([0, 0, 0], member_settings={"dropout/rate": [0.0, 0.2, 0.5]})
    ```
    """
    numbers = np.asarray(indices)
    if numbers.ndim != 1 or not len(numbers) or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"indices must be a list of at least one int. Received: indices={indices!r}.")
    numbers = [multi.number(int(i)) for i in numbers]
    if isinstance(multi, MixedMultiModel):
        _check_settings(member_settings, [], len(numbers))
        return pack([multi.member(i) for i in numbers], group=True, member_inputs=member_inputs or False, verify=False)
    return _packed([(multi, i) for i in numbers], member_inputs, member_settings)


def join_members(*multis):
    """The MultiModel of the members of several, all of one architecture, in order."""
    return _packed([(multi, i) for multi in multis for i in range(multi.num_members)])


def _packed(places, member_inputs=None, member_settings=None):
    """The packed model of members, given as pairs of a MultiModel and a number."""
    first = places[0][0]
    inputs = _of_one_member(first)
    stacks = Stacks(first.template(), len(places), _settings(places, member_settings))
    read = {id(multi): multi.stacked_member_weights() for multi, _ in places}
    for at, (multi, i) in enumerate(places):
        stacks.put(at, [values[i] for values in read[id(multi)]])
    names = [multi.member_names[i] for multi, i in places]
    seeds = [multi.member_seeds[i] for multi, i in places] if all(m.member_seeds for m, _ in places) else None
    multi = build(
        first.template(),
        stacks,
        names,
        share=_share(first),
        name=first.name,
        member_seeds=seeds,
        inputs=inputs,
        flags=first.member_inputs if member_inputs is None else input_flags(member_inputs, inputs),
        safe_mode=False,
    )
    multi.take_lowerings(first)
    return multi


def _settings(places, given=None):
    """Those that differ in one of the MultiModels: a selection has the variables of the whole, whatever it is of."""
    multis = {id(multi): multi for multi, _ in places}
    tables = {key: multi.settings_of_members() for key, multi in multis.items()}
    paths = [path for path, _ in tables[id(places[0][0])]]  # layers of the others may have other names
    _check_settings(given, paths, len(places))
    columns = [[values[i] for _, values in tables[id(multi)]] for multi, i in places]
    own = [any(table[k][0] in multis[key].member_settings for key, table in tables.items()) for k in range(len(paths))]
    rows = zip(paths, zip(*columns), own)
    found = {path: list(values) for path, values, kept in rows if kept or any(value != values[0] for value in values)}
    return {**found, **(given or {})}


def _check_settings(given, paths, count):
    for path, values in (given or {}).items():
        if path not in paths or len(values) != count:
            raise ValueError(
                f"member_settings must be a dict of some of {paths} to lists of {count} values, one for each member that is "
                f"selected. Received: {len(values)} values for {path!r}."
            )


def _of_one_member(multi):
    """What one member is called with, in the structure that `predict` takes."""
    pairs = zip(tree.flatten(multi.input), multi.member_inputs)
    shapes = [(x, (x.shape[0], *x.shape[1 + own :])) for x, own in pairs]
    return tree.pack_sequence_as(multi.input, [keras.KerasTensor(shape, x.dtype) for x, shape in shapes])


def _share(multi):
    """The `share` of `pack` that finds what is shared in a model."""
    shared = multi.shared_layers()
    trained = any(layer.trainable_variables or draws_in_training(layer) for layer in shared)
    return "equal" if trained else "frozen" if shared else None


MultiModel.select = select  # here, because models know nothing of packing
