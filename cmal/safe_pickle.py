"""Pickles from strangers, read without running anything of theirs.

Only pickles of plain values are read: numbers, texts, bytes, None, lists, tuples, dictionaries, sets. Every opcode is
looked at before anything is built: one that names a global other than a plain container ends the reading, as does one
whose memo number would make the reader reserve memory out of proportion to the file.
"""

from __future__ import annotations

import collections
import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

from cmal.errors import DataError

_PLAIN = {
    (module, name): kind
    for module in ("builtins", "__builtin__")
    for name, kind in {"set": set, "frozenset": frozenset, "list": list, "dict": dict, "tuple": tuple}.items()
}
_PLAIN["collections", "OrderedDict"] = collections.OrderedDict

_REFUSED = {"PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "BUILD", "NEXT_BUFFER", "READONLY_BUFFER"}
_MEMO = {"PUT", "BINPUT", "LONG_BINPUT"}


def load_plain_pickle(data: bytes, what: str) -> Any:
    """The value of a pickle of plain values, of any protocol and of Python 2 or 3.

    Python 2's byte texts are read as Latin-1, which keeps every byte.

    Args:
        data: the pickle.
        what: its name in the message, at best the path.

    Raises:
        DataError: the pickle names a global that is no plain container, or is no whole pickle.
    """
    try:
        _look_through(data)
        return _PlainUnpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:
        # a damaged pickle fails in many ways (EOFError, IndexError, TypeError, MemoryError, ...), all the same to the user
        if isinstance(error, _Refused):
            found = str(error)
            remedy = "get the file from its publisher; a pickle of plain lists and dictionaries is read"
        else:
            found, remedy = f"it is no whole pickle of plain values: {error}", "download the file again"
        raise DataError(f"cannot use the pickle {what}", found, remedy) from error


def read_plain_pickle(path: Path) -> Any:
    """`load_plain_pickle` of a file. Raises DataError also where the file cannot be read."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}", f"the system says: {error.strerror}", "check the path") from error
    return load_plain_pickle(data, str(path))


class _Refused(pickle.UnpicklingError):
    """Something that plain values do not need."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN:
            raise _Refused(f"it asks for {module}.{name}, which is no plain container; nothing was run")
        return _PLAIN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("it refers to objects outside the file; nothing was run")


def _look_through(data: bytes) -> None:
    """Raises _Refused at the first opcode that plain values do not need, before anything is built."""
    for count, (opcode, argument, place) in enumerate(pickletools.genops(data), start=1):
        if opcode.name == "GLOBAL" and tuple(argument.split(" ", 1)) not in _PLAIN:
            name = argument.replace(" ", ".", 1)
            raise _Refused(f"it asks for {name} at byte {place:,}, which is no plain container; nothing was run")
        if opcode.name in _REFUSED:
            raise _Refused(f"it holds the opcode {opcode.name} at byte {place:,}; nothing was run")
        if opcode.name in _MEMO and argument > count:
            raise _Refused(f"its memo number {argument:,} at byte {place:,} is larger than the pickle; nothing was run")
