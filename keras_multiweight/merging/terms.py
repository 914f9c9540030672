"""What two members are compared by: blocks of their weights, or of their activations on data."""

import dataclasses
import math

import keras
import numpy as np

from keras_multiweight.copies import copy_built
from keras_multiweight.merging.blocks import Block
from keras_multiweight.merging.members import is_averaged
from keras_multiweight.merging.scores import check_rows
from keras_multiweight.packing.graph import input_layers, is_graph, walk

SIMILARITIES = ("correlation", "inner_product", "l2")
PLACES = 4096  # of a unit that are compared: rows of the data times places in space and time
DEAD = 1e-7  # the standard deviation below which a unit does nothing


@dataclasses.dataclass(frozen=True)
class Terms:
    """Arrays that carry groups of units, for every member.

    Attributes:
        blocks: List of `Block`.
        parts: For each member a list of arrays, one for each block.
    """

    blocks: list
    parts: list


def weight_terms(spec, members):
    """The weights themselves. Moving statistics and integers say nothing about which units are alike."""
    found = [
        (k, block)
        for k, (weight, blocks) in enumerate(zip(spec.model.weights, spec.blocks))
        for block in blocks
        if is_averaged(weight) and not block.statistic
    ]
    parts = [[block.of(members.arrays[k][i].astype("float64")) for k, block in found] for i in range(len(members))]
    return Terms([block for _, block in found], parts)


def activation_terms(spec, members, data, similarity, batch_size=256, seed=0):
    """What each unit gives on data, with the places of a unit (rows of data, space and time) as the first axis.

    Groups that no layer shows, such as the heads of an attention layer, are in none of the terms.
    """
    if similarity not in SIMILARITIES:
        raise ValueError(f"similarity must be one of {', '.join(SIMILARITIES)}. Received: similarity={similarity!r}.")
    check_rows(members.template, data)
    taps = _taps_of_groups(spec)
    model, tap = tapped(members.template, [place for place, _ in taps])
    parts = []
    for i in range(len(members)):
        model.set_weights(members.weights(i))
        outputs = keras.tree.flatten(tap.predict(data, batch_size=batch_size, verbose=0))
        parts.append([_features(block, y, similarity, seed) for (_, block), y in zip(taps, outputs, strict=True)])
    return Terms([_feature_block(block, part.shape) for (_, block), part in zip(taps, parts[0])], parts)


def _taps_of_groups(spec):
    """For each group the last tensor, of those with most places, that carries it: behind the activation, before pooling."""
    found = {}
    for operation, outputs in enumerate(spec.taps):
        for k, block in ((k, block) for k, blocks in enumerate(outputs) for block in blocks):
            for name in filter(None, block.groups):
                size = _places(block)
                if block.shape.count(-1) == 1 and size >= found.get(name, (0,))[0]:
                    found[name] = size, (operation, k), block
    unique = {id(block): (place, block) for _, place, block in found.values()}
    return list(unique.values())


def _places(block):
    """In how many places of a row a unit is, with open dimensions as one."""
    return math.prod(n for n, group in zip(block.shape, block.groups) if group is None and n != -1)


def tapped(model, places):
    """A copy of a model, and a model over its layers that gives the outputs of operations.

    Args:
        places: List of pairs: the number of an operation in the order of the walk, and of one of its outputs.
    """
    model = copy_built(model)
    outputs, inputs = [], [layer.output for layer in input_layers(model)]

    def visit(operation, args, kwargs):
        if is_graph(operation):
            return keras.tree.flatten(walk(operation, keras.tree.flatten(args), visit))
        outputs.append(keras.tree.flatten(operation(*args, **kwargs)))
        return outputs[-1]

    walk(model, inputs, visit)
    return model, keras.Model(inputs, [outputs[place][k] for place, k in places])


def _features(block, y, similarity, seed):
    """The activations `(places, units, ...)`, scaled so that the inner product of two units is their similarity."""
    y = dataclasses.replace(block, view=y.shape).of(y)
    y = np.transpose(y, _places_first(block))
    y = y.reshape(-1, *y.shape[block.groups.count(None) :])
    if len(y) > PLACES:
        y = y[np.random.default_rng(seed).choice(len(y), PLACES, replace=False)]
    y = y.astype("float64") / np.sqrt(len(y))
    if similarity == "correlation":
        y = y - y.mean(axis=0)
        norm = np.sqrt(np.square(y).sum(axis=0))
        y = np.where(norm > DEAD, y / np.maximum(norm, DEAD), 0.0)
    return y


def _places_first(block):
    return sorted(range(len(block.groups)), key=lambda axis: block.groups[axis] is not None)


def _feature_block(block, shape):
    order = _places_first(block)[block.groups.count(None) :]
    at = {axis: i for i, axis in enumerate(order, 1)}
    return Block(
        view=shape,
        slices=(slice(None),) * len(shape),
        shape=shape,
        groups=(None, *(block.groups[axis] for axis in order)),
        parents=(None, *(at.get(block.parents[axis]) for axis in order)),
    )
