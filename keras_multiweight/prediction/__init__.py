"""Arrays in, arrays out, with the least that a backend asks for a call.

`predictor` cuts rows into batches, `lowerings` has the ways to run a model on each backend.
"""

from keras_multiweight.prediction.predictor import Predictor

__all__ = ["Predictor"]
