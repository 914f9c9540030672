"""The tensors of an H5 file: only what lies in the file itself, by path or by position, with limits.

HDF5 can point to other groups, to other files and to raw bytes of any file of the machine, can call filters from shared
libraries, and can declare any shape. None of this is in a file that Keras writes.
"""

import h5py
import numpy as np

from keras_multiweight.packing.files.limits import EXPANSION, H5_OBJECTS, SMALL, UnsafeFileError

OPTIMIZER = "optimizer"  # beside the layers; in legacy files it lies outside of their group
KEPT_ATTRIBUTES = ("dtype", "name", "keras_version", "backend", "weight_names", "layer_names")
DIGITS = "0123456789"  # Keras cuts long lists of names into numbered attributes
FILTERS = {1, 2, 3}  # deflate, shuffle, fletcher32: those that are part of HDF5 itself
KINDS = "biufV"  # numbers, and V for bfloat16, which HDF5 does not know
TOP = "top_level_model_weights"
_LINKS = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "an external link"}


class Tensors:
    """The datasets below a group of an H5 file, checked one by one as they are asked for.

    Args:
        group: An open `h5py.Group`.
        path: The file that messages name.
    """

    def __init__(self, group, path):
        self.group = group
        self._path = path

    def below(self, name):
        """The tensors of a group in this one, if there is such a group."""
        return Tensors(self._child(self.group, name), self._path) if name in self.group else self

    def is_legacy(self):
        """Whether the weights lie in the order of Keras 2."""
        return "layer_names" in self.group.attrs or "layer_names0" in self.group.attrs

    def by_key(self):
        """`by_path` or `by_position`, as the file is."""
        return self.by_position() if self.is_legacy() else self.by_path()

    def by_path(self):
        """`{path: dataset}` in files of Keras 3. The state of an optimizer is left out, and not looked at."""
        names = self._names_below()
        groups = {name.rpartition("/")[0] for name in names}
        children = {name: self.group[name] for name in names if name not in groups}
        return {name: self._checked(x, name) for name, x in children.items() if not isinstance(x, h5py.Group)}

    def by_position(self):
        """`{"layer/weight": dataset}` with numbers for names, in legacy files, where the names of layers do not matter."""
        layers = [self._descend(self.group, name) for name in _names(self.group, "layer_names")]
        listed = [(layer, names) for layer in layers if (names := _names(layer, "weight_names"))]
        found = {f"{i}/{k}": (layer, name) for i, (layer, names) in enumerate(listed) for k, name in enumerate(names)}
        if TOP in self.group:
            top = self._child(self.group, TOP)
            found.update({f"top/{k}": (top, name) for k, name in enumerate(_names(top, "weight_names"))})
        return {key: self._checked(self._descend(layer, name), name) for key, (layer, name) in found.items()}

    def copy_to(self, target):
        """Write everything but the optimizer's state into another group, as plain datasets."""
        for name, dataset in self.by_path().items():
            self._check_size(dataset, name)
            target.create_dataset(name, data=dataset[()])
        names = self._names_below()
        copies = [target[name] if name in target else target.create_group(name) for name in names]
        for source, copy in zip([self.group, *(self.group[name] for name in names)], [target, *copies]):
            for key in source.attrs:
                if key.rstrip(DIGITS) in KEPT_ATTRIBUTES:
                    copy.attrs[key] = source.attrs[key]

    # ---- checks ----

    def _names_below(self):
        """The paths of all objects but an optimizer's, in HDF5's order: into each group once, and along no links."""
        names, links, seen = [], [], iter(range(H5_OBJECTS))
        skipped = None if self.is_legacy() else OPTIMIZER

        def visit(name, info):
            name = name.decode()
            if name.split("/")[0] != skipped:
                names.append(name)
                links.extend([info.type] if info.type != h5py.h5l.TYPE_HARD else [])
            return True if links or next(seen, None) is None else None  # anything but None ends the visit

        if self.group.id.links.visit(visit, info=True):
            received = _LINKS.get(links[0], "a user-defined link") if links else f"more than {H5_OBJECTS:,} objects"
            self._refuse(f"An H5 file may hold {H5_OBJECTS:,} objects, and no links to elsewhere.", received, names[-1])
        return names

    def _descend(self, group, name):
        for part in name.split("/"):
            group = self._child(group, part)
        return group

    def _child(self, group, name):
        kind = group.id.links.get_info(name.encode()).type
        if kind != h5py.h5l.TYPE_HARD:
            self._refuse("An H5 file may hold no links to elsewhere.", _LINKS.get(kind, "a user-defined link"), name)
        return group[name]

    def _checked(self, dataset, name):
        """A dataset whose numbers are in the file. Nothing of them is read yet."""
        if not isinstance(dataset, h5py.Dataset):
            self._refuse("A weight in an H5 file must be a dataset.", f"a {type(dataset).__name__}", name)
        creation = dataset.id.get_create_plist()
        if creation.get_layout() == h5py.h5d.VIRTUAL:
            self._refuse("A weight must be in its own file.", "a virtual dataset", name)
        if creation.get_external_count():
            self._refuse("A weight must be in its own file.", "a dataset whose bytes are in another file", name)
        if any(creation.get_filter(i)[0] not in FILTERS for i in range(creation.get_nfilters())):
            self._refuse("A weight must be stored plainly or by gzip.", "a dataset with another filter", name)
        if dataset.dtype.kind not in KINDS or dataset.dtype.hasobject or dataset.dtype.fields:
            self._refuse("A weight must be numbers.", f"dtype {dataset.dtype}", name)
        self._check_stored(dataset, name)
        return dataset

    def _check_stored(self, dataset, name):
        if dataset.size and not dataset.id.get_storage_size():
            self._refuse("A weight must have values.", f"shape {dataset.shape} of which nothing is stored", name)
        chunk = np.prod(dataset.chunks, dtype=object) * dataset.dtype.itemsize if dataset.chunks else 0
        if chunk > max(_size(dataset), SMALL):
            self._refuse("A chunk may not be larger than its dataset.", f"a chunk of {chunk:,} bytes", name)

    def _check_size(self, dataset, name):
        """For where no model says yet which shape to expect."""
        size, stored = _size(dataset), dataset.id.get_storage_size()
        if size > SMALL and size > EXPANSION * stored:
            must = f"A weight may expand to at most {EXPANSION} times its stored size."
            self._refuse(must, f"shape {dataset.shape} of {size:,} bytes, stored in {stored:,},", name)

    def _refuse(self, must, received, name):
        raise UnsafeFileError(self._path, must, f"{received} at '{name}'")


def _size(dataset):
    return int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize


def _names(group, key):
    """A list of names in an attribute, which Keras cuts into several when it is long."""
    if key in group.attrs:
        parts = [group.attrs[key]]
    else:
        parts = []
        while f"{key}{len(parts)}" in group.attrs:
            parts.append(group.attrs[f"{key}{len(parts)}"])
    return [name.decode() if isinstance(name, bytes) else str(name) for part in parts for name in part]
