"""Atomic writing (a file is complete or absent), hashing, and small JSON files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmal.errors import CmalError, DataError, system_word


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Context manager: a temporary path beside `path`. If the block succeeds, the file is fsynced and renamed to `path`.

    A failed or killed block leaves `path` as it was. A temporary file that a kill left behind is named `.NAME.*.tmp`.

    Raises:
        CmalError: the disk is full or the folder cannot be written (from the block's OSError).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def cannot_write(path: Path | str, error: OSError) -> CmalError:
    """A CmalError for an OSError that came up in writing: disk full, no permission and the like."""
    return CmalError(
        f"cannot write {path}",
        f"the system says: {system_word(error)}",
        "free some space or choose another folder, then run the same command again",
    )


def remove_left_overs(folder: Path, name: str = "*") -> None:
    """Removes temporary files that killed writers of `name` left in a folder; the caller holds the folder's lock."""
    for path in Path(folder).glob(f".{name}.*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes a small text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Writes a small JSON file atomically, indented, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        DataError: the file is missing, cannot be read, or is not JSON (with the line).
    """
    path = Path(path)
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}", f"the system says: {error.strerror}", "check the path") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}", f"it is not JSON: {error}", "download or make the file again") from error


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
