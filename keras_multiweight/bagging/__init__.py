"""Bagging: which rows each member sees, what the rows left out say, and what to make of the members' answers.

It knows nothing of packing: functions take a trained MultiModel, or arrays of answers `(B, N, ...)`. Read in the order of
the data: `resampling`, `dataset` and `streams` (who sees what), `oob` (the rows left out), `selection` and `diversity`
(which members), `uncertainty`, `calibration` and `conformal` (what the answers mean), `exit` (who need not be asked).
"""

from keras_multiweight.bagging.dataset import BaggingDataset
from keras_multiweight.bagging.diversity import Diversity, diversity
from keras_multiweight.bagging.oob import oob_predict, oob_score
from keras_multiweight.bagging.resampling import Bootstrap, PoissonWeights
from keras_multiweight.bagging.selection import Selection, best_members, greedy_selection, stacking_weights

__all__ = [
    "BaggingDataset",
    "Bootstrap",
    "Diversity",
    "PoissonWeights",
    "Selection",
    "best_members",
    "diversity",
    "greedy_selection",
    "oob_predict",
    "oob_score",
    "stacking_weights",
]
