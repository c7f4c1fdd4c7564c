"""Untrusted pickles: containers, numbers, text, bytes and numpy arrays of numbers, and no call of foreign code.

A pickle is a small program that may call every function it can name. `find_class` knows an allow-list of names; all others
are refused. numpy's own hooks trust their input, so arrays are built here from bytes, type and shape, all checked.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cmal.errors import DataError
from cmal.io.isolated import run_isolated

MAX_DEPTH = 60  # containers in containers
VALUES_PER_BYTE = 16  # a shared part counts each time it occurs
MAX_INTEGER_BITS = 512


class PickleRefused(ValueError):
    """The pickle is damaged, or holds something that is not allowed; the text says what."""


def read_pickle(path: Path) -> Any:
    """The value of a pickle file; see `unpickle`. Runs in a child process with limited memory and time.

    Raises:
        DataError: the file cannot be read, is refused, or needs too much memory or time.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}", f"the system says: {error.strerror}", "check the path") from error
    try:
        return run_isolated(path, lambda: unpickle(data), seconds=2 + (len(data) >> 20))
    except PickleRefused as error:
        raise DataError(
            f"cannot use the pickle {path}",
            str(error),
            "get the file from its publisher; a pickle of plain lists and dictionaries is read",
        ) from None


def unpickle(data: bytes) -> Any:
    """The value of a pickle of any protocol, of Python 2 or 3. Call it in a child process (see `isolated.py`).

    Python 2's byte texts are read as Latin-1, which keeps every byte. An ordered dictionary becomes a dictionary, an array
    of objects a list.

    Raises:
        PickleRefused: the pickle names something else, stands for far more values than it has bytes, or is damaged.
    """
    try:
        return _Unfolding(VALUES_PER_BYTE * len(data) + 1000).copy(
            _Unpickler(io.BytesIO(data), encoding="latin1").load()
        )
    except PickleRefused as error:
        raise PickleRefused(f"the pickle {error}; nothing was run") from None
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes raise nearly anything
        raise PickleRefused(f"the pickle is damaged: {type(error).__name__}: {error}; nothing was run") from None


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise PickleRefused(f"asks for {module}.{name}, which is no plain container")
        return _ALLOWED[module, name]

    def persistent_load(self, number: Any) -> Any:
        raise PickleRefused("asks for an object outside of it")


class _Unfolding:
    """Copies a value without sharing between its parts, so that its size is what it seems.

    Args:
        budget: how many values it may have.
    """

    def __init__(self, budget: int):
        self.budget = budget

    def copy(self, value: Any, depth: int = 0) -> Any:
        self.budget -= 1
        if self.budget < 0:
            raise PickleRefused("unfolds to far more values than it has bytes")
        if depth > MAX_DEPTH:
            raise PickleRefused(f"refers to itself, or is more than {MAX_DEPTH} containers deep")
        if value is None or isinstance(value, str | bytes | float):
            return value
        if isinstance(value, int):
            if value.bit_length() > MAX_INTEGER_BITS:
                raise PickleRefused(f"holds a number of {value.bit_length():,} bits")
            return value
        if isinstance(value, dict):
            return {self.copy(key, depth + 1): self.copy(part, depth + 1) for key, part in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return type(value)([self.copy(part, depth + 1) for part in value])
        if isinstance(value, _Array):
            return value.value if isinstance(value.value, np.ndarray) else self.copy(value.value, depth + 1)
        if isinstance(value, _Type):
            return value.dtype
        raise PickleRefused(f"holds a {type(value).__name__}")


class _Type:
    """Stands for a numpy dtype while it is built: booleans, integers, floats, or objects as `numpy.save` wraps a table."""

    def __init__(self, code: Any = None, *_: Any):
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(code, str) or not 2 <= len(code) <= 4 or np.dtype(code).kind not in "biufO":
            raise PickleRefused(f"holds an array of type {str(code)[:20]!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or any(state[2:5]):
            raise PickleRefused("holds an array type with parts")
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder("<" if order == "<" else ">")
        elif order not in ("|", "="):
            raise PickleRefused("holds an array type of unknown byte order")


class _Array:
    """Stands for a numpy array while it is built. An array of objects becomes a list."""

    def __init__(self, value: np.ndarray | list[Any] | None = None):
        self.value: np.ndarray | list[Any] = np.zeros(0) if value is None else value

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, raw = state
        is_table = isinstance(kind, _Type) and kind.dtype.hasobject and isinstance(raw, list)
        self.value = raw if is_table else _from_bytes(raw, kind, shape, "F" if is_fortran else "C")


def _from_bytes(raw: Any, kind: Any, shape: Any, order: str) -> np.ndarray:
    raw = raw.encode("latin1") if isinstance(raw, str) else raw  # Python 2 wrote bytes as text
    if not isinstance(raw, bytes | bytearray) or not isinstance(kind, _Type) or kind.dtype.hasobject:
        raise PickleRefused("holds a damaged array")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 4:
        raise PickleRefused("holds a damaged array shape")
    if math.prod(shape) * kind.dtype.itemsize != len(raw):
        raise PickleRefused("holds an array whose bytes do not fit its shape")
    return np.frombuffer(bytes(raw), kind.dtype).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise PickleRefused("holds text in an odd encoding")
    return text.encode("latin1")


class _Hook:
    """A function a pickle may call. Unlike a plain function it has no attributes that a pickle could set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise PickleRefused("sets the state of a function")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("numpy", "dtype"): _Hook(_Type),
    ("numpy", "ndarray"): _Hook(lambda: _Array()),  # named by every array, never called with a shape
    ("_codecs", "encode"): _Hook(_encode),
}
for _module in ("builtins", "__builtin__"):
    _ALLOWED.update({(_module, kind.__name__): kind for kind in (list, tuple, dict, set, frozenset)})
    _ALLOWED[_module, "bytes"] = _Hook(lambda: b"")  # empty bytes, as protocol 2 writes them
for _package in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_package}.multiarray", "_reconstruct"] = _Hook(lambda *_: _Array())
    _ALLOWED[f"{_package}.multiarray", "scalar"] = _Hook(lambda kind, raw: _from_bytes(raw, kind, (), "C").item())
    _ALLOWED[f"{_package}.numeric", "_frombuffer"] = _Hook(lambda *parts: _Array(_from_bytes(*parts)))
