"""N members -> one set of weights: soups, permutation matching, repair, and how high the barrier between members is.

Read in the order of the data: `members` (N models as arrays), `soups` (plain averages), `axes` and `rules` (which axes of
which weights permute together), `spec` (the groups of a model), `terms` and `matching` (one member to another), `many` and
`alignment` (all to each other), `merge`, `soft`, `repair`, `barrier`.
"""

from keras_multiweight.merging.alignment import Alignment, activation_matching, weight_matching
from keras_multiweight.merging.averaging import PeriodicModelAveraging
from keras_multiweight.merging.barrier import Barrier, loss_barrier
from keras_multiweight.merging.many import METHODS
from keras_multiweight.merging.merge import merge_members
from keras_multiweight.merging.registry import register_permutation_rule
from keras_multiweight.merging.repair import repair, update_batch_norm
from keras_multiweight.merging.soft import SoftMatching
from keras_multiweight.merging.soups import greedy_soup, uniform_soup
from keras_multiweight.merging.spec import PermutationSpec
from keras_multiweight.merging.splits import SplitDataset

__all__ = [
    "METHODS",
    "Alignment",
    "Barrier",
    "PeriodicModelAveraging",
    "PermutationSpec",
    "SoftMatching",
    "SplitDataset",
    "activation_matching",
    "greedy_soup",
    "loss_barrier",
    "merge_members",
    "register_permutation_rule",
    "repair",
    "uniform_soup",
    "update_batch_norm",
    "weight_matching",
]
