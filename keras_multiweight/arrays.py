"""What is data in memory."""

import numpy as np
from keras import ops, tree


def are_arrays(data):
    """Whether the leaves of a structure are arrays or tensors, of which some may be None: no data set and no generator."""
    leaves = [leaf for leaf in tree.flatten(data) if leaf is not None]
    return bool(leaves) and all(isinstance(a, np.ndarray) or ops.is_tensor(a) for a in leaves)
