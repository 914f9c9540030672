"""What a command shows: tables of a file's contents, of answers and of differences."""

import math
import re

import numpy as np
from rich.markup import escape
from rich.table import Table

SHOWN_ROWS, SHOWN_MEMBERS, SHOWN_NUMBERS, SHOWN_NAMES = 5, 6, 3, 20


def _table(title, *columns):
    table = Table(title=escape(title), title_justify="left", show_header=bool(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


# ---- inspect ----


def facts(path, model, packed):
    """Size, inputs and outputs of a model."""
    table = _table(str(path))
    if packed:
        table.add_row("members", str(model.num_members))
        table.add_row("parameters a member", f"{sum(w.size for w in model.member_weights(0)):,}")
    table.add_row("parameters in all" if packed else "parameters", f"{model.count_params():,}")
    table.add_row("memory of the weights", _size(model.weights))
    for x in model.inputs:
        table.add_row("input", _tensor_text(x.name, x))
    for x, name in zip(model.outputs, getattr(model, "output_names", ["output"])):
        table.add_row("output", _tensor_text(name, x))
    return table


def _tensor_text(name, x):
    import keras

    return escape(f"{name} {shape_text(x.shape)} {keras.backend.standardize_dtype(x.dtype)}")


def _size(weights):
    bits = sum(math.prod(w.shape) * int((re.search(r"\d+", str(w.dtype)) or ["8"])[0]) for w in weights)
    size = bits / 8
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def member_table(multi):
    """The members' names."""
    table = _table("Members", "member", "packed from")
    for i, name in enumerate(multi.member_names[:SHOWN_NAMES]):
        table.add_row(str(i), escape(name))
    if multi.num_members > SHOWN_NAMES:
        table.add_row("...", f"and {multi.num_members - SHOWN_NAMES} more")
    return table


# ---- predict and verify ----


def answer_table(name, answer, average):
    """The first numbers of the first members for the first rows."""
    by_member = answer[:, None] if average else answer
    members = ["average"] if average else [f"member {i}" for i in range(answer.shape[1])]
    table = _table(shapes_text({name: answer}), "row", *members[:SHOWN_MEMBERS])
    for row, numbers in enumerate(by_member[:SHOWN_ROWS, :SHOWN_MEMBERS]):
        table.add_row(str(row), *(_first(member) for member in numbers))
    return table


def _first(numbers):
    numbers = np.ravel(numbers)
    shown = " ".join(f"{x:.4g}" if isinstance(x, np.floating) else escape(str(x)) for x in numbers[:SHOWN_NUMBERS])
    return shown + (" ..." if len(numbers) > SHOWN_NUMBERS else "")


def comparison_table(packed, paths, rows):
    """What `compare` gave for each file."""
    table = _table(f"Members of {packed}", "member", "file", "config", "weights", "outputs")
    for i, (path, row) in enumerate(zip(paths, rows)):
        table.add_row(str(i), escape(path), *(f"[{'green' if same else 'red'}]{escape(text)}[/]" for same, text in row))
    return table


# ---- merge ----


def merge_table(path, loss, losses):
    """The loss of the members, of each step of the merge, and of the ensemble."""
    table = _table(f"Loss on {path}", "", loss)
    for name, value in losses.items():
        table.add_row(escape(name), f"{value:.4f}")
    return table


# ---- shapes ----


def shape_text(shape):
    """`(None, 8, None)` as `(rows, 8, any)`."""
    return "(" + ", ".join(["rows", *("any" if d is None else str(d) for d in shape[1:])]) + ")"


def shapes_text(arrays):
    """The names and shapes of arrays."""
    return ", ".join(f"{name} {a.shape}" for name, a in arrays.items())
