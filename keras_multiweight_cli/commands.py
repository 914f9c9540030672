"""The commands: what each takes, in which order it checks, loads and writes, and what it says."""

from pathlib import Path
from typing import Annotated

import typer

from keras_multiweight_cli.arrays import ENDINGS, answers, check_outputs_fit, inputs, read_arrays, write_arrays
from keras_multiweight_cli.compare import compare
from keras_multiweight_cli.demo import run as run_demo
from keras_multiweight_cli.files import (
    check_out,
    filled_whole,
    how_to_pack,
    import_modules,
    load,
    load_packed,
    model_files,
    old_members,
    written_whole,
)
from keras_multiweight_cli.merge import merged
from keras_multiweight_cli.start import Commands, console, library, print_version, say
from keras_multiweight_cli.tables import answer_table, comparison_table, facts, member_table, shapes_text

PackedFile = Annotated[Path, typer.Argument(metavar="PACKED", help="A file that `keras-multiweight pack` wrote.")]
ModelFiles = Annotated[list[str], typer.Argument(metavar="FILES...", help="Saved models or weights, patterns, or a folder.")]
Modules = Annotated[
    list[str],
    typer.Option("--import", metavar="MODULE", callback=import_modules, help="A module that registers custom classes."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]

app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show it.")] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", envvar="KERAS_MULTIWEIGHT_TRACEBACK", help="Show where an error comes from.")
    ] = False,
):
    """N weight sets of one Keras architecture as one model: one compiled graph, one predict."""


@app.command()
def demo(
    members: Annotated[int, typer.Option(min=2, help="Models a task.")] = 24,
    keep: Annotated[Path | None, typer.Option(metavar="DIR", help="A new folder that keeps the model files.")] = None,
):
    """Train small models, pack them, and time the loop over them against one packed predict."""
    run_demo(members, keep)


@app.command()
def pack(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The packed model: a new .keras file.")],
    files: ModelFiles,
    template: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The architecture of files of weights: a saved model, or a config (.json)."),
    ] = None,
    group: Annotated[bool, typer.Option("--group", help="Take models of several architectures.")] = False,
    verify: Annotated[bool, typer.Option(help="Compare packed outputs with each model's own.")] = True,
    overwrite: Overwrite = False,
    modules: Modules = (),
):
    """Pack saved models into one .keras file."""
    paths = model_files(files)
    check_out(out, (".keras",), overwrite)
    if any(Path(path).resolve() == out.resolve() for path in paths):
        raise ValueError(f"OUT must not be one of the models to pack. Received: '{out}'.")
    multi = library().pack(paths, template=template, group=group, verify=verify)
    with written_whole(out) as part:
        multi.save(part)
    say(f"Packed {multi.num_members} models into '{out}'.")


@app.command()
def unpack(
    packed: PackedFile,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Gets member_000.keras, member_001.keras, ...")],
    overwrite: Overwrite = False,
    modules: Modules = (),
):
    """Write each member of a packed file as an ordinary Keras model."""
    old = old_members(folder, overwrite)
    multi = load_packed(packed)
    width = max(3, len(str(multi.num_members - 1)))
    names = [f"member_{i:0{width}}.keras" for i in range(multi.num_members)]
    with filled_whole(folder, old) as part:
        for i, name in enumerate(names):
            multi.member(i).save(part / name)
    say(f"Unpacked {len(names)} models into '{folder}': {names[0]} to {names[-1]}.")


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A packed file, or any saved Keras model.")],
    modules: Modules = (),
):
    """Show what is in a file: members, parameters, memory, inputs, outputs, and the rule each layer got."""
    model = load(file)
    packed = isinstance(model, library().MultiModel)
    console.print(facts(file, model, packed))
    if packed:
        console.print(member_table(model), model.plan().table())
    else:
        say(f"This is a plain Keras model, not a packed one. {how_to_pack(file)}")


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
    modules: Modules = (),
):
    """The answers of all members, (rows, members, ...), or their average."""
    if out:
        check_out(out, ENDINGS, overwrite)
    arrays = read_arrays(data)
    multi = load_packed(packed)
    check_outputs_fit(out, multi.output_names)
    found = answers(multi, inputs(multi, arrays, data), average, batch_size)
    if out is None:
        console.print(*(answer_table(name, y, average) for name, y in found.items()))
        say("These are the first numbers; give OUT to write all.")
        return
    with written_whole(out) as part:
        write_arrays(part, found, average)
    say(f"Wrote {shapes_text(found)} to '{out}'.")


@app.command()
def verify(packed: PackedFile, files: ModelFiles, modules: Modules = ()):
    """Check that member i of a packed file is the model in file i: config, weights bit for bit, and outputs."""
    paths = model_files(files)
    multi = load_packed(packed)
    if len(paths) != multi.num_members:
        raise ValueError(f"The packed file has {multi.num_members} members. Received: {len(paths)} model files.")
    rows = list(compare(multi, paths))
    console.print(comparison_table(packed, paths, rows))
    wrong = sum(not all(same for same, _ in row) for row in rows)
    if wrong:
        raise ValueError(f"{wrong} of {len(paths)} members are not the model in their file, as the table shows.")
    console.print(f"[green]All {len(paths)} members are equal to their files.[/]")


@app.command()
def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The merged model: a new .keras file.")],
    files: ModelFiles,
    align: Annotated[str, typer.Option(help="How units are matched: weights, activations, or none.")] = "weights",
    repair: Annotated[
        Path | None, typer.Option(metavar="INPUT", help="Inputs to repair the result with, and for activations.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help=".npz with inputs and targets (y), for a table of losses; INPUT if it has y."),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(help="Keras's name of the loss in the table. Left out: for classes if y are ints, else mse."),
    ] = None,
    overwrite: Overwrite = False,
):
    """Merge trained models of one architecture into one: match their units, average, repair."""
    if align not in ("weights", "activations", "none"):
        raise typer.BadParameter(f"--align must be weights, activations or none. Received: {align!r}.")
    if align == "activations" and repair is None:
        raise typer.BadParameter("--align activations needs --repair INPUT, on which the units are compared.")
    paths = model_files(files)
    check_out(out, (".keras",), overwrite)
    model, table = merged(paths, align, repair, data, loss)
    if table:
        console.print(table)
    with written_whole(out) as part:
        model.save(part)
    say(f"Merged {len(paths)} models into '{out}'.")
