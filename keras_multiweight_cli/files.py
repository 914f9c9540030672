"""Model files: finding and loading them, and writing that leaves whole files or none."""

import contextlib
import importlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from keras_multiweight_cli.start import library

# ---- reading ----


def import_modules(names):
    """Import the user's modules, which register the custom classes of the files. They may lie in the current folder."""
    if names:
        library()
        sys.path.insert(0, os.getcwd())
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ImportError(f"--import takes a module that can be imported. Received: '{name}': {reason}") from error
    return names


def model_files(files):
    """The paths that names, patterns and folders stand for, in the order given and sorted within each."""
    library()
    from keras_multiweight.packing.files import model_paths

    return model_paths(files)


def load(path):
    """The model in a file, which brings no code of its own."""
    library()
    from keras_multiweight.packing.files import load_model

    return load_model(path)


def load_packed(path):
    """As `load`, for a packed model and nothing else."""
    model = load(path)
    if not isinstance(model, library().MultiModel):
        raise ValueError(f"The file must be a packed model. Received: '{path}', a plain Keras model. {how_to_pack(path)}")
    return model


def how_to_pack(path):
    """What to tell who gave a plain model."""
    return f"Pack it with others like it: keras-multiweight pack packed.keras {path} ..."


# ---- writing ----


def check_out(out, endings, overwrite):
    """Refuse an OUT that cannot be written, before anything is loaded for it."""
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


def old_members(folder, overwrite):
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


def _scratch_folder(parent):
    """A folder for unfinished files, on the disk of the finished ones, so that a rename moves them."""
    return tempfile.TemporaryDirectory(prefix=".keras-multiweight-", dir=parent, ignore_cleanup_errors=True)


@contextlib.contextmanager
def written_whole(out):
    """A path to write to; the file takes the place of `out` when the block ends well, and vanishes when it does not."""
    with _scratch_folder(out.parent) as scratch:
        part = Path(scratch, out.name)
        yield part
        os.replace(part, out)


@contextlib.contextmanager
def filled_whole(folder, old):
    """As `written_whole`, for the files of a folder; they take the place of the `old` ones."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _scratch_folder(folder) as scratch:
            yield Path(scratch)
            names = os.listdir(scratch)
            for name in names:
                os.replace(Path(scratch, name), folder / name)
        for path in old:
            if path.name not in names:
                path.unlink()
    except BaseException:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
