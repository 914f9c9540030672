"""Predicting: the methods of a model that predicts by a `Predictor`. N members, B rows."""

import keras

from keras_multiweight.arrays import are_arrays, without_pandas
from keras_multiweight.prediction import lowerings
from keras_multiweight.prediction.batches import check_at_least_one
from keras_multiweight.prediction.ids import Ids
from keras_multiweight.prediction.predictor import Predictor
from keras_multiweight.prediction.sizes import Sizes


class Predicting:
    """Comes before `keras.Model` among the bases of a class, which may keep what `tune` found.

    The class tells by `jit_compile_asked()` what `compile` was given: a bool or "auto".
    """

    _predictors = None  # at the first `predict` what they were made for, and they

    def tuned(self):
        """What `tune` found, as a list of `Tuned`, one for each backend and number of rows that it was asked for."""
        return []

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None, memory_limit=None):
        """The answers of all members, `(B, N, ...)` for each output, as NumPy arrays.

        As `keras.Model.predict`, but arrays are cut into batches and run without Keras's data pipeline, which costs tens
        of milliseconds a call, and compiled as `compile(jit_compile=)` says: by "auto", and without `compile`, as Keras
        would, and by XLA on TensorFlow's CPUs too where that is faster. Anything else (data sets, generators, `steps`,
        `callbacks`, a progress bar by `verbose` 1 or 2) goes Keras's way. See `predictor` for many calls.

        Args:
            x: NumPy array or tensor `(B, ...)`, or a list or dict of them, as one member takes it; `(B, N, ...)` for
                inputs of each member (`pack(member_inputs=True)`).
            batch_size: int. Left out, `default_batch_size()`.
            verbose, steps, callbacks: As for `keras.Model.predict`.
            memory_limit: As for `predictor`.
        """
        check_at_least_one(batch_size=batch_size)
        plain = steps is None and not callbacks and verbose in ("auto", 0) and not self.run_eagerly
        x = x if are_arrays(x) else without_pandas(x)
        if plain and are_arrays(x) and keras.distribution.distribution() is None:
            return self._own_predictor(x, memory_limit)(x, batch_size)
        return super().predict(x, batch_size=batch_size, verbose=verbose, steps=steps, callbacks=callbacks)

    def _own_predictor(self, x, memory_limit):
        """That of `predict` for `x`: compiled by XLA an id out of the range of an `Embedding` would be no error."""
        asked = self.jit_compile_asked(), memory_limit, self.tuned()
        if self._predictors is None or self._predictors[0] != asked:
            ids, options = Ids(self.packed(), lowerings.num_lookups(self)), {"patient": True, "memory_limit": memory_limit}
            as_keras = Predictor(self, jit_compile=self.jit_compile, **options)
            compiles = lowerings.compiles_in_predict(self, asked[0]) if ids.are_known else self.jit_compile
            fastest = Predictor(self, jit_compile=compiles, tuned=self.tuned(), **options)
            self._predictors = asked, ids, fastest, as_keras
        _, ids, fastest, as_keras = self._predictors
        return fastest if ids.are_in_range(x) else as_keras

    def packed(self):
        """The `MultiModel` whose members are computed in chunks."""
        return self

    def reduced(self, answers):
        """The flat list of outputs from that of the packed model."""
        return answers

    def predictor(self, batch_size=None, jit_compile="auto", member_chunk=None, memory_limit=None, threads=None):
        """A function from NumPy arrays to NumPy arrays that answers as `predict`, with the least overhead for a call.

        Args:
            batch_size, jit_compile, member_chunk, memory_limit, threads: As for `keras_multiweight.prediction.Predictor`.
                Where all but `memory_limit` are left out, they are what `tune` found.

        Returns:
            A `Predictor`. It is right after the weights change, and several threads may call it (on JAX not
            while another one is in `fit`).

        Example:

        ```python
        ask = multi.predictor()
        ask(x)  # (B, N, ...) for each output
        ```
        """
        is_free = (batch_size, jit_compile, member_chunk, threads) == (None, "auto", None, None)
        options = {"member_chunk": member_chunk, "memory_limit": memory_limit, "threads": threads}
        return Predictor(self, batch_size, jit_compile, tuned=self.tuned() if is_free else (), **options)

    def estimate(self, rows, memory_limit=None):
        """What predicting so many rows takes, before it is done: bytes, and how many rows and members at once.

        Args:
            rows: int, B.
            memory_limit: As for `predictor`.

        Returns:
            An `Estimate`: `.weights`, `.activations`, `.answers`, `.total` in bytes, `.batch_size`, `.member_chunk`.
        """
        check_at_least_one(rows=rows)
        return self.predictor(memory_limit=memory_limit).estimate(rows)

    def default_batch_size(self):
        """How many rows `predict` and `predictor` compute at once, when they are not told: a power of two up to 8192.

        As many as keep what a layer gives for a chunk of the members within the caches of a CPU, or a part of the memory of
        a GPU.
        """
        return Sizes(self).rows()
