"""Imports point one way.

`layouts, ... <- layers <- training, bagging, prediction <- model <- packing <- merging <- testing <- command line`
"""

import ast
import pathlib

import keras_multiweight
import keras_multiweight_cli

ROOT = pathlib.Path(keras_multiweight.__file__).parent
CLI = pathlib.Path(keras_multiweight_cli.__file__).parent
FILES = [*ROOT.rglob("*.py"), *CLI.rglob("*.py")]
LEVELS = {
    **dict.fromkeys(
        (
            "arrays",
            "callers",
            "configs",
            "copies",
            "deep",
            "layouts",
            "lowerings",
            "metrics",
            "plan",
            "registry",
            "rounding",
        ),
        0,
    ),
    **dict.fromkeys(("seeding", "settings"), 0),
    "layers": 1,
    "prediction": 2,
    "training": 2,
    "bagging": 2,
    "ensemble": 3,
    "members": 3,
    "model": 3,
    "mixed": 3,
    "distribution": 3,
    "packing": 4,
    "merging": 5,
    "testing": 6,
    "folds": 6,
    "sklearn": 6,
    "plots": 6,
    "callbacks": 6,
    "surrogate": 6,
}


def imported(path, in_functions=True):
    """The modules that a file imports, at its top level or in a function."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if in_functions else tree.body:
        if isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def level(module):
    return LEVELS.get(module.split(".")[1]) if module.count(".") else None


def modules():
    for path in ROOT.rglob("*.py"):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if part != "__init__":
            yield path, LEVELS[part]


def test_imports_point_one_way():
    for path, own in modules():
        for module in imported(path):
            if module.startswith("keras_multiweight."):
                assert (level(module) or 0) <= own, f"{path.name} imports {module}"


def test_library_does_not_import_the_command_line():
    for path in ROOT.rglob("*.py"):
        assert not [m for m in imported(path) if m.split(".")[0] == CLI.name], path


def test_command_line_imports_keras_in_functions_only():
    late = ("keras", ROOT.name)
    for path in CLI.rglob("*.py"):
        assert not [m for m in imported(path, in_functions=False) if m.split(".")[0] in late], path


def test_only_public_keras_is_imported():
    for path in FILES:
        assert not [m for m in imported(path) if m.startswith("keras.src")], path


def test_backends_are_imported_in_one_place():
    backends = ("tensorflow", "jax", "torch")
    users = {path.name for path in FILES for m in imported(path) if m.split(".")[0] in backends}
    assert users <= {"inplace.py", "lowerings.py", "programs.py", "torch_programs.py", "torch_traces.py", "verify.py"}
