"""Which classes and functions a config may name: Keras's own that compute nothing but tensors, and the user's own.

Keras's guards are a list of what is forbidden and a switch, `keras.config.enable_unsafe_deserialization()`, that any code in
the process can turn. Here is a list of what is allowed, and no switch:

- layers, initializers, regularizers, constraints, activations and dtype policies of Keras's public API, models, and the raw
  operations (`x + y`) of graphs;
- custom classes and functions in `custom_objects`, in an enclosing `keras.saving.custom_object_scope`, or registered by code
  that was imported before (`keras.saving.register_keras_serializable`). A file names them; it never brings or imports them.

Layers that run code or read files that come with them are refused also as custom classes.
"""

import functools
import inspect
import sys

import keras

from keras_multiweight.packing.files.limits import UnsafeFileError

FOREIGN = {
    "Lambda": "which carries Python bytecode",
    "TFSMLayer": "which runs a TensorFlow graph from another folder",
    "TorchModuleWrapper": "which unpickles a torch module",
    "JaxLayer": "which calls a Python function of the file",
    "FlaxLayer": "which calls a Python function of the file",
    "__lambda__": "a function as Python bytecode",
    "__typespec__": "a TensorFlow type",
}
FOREIGN_LAYERS = tuple(getattr(keras.layers, name) for name in FOREIGN if not name.startswith("__"))
DATA = {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"}
PUBLIC = ("layers", "initializers", "regularizers", "constraints", "dtype_policies", "models", "quantizers", "random")
OF_MODELS = ("keras.src.models.", "keras.src.applications.")  # Functional, and layers such as ConvNeXt's LayerScale
LOOKUPS = (keras.layers.StringLookup, keras.layers.IntegerLookup, keras.layers.TextVectorization)

TRUST = (
    "If you trust the file, load it yourself with `keras.models.load_model(path, safe_mode=False)` and pack the loaded "
    "models, with `pack(models, safe_mode=False)` for Lambda layers; or save the model with a registered layer class in "
    "its place."
)
REGISTER = (
    "Import the module that registers it first (`keras.saving.register_keras_serializable`; on the command line "
    "`--import MODULE`), or pass custom_objects={{'{name}': ...}}."
)


def check(config, path, custom_objects=None):
    """Refuse a config that names what is not allowed, before anything of it is looked at by Keras.

    Args:
        config: The config as JSON values.
        path: The file that messages name.
        custom_objects: Dict of names to the user's own classes and functions.

    Returns:
        Dict of names to all custom classes and functions that the config uses.

    Raises:
        UnsafeFileError: The first class or function that is not allowed, by name.
    """
    return _Check(path, custom_objects or {}).of(config)


class _Check:
    def __init__(self, path, custom_objects):
        self._path = path
        self._custom_objects = custom_objects
        self._used = dict(custom_objects)

    def of(self, config):
        waiting = [(config, "the model")]
        while waiting:
            value, where = waiting.pop()
            if isinstance(value, dict):
                where = _place(value, where)
                if "class_name" in value:
                    self._check_object(value, where)
                waiting.extend((item, where) for item in value.values())
            elif isinstance(value, list):
                waiting.extend((item, where) for item in value)
            elif isinstance(value, str):
                self._custom(value)
        return self._used

    def _check_object(self, node, where):
        name = node["class_name"]
        if not isinstance(name, str):
            self._refuse("A class in a config must be named.", f"the class name {name!r:.100}", where)
        if name in FOREIGN:
            self._refuse("A file may bring no code of its own.", f"a {name}, {FOREIGN[name]},", where, TRUST)
        if name in DATA:
            return
        found = self._function(node, where) if name == "function" else self._class(node, where)
        if inspect.isclass(found):
            self._check_class(found, node, where)

    def _class(self, node, where):
        name, registered_name = node["class_name"], node.get("registered_name")
        custom = self._custom(registered_name) or self._custom(name)
        if custom is None:
            return self._keras_object(node, name, _is_allowed_class, where)
        if name not in (custom.__name__, keras.saving.get_registered_name(custom)) and self._custom(name) is not custom:
            must = "The class name and the registered name of an object must say the same."
            self._refuse(must, f"class_name={name!r} with registered_name={registered_name!r}", where)
        return custom

    def _function(self, node, where):
        name = node.get("config")
        if not isinstance(name, str):
            self._refuse("A function in a config must be named.", f"{name!r:.100}", where)
        return self._custom(name) or self._keras_object(node, name, _is_allowed_function, where)

    def _check_class(self, cls, node, where):
        foreign = next((base.__name__ for base in FOREIGN_LAYERS if issubclass(cls, base)), None)
        if foreign:
            self._refuse("A file may bring no code of its own.", f"a {cls.__name__}, a kind of {foreign},", where, TRUST)
        config = node.get("config")
        words = config.get("vocabulary") if issubclass(cls, LOOKUPS) and isinstance(config, dict) else None
        if words is not None and not (isinstance(words, list) or _is_array(words)):
            must = "A vocabulary must be in the model, as a list: the path of a file would be read from this machine."
            way_out = "Build the layer with the words themselves, or with adapt(), and save the model again."
            self._refuse(must, f"vocabulary={words!r:.100}", where, way_out)

    def _keras_object(self, node, name, is_allowed, where):
        module = node.get("module")
        found = _find(module, name, is_allowed)
        if found is None:
            shown = f"{module}.{name}" if module else name
            must = "A config may name classes and functions of Keras, and your own that this process knows."
            self._refuse(must, f"{node['class_name']} {shown!r:.200}", where, REGISTER.format(name=name))
        return found

    def _custom(self, name):
        """A class or function of the user by name, as Keras would find it."""
        found = keras.saving.get_registered_object(name, self._custom_objects) if isinstance(name, str) else None
        if found is not None:
            self._used[name] = found
        return found

    def _refuse(self, must, received, where, *way_out):
        raise UnsafeFileError(self._path, must, f"{received} in {where}", *way_out)


def _find(module, name, is_allowed):
    """What Keras finds under a name, if it is allowed. Nothing is imported: Keras's own modules all are."""
    if module in (None, "builtins"):  # legacy files leave the module out
        homes = [_legacy_names(), vars(keras.activations)]
    elif isinstance(module, str) and module.split(".")[0] == "keras" and module in sys.modules:
        homes = [vars(sys.modules[module])]
    else:
        return None
    found = (home.get(name) for home in homes)
    return next((thing for thing in found if thing is not None and is_allowed(thing)), None)


@functools.cache
def _legacy_names():
    """Public classes by their public names, and by their own, which differ where Keras renamed one."""
    models = sys.modules["keras.src.models"]  # home of the Functional class, which has no public name
    named = {name: thing for space in PUBLIC for name, thing in vars(getattr(keras, space)).items()}
    return {**vars(models), **named, **{cls.__name__: cls for cls in _public_classes()}, "DTypePolicy": keras.DTypePolicy}


def _is_allowed_class(thing):
    if not inspect.isclass(thing):
        return False
    is_operation = issubclass(thing, keras.Operation) and thing.__module__.startswith("keras.src.ops.")
    is_of_models = issubclass(thing, keras.Layer) and thing.__module__.startswith(OF_MODELS)
    return thing in _public_classes() or is_operation or is_of_models


def _is_allowed_function(thing):
    return inspect.isfunction(thing) and thing in _public_functions()


@functools.cache
def _public_classes():
    bases = (keras.Layer, keras.Initializer, keras.Regularizer, keras.constraints.Constraint, keras.quantizers.Quantizer,
             keras.dtype_policies.DTypePolicy, keras.dtype_policies.DTypePolicyMap, keras.random.SeedGenerator)  # fmt: skip
    things = [thing for space in PUBLIC for thing in vars(getattr(keras, space)).values()]
    return {thing for thing in things if inspect.isclass(thing) and issubclass(thing, bases)}


@functools.cache
def _public_functions():
    """Activations, and operations by which an activation can be given."""
    named = {**vars(keras.ops), **vars(keras.activations)}
    not_maths = ("get", "serialize", "deserialize")
    return {thing for name, thing in named.items() if inspect.isfunction(thing) and name not in not_maths}


def _place(node, where):
    """The innermost layer that a part of a config belongs to."""
    config = node.get("config")
    name = config.get("name") if isinstance(config, dict) else None
    return f"layer '{name:.100}'" if isinstance(name, str) and "class_name" in node else where


def _is_array(value):
    return isinstance(value, dict) and value.get("class_name") in ("__numpy__", "__tensor__")
