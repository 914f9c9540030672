"""Arrays in and out: reading a file, fitting it to a model's inputs, predicting, and writing the answers."""

import math

import numpy as np

from keras_multiweight_cli.tables import shape_text, shapes_text

ENDINGS = (".npy", ".npz", ".csv")


# ---- reading ----


def read_arrays(path):
    """The arrays in a file, by name; what has no name is `arr_0`."""
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"INPUT must end in {' or '.join(ENDINGS)}. Received: '{path}'.")
    if not path.is_file():
        raise FileNotFoundError(f"INPUT must be a file that exists. Received: '{path}'.")
    try:
        found = _read_csv(path) if path.suffix.lower() == ".csv" else np.load(path, allow_pickle=False)
        return dict(found) if hasattr(found, "files") else {"arr_0": found}
    except Exception as error:
        raise ValueError(f"INPUT must hold arrays of numbers. Received: '{path}', which cannot be read: {error}") from error


def _read_csv(path):
    """Numbers, and in the first row perhaps names. A row of numbers is data, also if it was meant as names."""
    rows = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if rows and not all(_is_number(cell) for cell in rows[0].split(",")):
        del rows[0]
    if not rows:
        raise ValueError("it has no rows.")
    return np.loadtxt(rows, delimiter=",", ndmin=2, comments=None)


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


# ---- into the model ----


def inputs(model, arrays, path):
    """The arrays in the structure of the model's input, checked."""
    import keras

    found = _in_order(model, arrays, path)
    checked = [_fitting(x, array, path) for x, array in zip(model.inputs, found)]
    if not len(checked[0]):
        raise ValueError(f"INPUT must have at least one row. Received: {shapes_text(arrays)} in '{path}'.")
    if len({len(a) for a in checked}) > 1:
        raise ValueError(f"All inputs must have equally many rows. Received: {shapes_text(arrays)} in '{path}'.")
    return keras.tree.pack_sequence_as(model.input, checked)


def _in_order(model, arrays, path):
    """The arrays in the order of the model's inputs: by their names, as `arr_0`, `arr_1`, ..., or the only one."""
    names = [x.name for x in model.inputs]
    if len(arrays) == len(names) == 1:
        return list(arrays.values())
    for order in (names, [f"arr_{i}" for i in range(len(names))]):
        if set(arrays) == set(order):
            return [arrays[name] for name in order]
    expected = ", ".join(f"{x.name} {shape_text(x.shape)}" for x in model.inputs)
    hint = "" if len(names) == 1 else f" Put them into one .npz file, with the names {', '.join(names)}."
    raise ValueError(
        f"The model takes {len(names)} input(s): {expected}. Received: {shapes_text(arrays)} in '{path}'.{hint}"
    )


def _fitting(x, array, path):
    """The array, which must fit the input `x`, in a dtype that the input takes without loss."""
    import keras

    if array.ndim != len(x.shape) or any(want not in (None, got) for want, got in zip(x.shape, array.shape)):
        hint = " A single sample needs a first axis: (1, ...)." if array.ndim == len(x.shape) - 1 else ""
        raise ValueError(
            f"Input '{x.name}' must have the shape {shape_text(x.shape)}. Received: {array.shape} in '{path}'.{hint}"
        )
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype == "string":
        return array
    whole = dtype.startswith(("int", "uint", "bool"))
    if array.dtype.kind not in "biuf" or (whole and (array != np.floor(array)).any()):
        raise ValueError(f"Input '{x.name}' takes {dtype}. Received: other values, of dtype {array.dtype}, in '{path}'.")
    return array.astype(dtype if whole or dtype == "float64" else "float32")


# ---- out of the model ----


def answers(multi, x, average, batch_size):
    """The outputs by name: `(rows, members, ...)`, or `(rows, ...)` averaged."""
    import keras

    model = multi.average() if average else multi
    found = model.predict(x, batch_size=batch_size or multi.default_batch_size(), verbose=0)
    return {name: _plain(np.asarray(y)) for name, y in zip(multi.output_names, keras.tree.flatten(found), strict=True)}


def _plain(array):
    """NumPy files know no bfloat16."""
    return array.astype("float32") if array.dtype.kind == "V" else array


# ---- writing ----


def check_outputs_fit(out, names):
    """Refuse a file for one array as OUT of a model with several outputs."""
    if out and len(names) > 1 and out.suffix.lower() != ".npz":
        raise ValueError(
            f"The model has {len(names)} outputs ({', '.join(names)}), which need an .npz file as OUT. Received: '{out}'."
        )


def write_arrays(path, found, average):
    """Write the answers in the format that the path's ending says."""
    ending = path.suffix.lower()
    if ending == ".npz":
        np.savez(path, **found)
    elif ending == ".npy":
        np.save(path, *found.values())
    else:
        _write_csv(path, *found.values(), average)


def _write_csv(path, answer, average):
    rows = answer.reshape(len(answer), -1)
    header = ",".join(_columns(answer.shape, average))
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
