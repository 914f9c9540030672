"""REPAIR: give each layer of a merged network the means and standard deviations that it has in the members.

The average of matched units varies less than the units do, more so from layer to layer, until little of the signal is
left. One pass of data through the merged network corrects it, layer by layer, each on inputs that are corrected already.
What is called several times in a pass, a reused layer or a recurrent cell, is corrected behind it, by all of its calls, and
the pass is repeated until nothing moves.

Reference: Jordan et al., 2022, "REPAIR: renormalizing permuted activations for interpolation repair".
"""

import warnings

import numpy as np
from keras import ops

from keras_multiweight.callers import stack_level
from keras_multiweight.copies import matching_weights
from keras_multiweight.merging.members import coefficients_of, copy_with_weights, open_for_merging
from keras_multiweight.merging.scores import check_rows
from keras_multiweight.merging.sites import SILENT, NormSite, watch, without_sites

MOST_PASSES = 30
SETTLED = 0.01  # of a standard deviation, on average over the units; less than a few thousand rows tell


def repair(model, members, data, weights=None):
    """Restore the members' mean and standard deviation of each pre-activation in a merged model.

    Dense, convolution and einsum layers are scaled and shifted, unit by unit, the query, key, value and output of attention
    layers, the gates of recurrent ones and embeddings too; a unit without a bias can only be scaled. Batch normalisation
    gets new moving statistics. Layers within wrappers and layers of your own are repaired alike. Other weights stay as they
    are, and one warning names their layers.

    Args:
        model: A Keras model, merged from the members. It is not changed.
        members: A MultiModel, or a list of models, whose units stand in the same places as those of `model`: the aligned
            members, not those that were aligned.
        data: Inputs as a member takes them, without targets: a few hundred to a few thousand rows, which all are held in
            memory at once.
        weights: `(N,)` how much each member counts, as in the merge.

    Returns:
        A new Keras model.

    Raises:
        ValueError: Data of a shape that the model does not take.

    Example:

    ```python
    aligned = merging.weight_matching(models).models()
    merged = merging.repair(merging.uniform_soup(aligned), aligned, x)
    ```
    """
    members = open_for_merging(members)
    own = _Watched(copy_with_weights(members.template), data)
    statistics = []
    for i in range(len(members)):
        own.model.set_weights(members.weights(i))
        statistics.append(own.run())
    _warn(own)
    coefficients = coefficients_of(weights, len(members))
    goals = [np.tensordot(coefficients, of_site, 1) for of_site in zip(*statistics)]
    return _passed(model, data, own.calls, goals)


def update_batch_norm(model, data):
    """Set the moving statistics of every batch normalisation to those of data. A new model is returned.

    Averaged moving statistics are not those of averaged weights: without this a merged network is near chance.

    Args:
        model: A Keras model. It is not changed.
        data: Inputs as the model takes them, without targets; all are held in memory at once.

    Returns:
        A new Keras model.
    """
    own = _Watched(copy_with_weights(model), data)
    own.run()
    return _passed(model, data, own.calls)


def _warn(watched):
    left = without_sites(watched.model, watched.sites)
    left += [site.layer for site, calls in zip(watched.sites, watched.calls) if not calls]
    if left:
        warnings.warn(
            f"Repair does not know what these layers do with their weights, and leaves them as they are: {_names(left)}.",
            stacklevel=stack_level(),
        )


def _names(layers):
    return ", ".join(dict.fromkeys(f"'{layer.name}' ({type(layer).__name__})" for layer in layers))


def _passed(model, data, calls, goals=None):
    """A copy of a model whose sites are corrected to goals, or its batch normalisation alone, on the way through."""
    copy, result = copy_with_weights(model), copy_with_weights(model)
    places = matching_weights(copy, result)
    _Watched(copy, data).correct(calls, goals)
    for weight, corrected in zip(result.weights, places):
        weight.assign(corrected)
    return result


class _Watched:
    """A model of our own on data, whose sites are seen.

    Attributes:
        sites: List of sites.
        calls: How often each was seen in the last run.
    """

    def __init__(self, model, data):
        model.trainable = False  # no gradients are kept
        self.model = model
        self.data = check_rows(model, data, "Data to repair with")
        self.sites = watch(model, self._see)
        self._at_once = {}

    def run(self):
        """The means and standard deviations of the units of each site on the data: a list of `(2, units)`."""
        self.calls, self._sums = [0] * len(self.sites), [(0, 0.0, 0.0)] * len(self.sites)
        self.model(self.data, training=False)
        return [self._moments(number) for number in range(len(self.sites))]

    def correct(self, calls, goals=None):
        """Correct each site to its goal; batch normalisation alone if there are none."""
        chosen = [i for i, site in enumerate(self.sites) if calls[i] and (goals or isinstance(site, NormSite))]
        goals = goals or [None] * len(self.sites)
        self._at_once = {i: goals[i] for i in chosen if calls[i] == 1}
        later, before = [i for i in chosen if calls[i] > 1], None
        for last in range(MOST_PASSES):
            found = self.run()
            if not later or (before and all(_is_close(found[i], before[i]) for i in later)):
                return
            if last < MOST_PASSES - 1:
                for i in later:
                    self.sites[i].correct(found[i], _halfway(found[i], goals[i]))
            before = found
        warnings.warn(
            f"Repair did not settle in {MOST_PASSES} passes, because of layers that read what they have made before: "
            f"{_names(self.sites[i].layer for i in later)}. Compare with the network before.",
            stacklevel=stack_level(),
        )

    def _see(self, number, y):
        try:
            values = ops.convert_to_numpy(y).astype("float64")
        except Exception:  # a tensor without numbers, of a layer that a custom one compiles or maps
            return y
        site = self.sites[number]
        units = [axis % values.ndim for axis in site.units]
        others = tuple(axis for axis in range(values.ndim) if axis not in units)
        self.calls[number] += 1
        total = values.sum(axis=others)
        sums = (values.size // max(total.size, 1), total, np.square(values).sum(axis=others))
        self._sums[number] = [a + b for a, b in zip(self._sums[number], sums)]
        if number not in self._at_once:
            return y
        return site.corrected(y, site.correct(self._moments(number), self._at_once[number]))

    def _moments(self, number):
        """The mean and standard deviation over all calls so far."""
        count, total, squares = self._sums[number]
        mean = total / max(count, 1)
        return np.stack([mean, np.sqrt(np.maximum(squares / max(count, 1) - np.square(mean), 0))])


def _halfway(found, goal):
    """Whole steps may swing: what is called again reads what it has made before."""
    if goal is None:
        return None
    return np.stack([(found[0] + goal[0]) / 2, np.sqrt(found[1] * goal[1])])


def _is_close(found, before):
    """Whether means and standard deviations have hardly moved."""
    scale = np.maximum(before[1], SILENT)
    return (np.abs(found - before) / scale).mean() <= SETTLED
