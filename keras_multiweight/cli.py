"""The command line, `keras-multiweight`: pack, unpack, inspect, predict and verify model files, and a demo.

Keras comes in late, in `_library`: first a backend that is installed is chosen, and `--help` needs none. Exit codes: 0,
1 for an error or a difference, 2 for a wrong usage. What is written is written whole or not at all.
"""

import contextlib
import glob
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

BACKENDS = ("tensorflow", "jax", "torch")
MODEL_ENDINGS = (".keras", ".h5", ".hdf5")
ARRAY_ENDINGS = (".npy", ".npz", ".csv")
EXPECTED_ERRORS = (ValueError, OSError, RuntimeError, ImportError)
SHOWN_ROWS, SHOWN_MEMBERS, SHOWN_NUMBERS, SHOWN_NAMES = 5, 6, 3, 20

console = Console()
errors = Console(stderr=True)

PackedFile = Annotated[Path, typer.Argument(metavar="PACKED", help="A file that `keras-multiweight pack` wrote.")]
ModelFiles = Annotated[list[str], typer.Argument(metavar="FILES...", help="Saved Keras models, patterns, or a folder.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


class _Commands(typer.core.TyperGroup):
    """Shows an error of a command as one message, and ends with exit code 1."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except Exception as error:
            if isinstance(error, typer.Abort) or hasattr(error, "exit_code") or ctx.params["traceback"]:
                raise
            _print_error(error)
            raise typer.Exit(1) from error


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main():
    """The console script `keras-multiweight`."""
    app(prog_name="keras-multiweight")


def _print_error(error):
    expected = isinstance(error, EXPECTED_ERRORS)
    message = str(error) if expected and str(error) else f"{type(error).__name__}: {error}"
    lines = [message, *getattr(error, "__notes__", ())]
    if not expected:
        lines.append("Run `keras-multiweight --traceback ...` to see where.")
    errors.print("[bold red]Error:[/] [red]" + escape("\n".join(lines)) + "[/]", soft_wrap=True, highlight=False)


def _print_version(wanted):
    if not wanted:
        return
    try:
        version = importlib.metadata.version("keras-multiweight")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        version = _library().__version__
    console.print(f"keras-multiweight {version}", highlight=False)
    raise typer.Exit()


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show it.")] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", envvar="KERAS_MULTIWEIGHT_TRACEBACK", help="Show where an error comes from.")
    ] = False,
):
    """N weight sets of one Keras architecture as one model: one compiled graph, one predict."""


# ---- commands ----


@app.command()
def demo(
    members: Annotated[int, typer.Option(min=2, help="Models a task.")] = 24,
    keep: Annotated[Path | None, typer.Option(metavar="DIR", help="A new folder that keeps the model files.")] = None,
):
    """Train small models, pack them, and time the loop over them against one packed predict."""
    _library()
    from keras_multiweight import demo

    demo.run(members, keep, console)


@app.command()
def pack(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The packed model: a new .keras file.")],
    files: ModelFiles,
    verify: Annotated[bool, typer.Option(help="Compare packed outputs with each model's own.")] = True,
    overwrite: Overwrite = False,
):
    """Pack saved models of one architecture into one .keras file."""
    paths = _model_files(files)
    _check_out(out, (".keras",), overwrite)
    if any(Path(path).resolve() == out.resolve() for path in paths):
        raise ValueError(f"OUT must not be one of the models to pack. Received: '{out}'.")
    multi = _library().pack(paths, verify=verify)
    with _written_whole(out) as part:
        multi.save(part)
    console.print(f"Packed {multi.num_members} models into '{escape(str(out))}'.")


@app.command()
def unpack(
    packed: PackedFile,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Gets member_000.keras, member_001.keras, ...")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the member files that are there.")] = False,
):
    """Write each member of a packed file as an ordinary Keras model."""
    old = _old_members(folder, overwrite)
    multi = _load_packed(packed)
    width = max(3, len(str(multi.num_members - 1)))
    names = [f"member_{i:0{width}}.keras" for i in range(multi.num_members)]
    with _filled_whole(folder, old) as part:
        for i, name in enumerate(names):
            multi.member(i).save(part / name)
    console.print(f"Unpacked {len(names)} models into '{escape(str(folder))}': {names[0]} to {names[-1]}.")


@app.command()
def inspect(file: Annotated[Path, typer.Argument(metavar="FILE", help="A packed file, or any saved Keras model.")]):
    """Show what is in a file: members, parameters, memory, inputs, outputs, and the rule each layer got."""
    model = _load(file)
    packed = isinstance(model, _library().MultiModel)
    console.print(_facts(file, model, packed))
    if packed:
        console.print(_member_table(model), model.plan().table())
    else:
        console.print(f"This is a plain Keras model, not a packed one. {_how_to_pack(file)}", soft_wrap=True)


@app.command()
def predict(
    packed: PackedFile,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help=".npy; .npz with the inputs by name or as arr_0, arr_1, ...; or .csv of numbers."
        ),
    ],
    out: Annotated[
        Path | None, typer.Argument(metavar="[OUT]", help=".npy, .csv, or .npz. Left out, a summary is shown.")
    ] = None,
    average: Annotated[bool, typer.Option("--average", help="One answer: the average over the members.")] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows at a time. Left out, as fits in memory.")] = None,
    overwrite: Overwrite = False,
):
    """The answers of all members, (rows, members, ...), or their average."""
    if out:
        _check_out(out, ARRAY_ENDINGS, overwrite)
    arrays = _read_arrays(data)
    multi = _load_packed(packed)
    _check_outputs_fit(out, multi.output_names)
    x = _inputs(multi, arrays, data)
    answers = _answers(multi, x, average, batch_size or multi.default_batch_size())
    if out is None:
        console.print(*(_answer_table(name, y, average) for name, y in answers.items()))
        console.print("These are the first numbers; give OUT to write all.")
        return
    with _written_whole(out) as part:
        _write_arrays(part, answers, average)
    console.print(f"Wrote {_shapes(answers)} to '{escape(str(out))}'.", soft_wrap=True)


@app.command()
def verify(packed: PackedFile, files: ModelFiles):
    """Check that member i of a packed file is the model in file i: config, weights bit for bit, and outputs."""
    paths = _model_files(files)
    multi = _load_packed(packed)
    if len(paths) != multi.num_members:
        raise ValueError(f"The packed file has {multi.num_members} members. Received: {len(paths)} model files.")
    table = _table(f"Members of {packed}", "member", "file", "config", "weights", "outputs")
    wrong = 0
    for i, findings in enumerate(_compare(multi, paths)):
        wrong += any(not same for same, _ in findings)
        table.add_row(str(i), escape(paths[i]), *(_coloured(*finding) for finding in findings))
    console.print(table)
    if wrong:
        raise ValueError(f"{wrong} of {len(paths)} members are not the model in their file, as the table shows.")
    console.print(f"[green]All {len(paths)} members are equal to their files.[/]")


# ---- Keras, late ----


def _library():
    """The package, imported once a backend is chosen."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "keras" not in sys.modules:
        _choose_backend()
    import keras_multiweight

    return keras_multiweight


def _choose_backend():
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


def _load(path):
    """The model in a file, in Keras's safe mode."""
    if not path.is_file():
        raise FileNotFoundError(f"There must be a saved Keras model at this path. Received: '{path}'.")
    if path.suffix.lower() not in MODEL_ENDINGS:
        raise ValueError(f"A saved Keras model ends in {', '.join(MODEL_ENDINGS)}. Received: '{path}'.")
    _library()
    import keras

    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip()[:600]}"
        raise ValueError(f"The file must be a whole model saved by Keras. Received: '{path}': {reason}") from error


def _load_packed(path):
    model = _load(path)
    if not isinstance(model, _library().MultiModel):
        raise ValueError(f"The file must be a packed model. Received: '{path}', a plain Keras model. {_how_to_pack(path)}")
    return model


def _how_to_pack(path):
    return f"Pack it with others like it: keras-multiweight pack packed.keras {path} ..."


# ---- files ----


def _model_files(files):
    """The paths that names, patterns and folders stand for, in the order given and sorted within each."""
    paths = [path for file in files for path in _matching(file)]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise FileNotFoundError(f"Every model must be a file that exists. Received: '{missing[0]}'.")
    return paths


def _matching(file):
    if os.path.isdir(file):
        found = sorted(str(path) for path in Path(file).iterdir() if path.suffix.lower() in MODEL_ENDINGS)
    else:
        found = sorted(glob.glob(file, recursive=True)) if glob.has_magic(file) and not os.path.exists(file) else [file]
    if not found:
        raise FileNotFoundError(f"A folder or pattern must hold at least one saved model. Received: '{file}'.")
    return found


def _check_out(out, endings, overwrite):
    """Whether OUT can be written, before anything is loaded for it."""
    if out.suffix.lower() not in endings:
        raise ValueError(f"OUT must end in {' or '.join(endings)}. Received: '{out}'.")
    if out.is_dir():
        raise IsADirectoryError(f"OUT must be a file. Received: '{out}', a folder.")
    if out.exists() and not overwrite:
        raise FileExistsError(f"OUT must be a new file. Received: '{out}', which exists. Pass --overwrite to replace it.")
    try:
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise OSError(f"OUT must be in a folder that can be written. Received: '{out}': {error.strerror}.") from error


@contextlib.contextmanager
def _scratch_folder(parent):
    """A folder for unfinished files, on the disk of the finished ones, so that a rename moves them."""
    folder = Path(tempfile.mkdtemp(prefix=".keras-multiweight-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _written_whole(out):
    """A path to write to; the file takes the place of `out` when the block ends well, and vanishes when it does not."""
    with _scratch_folder(out.parent) as folder:
        part = folder / out.name
        yield part
        os.replace(part, out)


@contextlib.contextmanager
def _filled_whole(folder, old):
    """As `_written_whole`, for the files of a folder; they take the place of the `old` ones."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _scratch_folder(folder) as part:
            yield part
            new_names = sorted(path.name for path in part.iterdir())
            for name in new_names:
                os.replace(part / name, folder / name)
        for path in old:
            if path.name not in new_names:
                path.unlink()
    except BaseException:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _old_members(folder, overwrite):
    """The member files of an earlier unpack: left there, they would pass for members of this one."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"DIR must be a folder, or not be there. Received: '{folder}', a file.")
    old = [path for path in folder.glob("member_*.keras") if re.fullmatch(r"member_\d+", path.stem)]
    if old and not overwrite:
        raise FileExistsError(
            f"DIR must have no member files yet. Received: '{folder}', which has {len(old)}, such as "
            f"'{min(old).name}'. Pass --overwrite to replace all of them."
        )
    return old


# ---- arrays ----


def _read_arrays(path):
    """The arrays in a file, by name; what has no name is `arr_0`."""
    if path.suffix.lower() not in ARRAY_ENDINGS:
        raise ValueError(f"INPUT must end in {' or '.join(ARRAY_ENDINGS)}. Received: '{path}'.")
    if not path.is_file():
        raise FileNotFoundError(f"INPUT must be a file that exists. Received: '{path}'.")
    try:
        found = _read_csv(path) if path.suffix.lower() == ".csv" else np.load(path, allow_pickle=False)
        return dict(found) if hasattr(found, "files") else {"arr_0": found}
    except Exception as error:
        raise ValueError(f"INPUT must hold arrays of numbers. Received: '{path}', which cannot be read: {error}") from error


def _read_csv(path):
    """Numbers, and in the first row perhaps names. A row of numbers is data, also if it was meant as names."""
    with open(path, encoding="utf-8-sig") as file:
        first = file.readline()
        header = not all(_is_number(cell) for cell in first.split(","))
        rows = [line for line in ([] if header else [first]) + list(file) if line.strip()]
    if not rows:
        raise ValueError("it has no rows.")
    return np.loadtxt(rows, delimiter=",", ndmin=2, comments=None)


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def _inputs(model, arrays, path):
    """The arrays in the structure of the model's input, checked."""
    import keras

    expected = ", ".join(f"{x.name} {_shape(x.shape)}" for x in model.inputs)
    names = [x.name for x in model.inputs]
    order = names if set(arrays) == set(names) else [f"arr_{i}" for i in range(len(names))]
    order = list(arrays) if len(arrays) == len(names) == 1 else order
    if set(arrays) != set(order):
        more = "" if len(names) == 1 else f" Put them into one .npz file, with the names {', '.join(names)}."
        raise ValueError(
            f"The model takes {len(names)} input(s): {expected}. Received: {_shapes(arrays)} in '{path}'.{more}"
        )
    checked = [_checked(x, arrays[name], path) for x, name in zip(model.inputs, order)]
    if not len(checked[0]):
        raise ValueError(f"INPUT must have at least one row. Received: {_shapes(arrays)} in '{path}'.")
    if len({len(a) for a in checked}) > 1:
        raise ValueError(f"All inputs must have equally many rows. Received: {_shapes(arrays)} in '{path}'.")
    return keras.tree.pack_sequence_as(model.input, checked)


def _checked(x, array, path):
    """An array that fits one input of the model, in a dtype that the input takes without loss."""
    import keras

    fits = array.ndim == len(x.shape) and all(want in (None, got) for want, got in zip(x.shape, array.shape))
    if not fits:
        hint = " A single sample needs a first axis: (1, ...)." if array.ndim == len(x.shape) - 1 else ""
        raise ValueError(
            f"Input '{x.name}' must have the shape {_shape(x.shape)}. Received: {array.shape} in '{path}'.{hint}"
        )
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype == "string":
        return array
    if array.dtype.kind not in "biuf" or (dtype.startswith(("int", "uint", "bool")) and (array != np.floor(array)).any()):
        raise ValueError(f"Input '{x.name}' takes {dtype}. Received: other values, of dtype {array.dtype}, in '{path}'.")
    return array.astype("float32" if "float" in dtype and dtype != "float64" else dtype)


def _answers(multi, x, average, batch_size):
    """The outputs by name: `(rows, members, ...)`, or `(rows, ...)` averaged."""
    import keras

    model = multi.average() if average else multi
    answers = keras.tree.flatten(model.predict(x, batch_size=batch_size, verbose=0))
    return {name: _plain(np.asarray(y)) for name, y in zip(multi.output_names, answers, strict=True)}


def _plain(array):
    """NumPy files know no bfloat16."""
    return array.astype("float32") if array.dtype.kind == "V" else array


def _check_outputs_fit(out, names):
    if out and len(names) > 1 and out.suffix.lower() != ".npz":
        raise ValueError(
            f"The model has {len(names)} outputs ({', '.join(names)}), which need an .npz file as OUT. Received: '{out}'."
        )


def _write_arrays(path, answers, average):
    if path.suffix.lower() == ".npz":
        np.savez(path, **answers)
        return
    (answer,) = answers.values()
    if path.suffix.lower() == ".npy":
        np.save(path, answer)
        return
    header = ",".join(_columns(answer.shape, average))
    rows = answer.reshape(len(answer), -1)
    np.savetxt(path, rows, delimiter=",", header=header, comments="", fmt=_number_format(rows.dtype))


def _number_format(dtype):
    """Digits enough to read the same number back."""
    if dtype.kind == "f":
        return "%.9g" if dtype.itemsize <= 4 else "%.17g"
    return "%d" if dtype.kind in "biu" else "%s"


def _columns(shape, average):
    """The names of the numbers of one row: `member_2`, or `member_2_output_1` where each member gives several."""
    members = ["average"] if average else [f"member_{i}" for i in range(shape[1])]
    each = math.prod(shape[1:]) // len(members)
    return members if each == 1 else [f"{member}_output_{k}" for member in members for k in range(each)]


# ---- comparing ----


def _compare(multi, paths):
    """For each file `(same, what is shown)` of config, weights and outputs."""
    from keras_multiweight.packing.match import config_differences, model_config
    from keras_multiweight.packing.verify import Probe

    member = multi.member(0)
    expected, probe, packed = model_config(member), Probe(member), Probe(multi)
    for i, path in enumerate(paths):
        model = _load(Path(path))
        found = config_differences(expected, model_config(model), i, path)
        if found:
            yield (False, f"{found[0].key}: {found[0].received!r} in the file"), (False, "-"), (False, "-")
            continue
        probe.record(model)
        if i == 0:
            packed.inputs = probe.inputs
            packed.record(multi)
        weights = _same_bits(multi.member_weights(i), model.get_weights())
        yield (True, "equal"), weights, _outputs_differ(packed.outputs[0], probe.outputs[-1], i)


def _same_bits(expected, received):
    """Bit-equality: NaN equals itself, and 0.0 is not -0.0."""
    pairs = zip(expected, received)
    count = sum(a.shape != b.shape or a.dtype != b.dtype or a.tobytes() != b.tobytes() for a, b in pairs)
    count += abs(len(expected) - len(received))
    return count == 0, f"{count} of {len(expected)} differ" if count else "equal"


def _outputs_differ(packed, own, i):
    import keras

    from keras_multiweight.packing.verify import TOLERANCE, relative_difference

    worst, same = 0.0, True
    for received, expected in zip(keras.tree.flatten(packed), keras.tree.flatten(own)):
        received, expected = keras.ops.convert_to_numpy(received)[:, i], keras.ops.convert_to_numpy(expected)
        if expected.dtype.kind in "fiub":
            difference = relative_difference(received, expected)
        else:
            difference = float(not np.array_equal(received, expected))
        worst, same = max(worst, difference), same and difference <= TOLERANCE.get(str(expected.dtype), 0.0)
    return same, f"within {worst:.0e}" if worst else "equal"


# ---- tables ----


def _table(title, *columns):
    table = Table(title=escape(title), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _coloured(same, text):
    return f"[{'green' if same else 'red'}]{escape(text)}[/]"


def _facts(path, model, packed):
    """Size, inputs and outputs of a model."""
    import keras

    table = Table(title=escape(str(path)), title_justify="left", show_header=False)
    if packed:
        table.add_row("members", str(model.num_members))
        table.add_row("parameters a member", f"{sum(w.size for w in model.member_weights(0)):,}")
    table.add_row("parameters in all" if packed else "parameters", f"{model.count_params():,}")
    table.add_row("memory of the weights", _size(model.weights))
    for kind, tensors, names in (
        ("input", model.inputs, [x.name for x in model.inputs]),
        ("output", model.outputs, getattr(model, "output_names", ["output"])),
    ):
        for x, name in zip(tensors, names):
            dtype = keras.backend.standardize_dtype(x.dtype)
            table.add_row(kind, escape(f"{name} {_shape(x.shape)} {dtype}"))
    return table


def _size(weights):
    bits = sum(math.prod(w.shape) * int((re.search(r"\d+", str(w.dtype)) or ["8"])[0]) for w in weights)
    size = bits / 8
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _member_table(multi):
    table = _table("Members", "member", "packed from")
    for i, name in enumerate(multi.member_names[:SHOWN_NAMES]):
        table.add_row(str(i), escape(name))
    if multi.num_members > SHOWN_NAMES:
        table.add_row("...", f"and {multi.num_members - SHOWN_NAMES} more")
    return table


def _answer_table(name, answer, average):
    """The first numbers of the first members for the first rows."""
    by_member = answer[:, None] if average else answer
    members = ["average"] if average else [f"member {i}" for i in range(answer.shape[1])]
    table = _table(_shapes({name: answer}), "row", *members[:SHOWN_MEMBERS])
    for row, numbers in enumerate(by_member[:SHOWN_ROWS, :SHOWN_MEMBERS]):
        table.add_row(str(row), *(_short(member) for member in numbers))
    return table


def _short(numbers):
    numbers = np.ravel(numbers)
    shown = " ".join(f"{x:.4g}" if isinstance(x, np.floating) else escape(str(x)) for x in numbers[:SHOWN_NUMBERS])
    return shown + (" ..." if len(numbers) > SHOWN_NUMBERS else "")


def _shape(shape):
    """`(None, 8, None)` as `(rows, 8, any)`."""
    return "(" + ", ".join(["rows", *("any" if d is None else str(d) for d in shape[1:])]) + ")"


def _shapes(arrays):
    return ", ".join(f"{name} {a.shape}" for name, a in arrays.items())


if __name__ == "__main__":
    main()
