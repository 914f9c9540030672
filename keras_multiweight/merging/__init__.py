"""N members -> one set of weights: soups, permutation matching, repair, and how high the barrier between members is.

Read in the order of the data: `members` (N models as arrays), `soups` (plain averages), `axes` and `rules` (which axes of
which weights permute together), `spec` (the groups of a model), `matching`, `alignment`, `merge`, `repair`, `barrier`.
"""

from keras_multiweight.merging.registry import register_permutation_rule
from keras_multiweight.merging.soups import greedy_soup, uniform_soup
from keras_multiweight.merging.spec import PermutationSpec

__all__ = ["PermutationSpec", "greedy_soup", "register_permutation_rule", "uniform_soup"]
