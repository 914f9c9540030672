"""What is data in memory."""

import numpy as np
from keras import ops, tree


def without_pandas(data):
    """The same structure, with NumPy arrays in the place of tables and columns of pandas, which Keras takes as data."""
    return tree.map_structure(lambda leaf: leaf.to_numpy() if _is_of_pandas(leaf) else leaf, data)


def _is_of_pandas(leaf):
    return type(leaf).__module__.split(".")[0] == "pandas"


def are_arrays(data):
    """Whether the leaves of a structure are arrays or tensors, of which some may be None: no data set and no generator."""
    leaves = [leaf for leaf in tree.flatten(data) if leaf is not None]
    return bool(leaves) and all(isinstance(a, np.ndarray) or ops.is_tensor(a) for a in leaves)
