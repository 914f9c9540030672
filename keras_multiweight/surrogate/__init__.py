"""Optimise an expensive, noisy function with N networks in one graph: see `SurrogateOptimizer`."""

from keras_multiweight.surrogate.optimizer import SurrogateOptimizer
from keras_multiweight.surrogate.space import Categorical, Integer, Real

__all__ = ["Categorical", "Integer", "Real", "SurrogateOptimizer"]
