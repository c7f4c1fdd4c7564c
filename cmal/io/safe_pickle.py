"""Pickles from strangers, read without running anything of theirs.

A pickle is a small program. Here it may build plain values alone: numbers, texts, bytes, None, lists, tuples, dictionaries,
sets. What it names stands for functions of this file, every other name is refused; so is what would keep the reader busy
or fill the memory out of proportion to the file: values that refer to their own parts over and over (a kilobyte can stand
for more values than there are atoms), endless numbers, and tuples of tuples as keys, whose hashes cost as much.
`cmal/regions/imports/unpickle.py` adds numpy's arrays.
"""

from __future__ import annotations

import collections
import io
import pickle
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from cmal.errors import DataError

DEEPEST = 60  # containers in containers
MAX_SHARING = 16  # values for each byte of the file, parts that come several times counted as often
LARGEST_NUMBER_BYTES = 64
LARGEST_KEY = 64  # parts of a tuple that is a key

_SCALARS = (str, bytes, int, float, bool, type(None))
_REFUSED = "PERSID BINPERSID EXT1 EXT2 EXT4 INST OBJ BUILD NEXT_BUFFER READONLY_BUFFER DUP NEWOBJ NEWOBJ_EX".split()


def load_plain_pickle(data: bytes, what: str) -> Any:
    """The value of a pickle of plain values, of any protocol and of Python 2 or 3.

    Python 2's byte texts are read as Latin-1, which keeps every byte.

    Args:
        data: the pickle.
        what: its name in the message, at best the path.

    Raises:
        DataError: the pickle names a global that is no plain container, unfolds out of proportion, or is no whole pickle.
    """
    try:
        return PlainReader(data).load()
    except Exception as error:
        # a damaged pickle fails in many ways (EOFError, IndexError, TypeError, MemoryError, ...), all the same to the user
        if isinstance(error, Refused):
            found = f"{error}; nothing was run"
            hint = "get the file from its publisher; a pickle of plain lists and dictionaries is read"
        else:
            found, hint = f"it is no whole pickle of plain values: {error}", "download the file again"
        raise DataError(f"cannot use the pickle {what}", found, hint) from error


def read_plain_pickle(path: Path) -> Any:
    """`load_plain_pickle` of a file. Raises DataError also where the file cannot be read."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}", f"the system says: {error.strerror}", "check the path") from error
    return load_plain_pickle(data, str(path))


class Refused(pickle.UnpicklingError):
    """Something that plain values do not need; the text says what."""


class PlainReader(pickle._Unpickler):  # the one in Python: the one in C can be made to fill the memory with empty slots
    """Reads one pickle of plain values.

    Args:
        data: the pickle.
        admitted: what further names stand for.
    """

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, data: bytes, admitted: Mapping[tuple[str, str], Callable[..., Any]] | None = None):
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._most = MAX_SHARING * len(data) + 1000
        self._nested: dict[int, tuple[tuple, int]] = {}  # tuples that hold tuples, by id: themselves, and their size
        kinds = {"set": self._set, "frozenset": self._frozenset, "list": list, "dict": self._dict, "tuple": self._tuple}
        self._admitted = {
            (module, name): kind for module in ("builtins", "__builtin__") for name, kind in kinds.items()
        }
        self._admitted |= {("collections", "OrderedDict"): self._ordered, **(admitted or {})}

    def load(self) -> Any:
        """The value. Raises Refused, or whatever a damaged pickle raises."""
        value = super().load()
        _check_unfolded(value, self._most)
        return value

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._admitted[module, name]
        except (KeyError, TypeError):
            raise Refused(f"it asks for {module}.{name}, which is no plain container") from None

    def _tuple(self, items: Iterable[Any] = ()) -> tuple:
        """A tuple, whose size is noted where it holds tuples."""
        made = tuple(items)
        if any(type(item) is tuple for item in made):
            size = 1 + sum(self._size(item) for item in made)
            if size > self._most:
                raise Refused("its tuples refer to their own parts too often")
            self._nested[id(made)] = (made, size)
        return made

    def _size(self, value: Any) -> int:
        if type(value) is not tuple:
            return 1
        return self._nested[id(value)][1] if id(value) in self._nested else len(value) + 1

    def _key(self, value: Any) -> Any:
        """The value, if it is quick to hash."""
        if type(value) in _SCALARS or isinstance(value, frozenset) or self._size(value) <= LARGEST_KEY:
            return value
        raise Refused("a key is a large tuple")

    def _set(self, items: Iterable[Any] = ()) -> set:
        return {self._key(item) for item in items}

    def _frozenset(self, items: Iterable[Any] = ()) -> frozenset:
        return frozenset(self._key(item) for item in items)

    def _dict(self, items: Iterable[Any] = ()) -> dict:
        return {self._key(key): value for key, value in (items.items() if isinstance(items, dict) else items)}

    def _ordered(self, items: Iterable[Any] = ()) -> collections.OrderedDict:
        return collections.OrderedDict(self._dict(items))

    def _load_tuple(self) -> None:
        items = self.pop_mark()  # first: it also puts another `append` in place
        self.append(self._tuple(items))

    def _load_last(self, count: int) -> None:
        items = [self.stack.pop() for _ in range(count)][::-1]
        self.append(self._tuple(items))

    def _load_dict(self) -> None:
        items = self.pop_mark()
        self.append({self._key(key): value for key, value in zip(items[::2], items[1::2], strict=True)})

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._container(dict)[self._key(key)] = value

    def _load_setitems(self) -> None:
        items = self.pop_mark()
        table = self._container(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            table[self._key(key)] = value

    def _load_additems(self) -> None:
        items = self.pop_mark()
        self._container(set).update(self._key(item) for item in items)

    def _load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(self._frozenset(items))

    def _load_append(self) -> None:
        value = self.stack.pop()
        self._container(list).append(value)

    def _load_appends(self) -> None:
        items = self.pop_mark()
        self._container(list).extend(items)

    def _container(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise Refused(f"it adds to a {type(self.stack[-1]).__name__} as to a {kind.__name__}")
        return self.stack[-1]

    def _load_long4(self) -> None:
        size = struct.unpack("<i", self.read(4))[0]
        if not 0 <= size <= LARGEST_NUMBER_BYTES:
            raise Refused(f"it holds a number of {size:,} bytes")
        self.append(pickle.decode_long(self.read(size)))

    dispatch.update(
        {
            pickle.TUPLE[0]: _load_tuple,
            pickle.TUPLE1[0]: lambda self: self._load_last(1),
            pickle.TUPLE2[0]: lambda self: self._load_last(2),
            pickle.TUPLE3[0]: lambda self: self._load_last(3),
            pickle.DICT[0]: _load_dict,
            pickle.SETITEM[0]: _load_setitem,
            pickle.SETITEMS[0]: _load_setitems,
            pickle.ADDITEMS[0]: _load_additems,
            pickle.FROZENSET[0]: _load_frozenset,
            pickle.APPEND[0]: _load_append,
            pickle.APPENDS[0]: _load_appends,
            pickle.LONG4[0]: _load_long4,
        }
    )


def _refuse(name: str) -> Callable[[Any], None]:
    def refuse(reader: Any) -> None:
        raise Refused(f"it holds the opcode {name}")

    return refuse


PlainReader.dispatch.update({getattr(pickle, name)[0]: _refuse(name) for name in _REFUSED})


def _parts(value: Any) -> Iterable[Any]:
    """What a container holds; nothing for anything else."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list | tuple | set | frozenset) else getattr(value, "parts", ())


def _check_unfolded(value: Any, most: int) -> None:
    """Raises Refused where a value holds itself, is too deep, or has more parts than `most`, each counted where it comes."""
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def size_of(value: Any, depth: int) -> int:
        if type(value) in _SCALARS:
            return 1
        if id(value) in above or depth > DEEPEST:
            raise Refused("it refers to itself" if id(value) in above else f"it is more than {DEEPEST} containers deep")
        if id(value) not in sizes:
            above.add(id(value))
            sizes[id(value)] = 1 + sum(size_of(part, depth + 1) for part in _parts(value))
            above.discard(id(value))
            if sizes[id(value)] > most:
                raise Refused(f"it unfolds to more than {most:,} values")
        return sizes[id(value)]

    size_of(value, 0)
