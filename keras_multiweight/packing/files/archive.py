"""A `.keras` file, which is a zip archive: every name and size is checked before a byte is unpacked, and all in memory."""

import stat
import zipfile

from keras_multiweight.packing.files.limits import ARCHIVE_MEMBERS, EXPANSION, SMALL, UnsafeFileError

ASSETS = "assets/"


class Archive:
    """The files in an archive.

    Raises:
        UnsafeFileError: A name that leaves the archive or stands twice, a link, or more bytes than can be in there.
        zipfile.BadZipFile: Not an archive, or a part of one.
    """

    def __init__(self, path):
        self._path = path
        self._zip = zipfile.ZipFile(path)
        self._members = {}
        try:
            self._check_all()
        except UnsafeFileError:
            self.close()
            raise

    def close(self):
        self._zip.close()

    def __contains__(self, name):
        return name in self._members

    def read(self, name, limit=None):
        """One file as bytes. They are checked against the archive's checksum."""
        if name not in self._members:
            raise ValueError(f"The archive holds no '{name}', but {', '.join(self._members) or 'nothing'}.")
        size = self._members[name].file_size
        if limit is not None and size > limit:
            raise UnsafeFileError(self._path, f"'{name}' may have at most {limit:,} bytes.", f"{size:,} bytes")
        return self._zip.read(name)  # never more than the size that the archive declares

    def assets(self):
        """The files that layers keep beside their weights, such as vocabularies, by name."""
        return {name: self.read(name) for name in self._members if name.startswith(ASSETS) and not name.endswith("/")}

    def _check_all(self):
        infos = self._zip.infolist()
        if len(infos) > ARCHIVE_MEMBERS:
            must = f"An archive may hold at most {ARCHIVE_MEMBERS:,} files."
            raise UnsafeFileError(self._path, must, f"{len(infos):,} files")
        for info in infos:
            for must, is_wrong in _RULES.items():
                if is_wrong(info):
                    raise UnsafeFileError(self._path, must, _described(info))
            if info.filename in self._members:
                raise UnsafeFileError(self._path, "A name may stand in an archive once.", f"'{info.filename}' twice")
            self._members[info.filename] = info


def _leaves(info):
    parts = info.orig_filename.replace("\\", "/").split("/")
    return ".." in parts or not parts[0] or ":" in parts[0] or "\\" in info.orig_filename or "\0" in info.orig_filename


def _is_link(info):
    return stat.S_ISLNK(info.external_attr >> 16)


def _is_bomb(info):
    return info.file_size > SMALL and info.file_size > EXPANSION * info.compress_size


def _described(info):
    return f"'{info.orig_filename}' of {info.file_size:,} bytes, stored in {info.compress_size:,}"


_RULES = {
    "A file in an archive must have a plain path below it.": _leaves,
    "An archive may hold no links.": _is_link,
    f"A file in an archive may expand to at most {EXPANSION} times its stored size.": _is_bomb,
}
