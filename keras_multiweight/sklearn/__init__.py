"""scikit-learn estimators: bagging of Keras networks, all of which train in one `fit`. Needs scikit-learn."""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError("keras_multiweight.sklearn needs scikit-learn: pip install 'keras-multiweight[sklearn]'.") from error

from keras_multiweight.sklearn.estimators import MultiBaggingClassifier, MultiBaggingRegressor
from keras_multiweight.sklearn.networks import MLP

__all__ = ["MLP", "MultiBaggingClassifier", "MultiBaggingRegressor"]
