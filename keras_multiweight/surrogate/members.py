"""How members differ from each other, and which of them see what. N members."""

import numpy as np

OPTIMIZERS = ("adam", "rprop", "rmsprop", "adam")  # in turn
RATES = {"adam": 0.01, "rprop": 0.003, "rmsprop": 0.003}
SPARSITY = (0.1, 0.0, 0.2, 0.05, 0.1)  # a cycle of another length than that of the optimizers
WIDTHS = (1.0, 1.0, 0.75, 1.0, 0.5)  # shares of the hidden units
GLOBAL_SHARE = 0.25


def diversity(num_members):
    """What `PackedEnsemble` takes: `optimizers`, `rates`, `sparsity` and `widths` of each member."""
    optimizers = [OPTIMIZERS[i % len(OPTIMIZERS)] for i in range(num_members)]
    spread = [2.0 ** -(i // len(OPTIMIZERS) % 2) for i in range(num_members)]  # a half of the rate in every second round
    return {
        "optimizers": optimizers,
        "rates": np.array([RATES[name] for name in optimizers]) * spread,
        "widths": np.array([WIDTHS[i % len(WIDTHS)] for i in range(num_members)]),
        "sparsity": np.array([SPARSITY[i % len(SPARSITY)] for i in range(num_members)]),
    }


def groups(num_members, num_regions, alone=None):
    """For each region the numbers of its members, and at the end those of the whole cube.

    A single member is local. With fewer local members than regions, the last regions have none. A region that leads `alone`,
    by its number, has all.
    """
    if alone is not None:
        return [np.arange(num_members if k == alone else 0) for k in range(num_regions + 1)]
    whole = max(1, round(GLOBAL_SHARE * num_members)) if num_members > 1 else 0
    local = num_members - whole
    return [np.arange(k, local, num_regions) for k in range(num_regions)] + [np.arange(local, num_members)]
