"""The command line, `keras-multiweight`: pack, unpack, inspect, predict and verify model files, and a demo.

A package of its own, beside `keras_multiweight`: that one imports Keras to register its classes, and this one must run
before Keras does, to choose a backend that is installed and to show `--help` at once. So here Keras and
`keras_multiweight` are imported inside functions only, after `start.library()`.

Exit codes: 0, 1 for an error or a difference, 2 for a wrong usage. What is written is written whole or not at all.
"""

from keras_multiweight_cli.commands import app


def main():
    """The console script `keras-multiweight`."""
    app(prog_name="keras-multiweight")
