"""Which weights a member has, of a network of Dense layers, one after the other. N members, P weights each, d coordinates.

A narrow member has the first units of every hidden layer alone. In a member of blocks a hidden unit sees a few coordinates,
drawn at random, and the units of its block in the layer before: what it gives is a sum of functions of few coordinates each,
and these some hundred points show in many dimensions (Kandasamy et al. 2015; by random groups: Rolland et al. 2018).
"""

import numpy as np

PARTS = 4  # blocks that a member has at least: in few dimensions some hundred points show the function as it is


def factors(shapes, widths, blocks, seed=0):
    """(N, P): 0 for weights that a member does not have, and by how much the others begin wider.

    Args:
        shapes: Of the variables: kernels (N, in, out), each with a bias (N, out).
        widths: (N,) shares of the hidden units, or one for all members. A member of blocks has all of them.
        blocks: (N,) ints, about how many coordinates a block sees, or one for all members; 0 for all coordinates.
        seed: int, of which coordinates.
    """
    rng = np.random.default_rng(seed)
    found = [np.ones(shape) for shape in shapes]
    num_members = len(found[0])
    for i, width, size in zip(range(num_members), *(np.broadcast_to(v, num_members) for v in (widths, blocks))):
        member = [array[i] for array in found]  # views
        if 0 < PARTS * size <= len(member[0]):
            _part(member, size, rng)
        elif width < 1:
            _narrow(member, width)
    return np.concatenate([array.reshape(len(array), -1) for array in found], axis=1)


def _narrow(member, width):
    """Leave out the last units of the hidden layers: what comes in, their bias, and what goes out."""
    for at in range(0, len(member) - 2, 2):
        kept = round(width * member[at].shape[1])
        for array in (member[at][:, kept:], member[at + 1][kept:], member[at + 2][kept:]):
            array[...] = 0


def _part(member, size, rng):
    """Part the hidden layers into blocks. A unit with fewer weights than the others begins with wider ones."""
    count = -(-len(member[0]) // size)
    block = rng.permutation(len(member[0])) % count
    for kernel in member[:-2:2]:
        own = np.arange(kernel.shape[1]) * count // kernel.shape[1]
        kernel *= block[:, None] == own
        kernel *= np.sqrt(len(kernel) / np.maximum(np.count_nonzero(kernel, axis=0), 1))
        block = own
