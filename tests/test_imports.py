"""The direction of imports: `layouts, registry, configs, copies <- layers <- model <- packing <- cli`."""

import ast
import pathlib

import keras_multiweight

ROOT = pathlib.Path(keras_multiweight.__file__).parent
LEVELS = {
    **dict.fromkeys(("layouts", "registry", "configs", "copies", "plan"), 0),
    "layers": 1,
    "model": 2,
    "packing": 3,
    "demo": 4,
    "cli": 5,
}


def imported(path):
    """The modules that a file imports, at its top level or in a function."""
    for node in ast.walk(ast.parse(path.read_text())):
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


def test_only_public_keras_is_imported():
    for path in ROOT.rglob("*.py"):
        assert not [m for m in imported(path) if m.startswith("keras.src")], path


def test_backends_are_imported_in_one_place():
    backends = ("tensorflow", "jax", "torch")
    users = {path.name for path in ROOT.rglob("*.py") for m in imported(path) if m.split(".")[0] in backends}
    assert users <= {"lowerings.py", "verify.py"}
