"""The cache: each entry is a directory named after a digest of its recipe, built aside and renamed into place."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from thinlab.process import say

FILES = Path(__file__).resolve().parent.parent / "files"


def cache_directory() -> Path:
    """``THINSYNC_LAB_CACHE``, or ``~/.cache/thinsync-lab``."""
    configured = os.environ.get("THINSYNC_LAB_CACHE")
    return Path(configured).resolve() if configured else Path.home() / ".cache" / "thinsync-lab"


def digest_of(*parts: str | Path) -> str:
    """A short digest over strings, files and whole directories (names, modes and contents)."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            total.update(part.encode() + b"\0")
            continue
        for path in sorted(p for p in ([part] if part.is_file() else part.rglob("*")) if p.is_file()):
            executable = bool(path.stat().st_mode & 0o100)
            total.update(
                f"{path.name}\0{path.relative_to(part) if path != part else ''}\0{executable}\0".encode()
            )
            total.update(path.read_bytes())
    return total.hexdigest()[:12]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path``; say so when somebody else has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another lab command (lock {path})")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def built(name: str, build: Callable[[Path], None]) -> Path:
    """Return the entry ``name``; if it is not there, have ``build`` fill a new directory and rename it."""
    root = cache_directory()
    entry = root / name
    if entry.is_dir():
        return entry
    with locked(root / f"{name}.lock"):
        if entry.is_dir():
            return entry
        partial = root / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        build(partial)
        partial.rename(entry)
    return entry


def prune(keep: int = 2) -> list[Path]:
    """Remove entries that no mount, process or lab (running or not) uses, but the ``keep`` youngest of each kind."""
    in_use = Path("/proc/mounts").read_text()
    for link in _labs().glob("*"):
        if link.exists():
            in_use += link.read_text()
        else:
            link.unlink()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            in_use += process.read_text(errors="replace")
    kinds: dict[str, list[Path]] = {}
    for entry in cache_directory().glob("*-????????????"):
        if entry.is_dir():
            kinds.setdefault(entry.name.rpartition("-")[0], []).append(entry)
    old = [
        path for paths in kinds.values() for path in sorted(paths, key=_age)[keep:] if path.name not in in_use
    ]
    for path in old:
        shutil.rmtree(path)
    return old


def register(tag: str, settings: Path) -> None:
    """Note that the lab described by the file ``settings`` uses this cache."""
    _labs().mkdir(parents=True, exist_ok=True)
    link = _labs() / tag
    link.unlink(missing_ok=True)
    link.symlink_to(settings)


def _labs() -> Path:
    return cache_directory() / "labs"


def _age(path: Path) -> float:
    return -path.stat().st_mtime
