"""The worst that POSIX allows at a power cut: of a tree of files only that is left which was flushed.

A file has the content that it had at its last fsync, or none; a directory has the entries that it had at its last
fsync, or one of the later ones too, whichever. Real file systems are milder on most days.
The product works on real files; only its calls of fsync are heard, and what was there then is kept.
"""

from __future__ import annotations

import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from thinsync_virt import flushes
from thinsync_virt.system import nbd


@dataclass
class _Kept:
    """What is stable of an inode. The descriptor keeps its number from being used again."""

    descriptor: int
    mode: int
    changed_ns: int
    content: bytes = b""
    entries: dict[str, int | str] = field(default_factory=dict)
    """Inode numbers, and of symbolic links where they lead."""


class WorstCase:
    """Stable storage beneath ``root``; what is there at the beginning is on it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, leave_out: Path) -> None:
        self.root = root
        self.left_out = 0
        """How many flushes were not done, since :meth:`leave_out` was called last."""
        self.before_flush: Callable[[], object] = lambda: None
        self._kept: dict[int, _Kept] = {}
        self._seen: dict[int, tuple[str, dict[str, int | str]]] = {}
        self._leave_out = leave_out
        monkeypatch.setattr(flushes, "LEAVE_OUT", str(leave_out))
        monkeypatch.setattr(os, "fsync", self._flushed)
        ask, is_left_out = nbd.NbdClient._ask, flushes.left_out

        def asked(client: nbd.NbdClient, command: int, *words: Any) -> None:
            ask(client, command, *words)
            if command == nbd._FLUSH:
                self.before_flush()
                self.keep_path(client._image)

        def counted() -> bool:
            found = is_left_out()
            self.left_out += found
            return found

        monkeypatch.setattr(nbd.NbdClient, "_ask", asked)
        monkeypatch.setattr(nbd, "left_out", counted)
        monkeypatch.setattr(flushes, "left_out", counted)
        self.settle()

    def close(self) -> None:
        for kept in self._kept.values():
            os.close(kept.descriptor)
        self._kept.clear()

    def leave_out(self, *lines: str) -> None:
        """These flushes are not done any more; without any, all are."""
        self._leave_out.write_text("\n".join(lines))
        self.left_out = 0

    def settle(self) -> None:
        """All that is there is on stable storage."""
        self.close()
        for directory, _, files in os.walk(self.root):
            self.keep_path(Path(directory))
            for name in files:
                if not os.path.islink(os.path.join(directory, name)):
                    self.keep_path(Path(directory, name))

    def freeze(self) -> None:
        """The power goes now: what the process does after this moment is not done."""
        self._seen = {}
        for directory, _, _ in os.walk(self.root):
            self._seen[os.lstat(directory).st_ino] = (directory, _entries(directory))

    def survivors(self) -> int:
        """In how many ways one change of a directory that was not flushed may have survived at the last freeze."""
        return sum(1 for _ in self._changes())

    def cut(self, survivor: int | None = None) -> None:
        """The power comes back: what was not flushed before the freeze is lost, but for one change of a directory."""
        if survivor is not None:
            inode, name, entry = next(itertools.islice(self._changes(), survivor, None))
            if inode not in self._kept:
                held = os.open(self._seen[inode][0], os.O_PATH | os.O_CLOEXEC)
                self._kept[inode] = _Kept(held, 0o700, 0)
            kept = self._kept[inode]
            entries = dict(kept.entries)
            entries.pop(name, None)
            if entry is not None:
                entries[name] = entry
            kept.entries = entries
        made = self.root.with_name(f"{self.root.name}.after")
        self._make(self.root.stat().st_ino, made, {})
        shutil.rmtree(self.root)
        made.rename(self.root)
        self.settle()

    def _changes(self) -> Iterator[tuple[int, str, int | str | None]]:
        """Directory, name, and what it stands for now: all that is not stable yet."""
        for inode, (_, now) in self._seen.items():
            kept = self._kept.get(inode)
            before = kept.entries if kept is not None else {}
            for name in sorted(before.keys() | now.keys()):
                if before.get(name) != now.get(name):
                    yield inode, name, now.get(name)

    def keep_path(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._keep(descriptor)
        finally:
            os.close(descriptor)

    def _flushed(self, descriptor: int) -> None:
        self.before_flush()
        self._keep(descriptor)

    def _keep(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        place = f"/proc/self/fd/{descriptor}"
        before = self._kept.get(status.st_ino)
        held = before.descriptor if before is not None else os.open(place, os.O_PATH | os.O_CLOEXEC)
        kept = _Kept(held, stat.S_IMODE(status.st_mode), status.st_mtime_ns)
        if stat.S_ISDIR(status.st_mode):
            kept.entries = _entries(place)
        else:
            with open(place, "rb") as file:
                kept.content = file.read()
        self._kept[status.st_ino] = kept

    def _make(self, inode: int, path: Path, made: dict[int, Path]) -> None:
        kept = self._kept.get(inode)
        if inode in made:
            os.link(made[inode], path)
        elif kept is None and stat.S_ISDIR(self._mode_now(inode)):
            path.mkdir(mode=0o700)
        elif kept is None:
            made[inode] = path
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        elif stat.S_ISDIR(os.fstat(kept.descriptor).st_mode):
            path.mkdir(mode=kept.mode)
            for name, entry in kept.entries.items():
                if isinstance(entry, str):
                    (path / name).symlink_to(entry)
                else:
                    self._make(entry, path / name, made)
        else:
            made[inode] = path
            path.write_bytes(kept.content)
            path.chmod(kept.mode)
            os.utime(path, ns=(kept.changed_ns, kept.changed_ns))

    def _mode_now(self, inode: int) -> int:
        """Of what was never flushed itself, though the directory that names it was."""
        for directory, names, files in os.walk(self.root):
            for name in (*names, *files):
                status = os.lstat(os.path.join(directory, name))
                if status.st_ino == inode:
                    return status.st_mode
        return stat.S_IFREG


def _entries(directory: str) -> dict[str, int | str]:
    with os.scandir(directory) as found:
        return {
            entry.name: os.readlink(entry.path) if entry.is_symlink() else entry.inode() for entry in found
        }
