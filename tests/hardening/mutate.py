"""Mutations of inputs: of bytes, and of the values that a format holds. All of them are drawn from a `random.Random`.

A *tree* is what a file holds once it is parsed: dicts, lists, tuples, scalars, numpy arrays, bytes. `Raw` text in a tree
goes into JSON and YAML as it stands, without quotes: numbers that no encoder would write, brackets without end.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


class Raw(str):
    """Text that stands in the file as it is."""


STRINGS = (
    "",
    " ",
    "0",
    "-1",
    "nan",
    "None",
    "a dog runs",
    "../../../etc/passwd",
    "/etc/passwd",
    "C:\\windows\\win.ini",
    "a" * 300 + ".jpg",
    "word " * 10_000,
    "\u202eright to left \u05d0\u05d1\u05d2 \u0627\u0644\u0639",
    "\N{DOG FACE}\N{ZERO WIDTH JOINER}\N{FIRE} \N{COMBINING ACUTE ACCENT}",
    "nul \0 inside",
    "\x1b]0;title\x07\x1b[2J\x9b31m",
    "<script>alert(1)</script>",
    "line\nend\r\n\u2028",
    "\ud800",
    "9" * 25,
)
NUMBERS = (
    *(0, 1, -1, 2, 7, 255, 32_767, 32_768, 65_536, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**62, 2**63, 2**64 + 1, 10**30),
    *(-(2**31) - 1, -(2**63) - 1, 0.5, -0.0, 1.5, -7.25, 1e-320, 1e9, 70_000.0, 3.5e38, 1.7e308, -1e308),
    *(math.nan, math.inf, -math.inf),
)
RAW = (
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-1e999",
        "9" * 5000,
        "-",
        "01",
        "1.",
        "tru",
        "null",
        '"\\ud800"',
        '"\\x"',
    ),
    *('"unfinished', "{", "]", ",", ":", "/* */", "'single'", '{"a": 1, "a": 2}', '"\\u0000"', "\x00", "\ufeff"),
)
ARRAY_TYPES = ("<f8", "<f2", ">f4", "<i4", "<i8", "<u1", "<u8", "?", "<c8", "S4", "U2", "M8[s]")


def wild(rng: random.Random, allows_raw: bool) -> Any:
    """A value that hardly belongs anywhere."""
    turn = rng.randrange(7 if allows_raw else 5)
    if turn == 0:
        return rng.choice(STRINGS)
    if turn == 1:
        return rng.choice(NUMBERS)
    if turn == 2:
        return rng.choice((None, True, False, [], {}, [[]], [None], {"": None}, [0] * 4, [1, 2, 3], ["a"] * 20))
    if turn == 3:
        return nested(rng.choice((3, 60, rng.randrange(100, 400))), rng.random() < 0.5)
    if turn == 4:
        return [rng.choice(NUMBERS) for _ in range(4)]
    if turn == 5:
        return Raw(rng.choice(RAW))
    depth = rng.choice((50, rng.randrange(300, 1100), rng.randrange(900, 1000), 20_000))
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
    return Raw(opening * depth + "1" + closing * (depth if rng.random() < 0.8 else 0))


def nested(depth: int, as_lists: bool) -> Any:
    """A value in so many containers."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if as_lists else {"a": value}
    return value


def mutate_bytes(rng: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """One mutation of a file's bytes; `other` gives pieces for splices."""
    out = bytearray(data)
    if not out:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(1, 40)))
    start = rng.randrange(len(out))
    stop = min(len(out), start + rng.choice((1, 2, 4, 8, 16, 64, 256, 1024)))
    turn = rng.randrange(12)
    if turn <= 1:
        out[start] ^= 1 << rng.randrange(8)
    elif turn == 2:
        for _ in range(rng.randrange(2, 12)):
            out[rng.randrange(len(out))] = rng.randrange(256)
    elif turn == 3:
        out[start] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 9, 10, 13, 34, 44, 91, 93, 123, 125))
    elif turn == 4:
        del out[start:]
    elif turn == 5:
        del out[start:stop]
    elif turn == 6:
        out[start:start] = out[start:stop] * rng.choice((1, 2, 50))
    elif turn == 7:
        piece = other or data
        place = rng.randrange(len(piece) + 1)
        out[start:stop] = piece[place : place + rng.randrange(1, 200)]
    elif turn == 8:
        out[start:stop] = bytes(stop - start)
    elif turn == 9:
        out[start : start + 4] = rng.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)).to_bytes(4, "little")
    elif turn == 10:
        out[start:start] = rng.choice(
            (b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\xc3\x28", b'"', b"\t", b"1e999")
        )
    else:
        digits = [place for place, byte in enumerate(out) if 48 <= byte <= 57]
        if digits:
            out[rng.choice(digits)] = rng.choice(b"0123456789-.eE")
    return bytes(out)


def places_of(tree: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all nodes below the root, depth first."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    for key, value in items:
        yield (*path, key)
        if len(path) < 12:
            yield from places_of(value, (*path, key))


def at(tree: Any, path: tuple) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def changed(tree: Any, path: tuple, change: Callable[[Any], Any]) -> Any:
    """The tree with `change(node)` at a path; containers on the way are copied."""
    if not path:
        return change(tree)
    key, *rest = path
    if isinstance(tree, dict):
        return {k: changed(v, tuple(rest), change) if k == key else v for k, v in tree.items()}
    return type(tree)(changed(v, tuple(rest), change) if k == key else v for k, v in enumerate(tree))


def mutate_tree(rng: random.Random, tree: Any, allows_raw: bool = False) -> Any:
    """One mutation of a parsed value."""
    places = list(places_of(tree))
    if not places or rng.random() < 0.01:
        return wild(rng, allows_raw)
    path = rng.choice(places)
    node, turn = at(tree, path), rng.randrange(10)
    if turn <= 3:
        return changed(tree, path, lambda node: mutate_leaf(rng, node, allows_raw))
    if turn == 4:
        return changed(tree, path, lambda _: wild(rng, allows_raw))
    if turn == 5:
        return changed(tree, path[:-1], lambda parent: _without(parent, path[-1]))
    if turn == 6:
        return changed(tree, path[:-1], lambda parent: _twice(rng, parent, path[-1]))
    if turn == 7:
        return changed(tree, path, lambda _: at(tree, rng.choice(places)))
    if turn == 8:
        return changed(tree, path, lambda node: _shuffled(rng, node))
    return changed(tree, path[:-1], lambda parent: _renamed(rng, parent, path[-1], node))


def _without(parent: Any, key: Any) -> Any:
    if isinstance(parent, dict):
        return {k: v for k, v in parent.items() if k != key}
    return type(parent)(v for k, v in enumerate(parent) if k != key)


def _twice(rng: random.Random, parent: Any, key: Any) -> Any:
    if isinstance(parent, dict):
        return {**parent, rng.choice(list(parent)): parent[key]}
    return type(parent)([*parent, *[parent[key]] * rng.choice((1, 1, 5))])


def _shuffled(rng: random.Random, node: Any) -> Any:
    if isinstance(node, list | tuple):
        values = list(node)
        rng.shuffle(values)
        return type(node)(values if rng.random() < 0.5 else list(node)[::-1])
    if isinstance(node, dict):
        keys = list(node)
        rng.shuffle(keys)
        return {key: value for key, value in zip(keys, node.values())}
    return mutate_leaf(rng, node, False)


def _renamed(rng: random.Random, parent: Any, key: Any, node: Any) -> Any:
    if not isinstance(parent, dict):
        return type(parent)([*parent, rng.choice(NUMBERS)])
    name = rng.choice((f"{key}s", str(key).upper(), "", "id", *STRINGS[7:16], 5))
    return {name if k == key else k: v for k, v in parent.items()}


def mutate_leaf(rng: random.Random, node: Any, allows_raw: bool) -> Any:
    """Another value of about the same kind."""
    if isinstance(node, np.ndarray):
        return mutate_array(rng, node)
    if isinstance(node, bool) or node is None:
        return rng.choice((True, False, None, "True", 1))
    if isinstance(node, int | float):
        return rng.choice(
            (-node, node * 1000, node + 1, node - 1, float(node), str(node), node / 3, *[rng.choice(NUMBERS)] * 4)
        )
    if isinstance(node, bytes):
        return mutate_bytes(rng, node)
    if isinstance(node, str):
        if rng.random() < 0.6:
            return rng.choice(STRINGS)
        return mutate_bytes(rng, node.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
    if isinstance(node, list | tuple) and node and rng.random() < 0.5:
        return type(node)([*node[:-1], mutate_leaf(rng, node[-1], allows_raw)])
    return wild(rng, allows_raw)


def mutate_array(rng: random.Random, array: np.ndarray) -> np.ndarray:
    """A numpy array with other numbers, another type or another shape."""
    out, turn = np.array(array), rng.randrange(12)
    if turn <= 4 and out.size and out.dtype.kind in "fiu":
        value = rng.choice(NUMBERS)
        with np.errstate(all="ignore"):
            if out.dtype.kind == "f":
                out.flat[rng.randrange(out.size)] = np.float64(value).astype(out.dtype)
            else:
                bounds = np.iinfo(out.dtype)
                whole = int(value) if math.isfinite(value) else bounds.max
                out.flat[rng.randrange(out.size)] = min(max(whole, bounds.min), bounds.max)
        return out
    if turn == 5:
        with np.errstate(all="ignore"):
            return out.astype(rng.choice(ARRAY_TYPES))
    if turn == 6:
        return out.reshape(-1) if rng.random() < 0.5 else out[None]
    if turn == 7:
        return out.T
    if turn == 8:
        return out[: rng.randrange(len(out) + 1)] if out.ndim else out
    if turn == 9:
        return np.concatenate([out, out]) if out.ndim else out
    if turn == 10:
        return out[..., ::-1]  # x2 y2 become x1 y1
    return out[..., : rng.randrange(out.shape[-1] + 1)] if out.ndim else np.zeros(3)
