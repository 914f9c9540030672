"""Bagging: which rows each member sees, what the rows left out say, and what to make of the members' answers.

It knows nothing of packing: functions take a trained MultiModel, or arrays of answers `(B, N, ...)`. Read in the order of
the data: `resampling`, `dataset` and `streams` (who sees what), `oob` (the rows left out), `selection` and `diversity`
(which members), `uncertainty`, `calibration` and `conformal` (what the answers mean), `exit` (who need not be asked).
"""

from keras_multiweight.bagging.calibration import (
    Reliability,
    Temperature,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
)
from keras_multiweight.bagging.conformal import ConformalIntervals, ConformalSets
from keras_multiweight.bagging.dataset import BaggingDataset
from keras_multiweight.bagging.diversity import Diversity, diversity
from keras_multiweight.bagging.exit import VoteInBlocks
from keras_multiweight.bagging.oob import oob_predict, oob_score
from keras_multiweight.bagging.resampling import Bootstrap, PoissonWeights
from keras_multiweight.bagging.selection import Selection, best_members, greedy_selection, stacking_weights
from keras_multiweight.bagging.uncertainty import Uncertainty, uncertainty

__all__ = [
    "BaggingDataset",
    "Bootstrap",
    "ConformalIntervals",
    "ConformalSets",
    "Diversity",
    "PoissonWeights",
    "Reliability",
    "Selection",
    "Temperature",
    "Uncertainty",
    "VoteInBlocks",
    "best_members",
    "brier_score",
    "diversity",
    "expected_calibration_error",
    "greedy_selection",
    "negative_log_likelihood",
    "oob_predict",
    "oob_score",
    "reliability",
    "stacking_weights",
    "uncertainty",
]
