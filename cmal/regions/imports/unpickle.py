"""Reading pickles without executing them: plain containers, text, numbers, bytes and numpy arrays of numbers, nothing else.

A pickle is a small program that may call any function it can name. Here the names it may use stand for functions of this
file; every other one is refused. Arrays are not rebuilt by numpy's own hooks, which trust their input, but from their
bytes, type and shape, all checked. (`cmal/io/safe_pickle.py` reads pickles of plain values, without arrays.)
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from cmal.io.safe_pickle import PlainReader, Refused

DEEPEST = 4  # containers in containers, as far as arrays in them are resolved


class PickleRefused(ValueError):
    """The pickle asks for something that is not admitted, or is damaged; the text says what."""


class _Type:
    """A numpy dtype on its way: booleans, integers, floats; or objects, which `numpy.save` wraps around a table."""

    def __init__(self, code: Any = None, *_: Any):
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(code, str) or not 2 <= len(code) <= 4 or np.dtype(code).kind not in "biufO":
            raise PickleRefused(f"an array of type {str(code)[:20]!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or any(state[2:5]):
            raise PickleRefused("an array type with parts")
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise PickleRefused("an array type of unknown byte order")
        if order in "<>":
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """A numpy array on its way: empty until its state comes. An array of objects stays a list."""

    def __init__(self) -> None:
        self.value: np.ndarray | list[Any] = np.zeros(0)

    @property
    def parts(self) -> list[Any]:
        """What an array of objects holds."""
        return self.value if isinstance(self.value, list) else []

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Type):
            raise PickleRefused("a damaged array")
        _, shape, kind, is_fortran, raw = state
        if kind.dtype.hasobject:
            if not isinstance(raw, list):
                raise PickleRefused("a damaged array")
            self.value = raw
            return
        self.value = _from_bytes(raw, kind, shape, "F" if is_fortran else "C")


def _from_bytes(raw: Any, kind: Any, shape: Any, order: str) -> np.ndarray:
    raw = raw.encode("latin1") if isinstance(raw, str) else raw  # Python 2 wrote bytes as text
    if (
        not isinstance(raw, bytes | bytearray)
        or not isinstance(kind, _Type)
        or kind.dtype.hasobject
        or order not in ("C", "F")
    ):
        raise PickleRefused("a damaged array")
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape) or len(shape) > 4:
        raise PickleRefused("a damaged array shape")
    if math.prod(shape) * kind.dtype.itemsize != len(raw):
        raise PickleRefused("an array whose bytes do not fit its shape")
    return np.frombuffer(bytes(raw), kind.dtype).reshape(shape, order=order)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _scalar(kind: Any, raw: Any = b"") -> Any:
    return _from_bytes(raw, kind, (), "C").item()


def _frombuffer(raw: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    return _from_bytes(raw, kind, shape, order)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise PickleRefused("an odd text encoding")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _array_type(*_: Any) -> Any:
    raise PickleRefused("numpy.ndarray made in an unusual way")


_NUMPY_HOOKS = {"_reconstruct": _reconstruct, "scalar": _scalar}
ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _array_type,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _no_bytes,
    ("__builtin__", "bytes"): _no_bytes,
}
for _package in ("numpy.core", "numpy._core"):
    ADMITTED.update({(f"{_package}.multiarray", name): hook for name, hook in _NUMPY_HOOKS.items()})
    ADMITTED[f"{_package}.numeric", "_frombuffer"] = _frombuffer


class _Reader(PlainReader):
    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(PlainReader.dispatch)

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Type | _Array):
            raise PickleRefused(f"a state for a {type(self.stack[-1]).__name__}")
        self.stack[-1].__setstate__(state)

    dispatch[pickle.BUILD[0]] = load_build


def unpickle(data: bytes) -> Any:
    """What a pickle of any protocol holds, if that is containers, text, numbers, bytes and arrays of numbers.

    Raises:
        PickleRefused: it names something else (the text says what), or it is damaged. Nothing has been executed then.
    """
    try:
        return _resolve(_Reader(data, ADMITTED).load(), DEEPEST)
    except (PickleRefused, Refused) as error:
        reason = str(error).removeprefix("it asks for ").removesuffix(", which is no plain container")
        raise PickleRefused(
            f"the pickle asks for {reason}; only containers, numbers, text and arrays are read"
        ) from None
    except Exception as error:  # damaged bytes raise nearly anything
        raise PickleRefused(f"the pickle is damaged: {type(error).__name__}: {error}") from None


def _resolve(value: Any, depth: int) -> Any:
    if isinstance(value, _Array):
        return _resolve(value.value, depth - 1) if isinstance(value.value, list) else value.value
    if isinstance(value, _Type):
        return value.dtype
    if depth > 0 and type(value) in (list, tuple):
        return type(value)(_resolve(part, depth - 1) for part in value)
    if depth > 0 and type(value) is dict:
        return {key: _resolve(part, depth - 1) for key, part in value.items()}
    return value
