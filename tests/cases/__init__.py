"""Models to pack: at least one for every row of the table of rules, and some that combine them.

A case is a function that builds a fresh model, by its name. There is one module for each kind of layer.
"""

from cases import attention, augmentation, conv, dense, graphs, norm, policies, preprocessing, sequences, weightless  # noqa: F401
from cases.building import CASES  # noqa: F401
