"""What every command starts with: a backend, Keras, the version, and how results and errors are shown."""

import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import sys
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

BACKENDS = ("tensorflow", "jax", "torch")
EXPECTED_ERRORS = (ValueError, OSError, RuntimeError, ImportError)

console = Console()
errors = Console(stderr=True)


def say(text):
    """Print a sentence as it is, paths included."""
    console.print(escape(text), soft_wrap=True, highlight=False)


class Commands(typer.core.TyperGroup):
    """Shows an error of a command as one message, and ends with exit code 1."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except Exception as error:
            if isinstance(error, typer.Abort) or hasattr(error, "exit_code") or ctx.params["traceback"]:
                raise
            _print_error(error)
            raise typer.Exit(1) from error


def _print_error(error):
    expected = isinstance(error, EXPECTED_ERRORS)
    message = str(error) if expected and str(error) else f"{type(error).__name__}: {error}"
    lines = [message, *getattr(error, "__notes__", ())]
    if not expected:
        lines.append("Run `keras-multiweight --traceback ...` to see where.")
    errors.print("[bold red]Error:[/] [red]" + escape("\n".join(lines)) + "[/]", soft_wrap=True, highlight=False)


def print_version(wanted):
    """The callback of `--version`."""
    if wanted:
        say(f"keras-multiweight {_version()}")
        raise typer.Exit()


def _version():
    try:
        return importlib.metadata.version("keras-multiweight")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout: the line that the build reads, too
        source = Path(__file__).parents[1] / "keras_multiweight" / "__init__.py"
        return re.search(r'^__version__ = "(.+)"', source.read_text(encoding="utf-8"), re.MULTILINE)[1]


def library():
    """`keras_multiweight`, imported once a backend is chosen."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of loops over models that trace a function each
    if "keras" not in sys.modules:
        choose_backend()
    import keras_multiweight

    return keras_multiweight


def choose_backend():
    """Keep the backend that the user or Keras's settings name; if that one is not installed, take the first that is."""
    asked = os.environ.get("KERAS_BACKEND")
    wanted = asked or _configured_backend()
    if wanted not in BACKENDS or importlib.util.find_spec(wanted):
        return
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    if asked or not installed:
        raise ImportError(
            f"Keras needs a backend that is installed. Received: {wanted!r}{' (KERAS_BACKEND)' if asked else ''}, and "
            f"of {', '.join(BACKENDS)} there is {' and '.join(installed) or 'none'}. Install one, for example: "
            f'pip install "keras-multiweight[{wanted}]"'
        )
    os.environ["KERAS_BACKEND"] = installed[0]
    errors.print(f"[dim]Backend: {installed[0]} ({wanted}, which Keras is set to, is not installed).[/]")


def _configured_backend():
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        return json.loads((home / "keras.json").read_text()).get("backend", BACKENDS[0])
    except (OSError, ValueError):
        return BACKENDS[0]
