"""How members differ from each other, and which of them see what. N members."""

import numpy as np

OPTIMIZERS = ("adam", "rprop", "rmsprop", "adam")  # in turn
RATES = {"adam": 0.01, "rprop": 0.003, "rmsprop": 0.003}
SPARSITY = (0.1, 0.0, 0.2, 0.05, 0.1)  # a cycle of another length than that of the optimizers
WIDTHS = (1.0, 1.0, 0.75, 1.0, 0.5)  # shares of the hidden units
BLOCKS = (0, 2, 4)  # coordinates that a hidden unit sees; 0 for all
GLOBAL_SHARE = 0.125
FEW_DIMS = 8  # in fewer some hundred points show the function as it is: members learn them well, and early
STEEPNESS = 2.0  # how much wider the first weights are there: a region has bends that a flat start learns late
LEFT_OUT = 4  # every so many-th member never learns a row of a noisy function: others for every row
OTHERS = 3  # every so many-th local member is not the leading region's


def is_plain(width, noise):
    """Whether a function of `width` encoded dimensions is learned as it is told: exact, and of few dimensions."""
    return not noise and width < FEW_DIMS


def diversity(num_members, is_noisy=False, steepness=1.0):
    """What `PackedEnsemble` takes: `optimizers`, `rates`, `sparsity`, `widths`, `blocks` and `steepness` of each member."""
    optimizers = [OPTIMIZERS[i % len(OPTIMIZERS)] for i in range(num_members)]
    spread = [2.0 ** -(i // len(OPTIMIZERS) % 2) for i in range(num_members)]  # a half of the rate in every second round
    return {
        "optimizers": optimizers,
        "rates": np.array([RATES[name] for name in optimizers]) * spread,
        "blocks": [0 if is_noisy else BLOCKS[i % len(BLOCKS)] for i in range(num_members)],
        "steepness": steepness,
        "widths": np.array([WIDTHS[i % len(WIDTHS)] for i in range(num_members)]),
        "sparsity": np.array([SPARSITY[i % len(SPARSITY)] for i in range(num_members)]),
    }


def out_of_bag(num_rows, num_members, is_noisy, seed):
    """(n, N) bools: which members never learn a row of the pool, drawn once for all; of fewer than four, none."""
    if not is_noisy:
        return np.zeros((num_rows, num_members), bool)
    order = np.random.default_rng(seed).random((num_rows, num_members)).argsort(axis=1)
    return order < num_members // LEFT_OUT


def groups(num_members, num_regions, alone=None, leader=0):
    """For each region the numbers of its members, and at the end those of the whole cube.

    A single member is local. The leading region has most of the local members; with few of them, the last regions have none.
    A region that leads `alone`, by its number, has all.
    """
    if alone is not None:
        return [np.arange(num_members if k == alone else 0) for k in range(num_regions + 1)]
    whole = max(1, round(GLOBAL_SHARE * num_members)) if num_members > 1 else 0
    local = np.arange(num_members - whole)
    rest = local[1::OTHERS] if num_regions > 1 else local[:0]
    found = [rest[k :: num_regions - 1] for k in range(num_regions - 1)]
    found.insert(leader, np.setdiff1d(local, rest))
    return [*found, np.arange(len(local), num_members)]
