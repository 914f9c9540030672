"""N models of one architecture as stacked arrays, and one set of arrays as a model."""

import numpy as np
from keras import ops

from keras_multiweight.copies import copy_built, matching_weights
from keras_multiweight.mixed import MixedMultiModel
from keras_multiweight.model import MultiModel
from keras_multiweight.packing.files import listed, open_members
from keras_multiweight.packing.match import IncompatibleModelsError
from keras_multiweight.packing.pack import collect_weights


class Members:
    """What every function of this package works on. The models it was made from are never changed.

    Attributes:
        template: A Keras model of the members' architecture: a copy of its own.
        names: How messages call the members.
        arrays: For each of the template's weights the `(N, ...)` array of the members' values.
    """

    def __init__(self, template, names, arrays):
        self.template = template
        self.names = list(names)
        self.arrays = arrays

    def __len__(self):
        return len(self.names)

    def weights(self, i):
        """The weights of member `i`: NumPy arrays in the order of `template.weights`."""
        return [array[i] for array in self.arrays]

    def model(self, weights):
        """A new Keras model with these weights."""
        model = copy_built(self.template)
        model.set_weights(weights)
        return model

    def check_finite(self):
        """Raise a ValueError if a weight of a member is NaN or infinite: averages and matchings would spread it."""
        for weight, array in zip(self.template.weights, self.arrays):
            for i, name in enumerate(self.names):
                if is_averaged(weight) and not np.isfinite(array[i].astype("float64")).all():
                    raise ValueError(
                        "Members must have finite weights to be merged. Received: NaN or infinite values in weight "
                        f"'{weight.path}' of member {i}, {name}. Leave this member out."
                    )
        return self


def open_for_merging(models):
    """The members of a MultiModel, a list of models or paths, or a glob string, checked.

    Raises:
        IncompatibleModelsError: The models are of different architectures.
        ValueError: Fewer than two models, or a NaN among the weights.
    """
    if isinstance(models, Members):
        return models
    if isinstance(models, MixedMultiModel):
        raise ValueError(
            "Members of one architecture can be merged. Received: a MixedMultiModel. Merge the members of each of its "
            "groups on their own, merge_members(multi.groups[0])."
        )
    members = _of_multi_model(models) if isinstance(models, MultiModel) else _of_models(models)
    if len(members) < 2:
        raise ValueError(f"There must be at least two members to merge. Received: {len(members)}, {members.names[0]}.")
    return members.check_finite()


def _of_multi_model(multi):
    values = [multi.member_weights(i) for i in range(multi.num_members)]
    return Members(multi.member(0), multi.member_names, [np.stack(group) for group in zip(*values)])


def _of_models(models):
    source = open_members(listed(models))
    first = source.template()
    try:
        arrays = collect_weights(source, first).take(first)
    except IncompatibleModelsError as error:
        raise IncompatibleModelsError(error.differences, error.groups, hint=_hint(error.groups)) from None
    template = copy_built(first)
    place = {id(weight): k for k, weight in enumerate(first.weights)}
    return Members(template, source.names, [arrays[place[id(weight)]] for weight in matching_weights(first, template)])


def _hint(groups):
    """What helps models of several architectures, whose weights have no common places."""
    shown = f" There are {len(groups)} architectures, of the members {'; '.join(map(_numbers, groups))}." if groups else ""
    return (
        f"Weights are merged between networks of one architecture.{shown} Merge the members of each by themselves; or keep "
        "all, and average their answers: pack(models, group=True).average()."
    )


def _numbers(members):
    return ", ".join(map(str, members[:10])) + ", ..." * (len(members) > 10)


def copy_with_weights(model):
    """A new model with the same config and the same weights."""
    copy = copy_built(model)
    copy.set_weights([ops.convert_to_numpy(weight) for weight in matching_weights(model, copy)])
    return copy


def is_averaged(weight):
    """Whether values of a variable can be averaged: integers are counters, seeds or ids."""
    return "float" in weight.dtype


def average(members, coefficients, arrays=None):
    """The weighted averages of the members' weights; of what is no float, the values of the heaviest member.

    Args:
        members: `Members`.
        coefficients: `(N,)` numbers that sum to one.
        arrays: In place of `members.arrays`: as these, of aligned members.
    """
    heaviest = int(np.argmax(coefficients))
    return [
        _average(array, coefficients) if is_averaged(weight) else array[heaviest]
        for weight, array in zip(members.template.weights, arrays or members.arrays)
    ]


def _average(array, coefficients):
    return sum(c * a.astype("float64") for c, a in zip(coefficients, array) if c).astype(array.dtype)


def coefficients_of(weights, num_members):
    """`(N,)` coefficients that sum to one, from what a user gives; equal ones from None.

    Raises:
        ValueError: Another number of weights, negative ones, or a sum that is not above zero.
    """
    if weights is None:
        return np.full(num_members, 1 / num_members)
    weights = np.asarray(weights, "float64")
    if weights.shape != (num_members,) or not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
        raise ValueError(
            f"weights must be {num_members} numbers, one for each member, none below zero and not all zero. "
            f"Received: weights={weights.tolist()}."
        )
    return weights / weights.sum()
