"""The worst that POSIX allows at a power cut: of a tree of files only that is left which was flushed.

A file has the content that it had at its last fsync, or none; a directory has the entries that it had at its last fsync,
whatever became of them since. Real file systems are milder on most days. The product works on real files; only its
calls of fsync are heard, and what was there then is kept.
"""

from __future__ import annotations

import os
import shutil
import stat
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
        self._kept: dict[int, _Kept] = {}
        self._leave_out = leave_out
        monkeypatch.setattr(flushes, "LEAVE_OUT", str(leave_out))
        monkeypatch.setattr(os, "fsync", self._keep)
        ask, is_left_out = nbd.NbdClient._ask, flushes.left_out

        def asked(client: nbd.NbdClient, command: int, *words: Any) -> None:
            ask(client, command, *words)
            if command == nbd._FLUSH:
                self._keep_path(client._image)

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
            self._keep_path(Path(directory))
            for name in files:
                if not os.path.islink(os.path.join(directory, name)):
                    self._keep_path(Path(directory, name))

    def cut(self) -> None:
        """The power goes and comes back: what was not flushed is lost."""
        made = self.root.with_name(f"{self.root.name}.after")
        self._make(self.root.stat().st_ino, made, {})
        shutil.rmtree(self.root)
        made.rename(self.root)
        self.settle()

    def _keep_path(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._keep(descriptor)
        finally:
            os.close(descriptor)

    def _keep(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        place = f"/proc/self/fd/{descriptor}"
        before = self._kept.get(status.st_ino)
        held = before.descriptor if before is not None else os.open(place, os.O_PATH | os.O_CLOEXEC)
        kept = _Kept(held, stat.S_IMODE(status.st_mode), status.st_mtime_ns)
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(place) as found:
                kept.entries = {
                    entry.name: os.readlink(f"{place}/{entry.name}")
                    if entry.is_symlink()
                    else entry.stat(follow_symlinks=False).st_ino
                    for entry in found
                }
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
        elif kept.entries or stat.S_ISDIR(os.fstat(kept.descriptor).st_mode):
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
