"""A point on its way that is made of a damaged one: what is equal is there already, and only what differs is sent.

To the damaged point nothing is written. Digests are taken of what was made and never of the damaged file: what
somebody writes to that meanwhile is not missed. What cannot be read is given up first, a granule at a time: then it
differs, comes anew, and is not read again to make a copy of the rest of its block or cluster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from thinsync_virt.endpoint.proof import FINE_BLOCKS, MAX_WINDOW, bitmap
from thinsync_virt.endpoint.target.hints import CHANGED_SINCE
from thinsync_virt.endpoint.target.keeping import passes
from thinsync_virt.endpoint.target.stores.directory import DomainFolder
from thinsync_virt.endpoint.target.stores.keeper import GRANULE, Chain, Keeper, Seed, Sower, Sown
from thinsync_virt.endpoint.target.stores.plain import failing, is_there, remove_tree
from thinsync_virt.endpoint.target.stores.records import PointRecord
from thinsync_virt.endpoint.target.stores.sown import SEED, find_sown, newest_damaged, write_seed
from thinsync_virt.errors import (
    Code,
    ConflictError,
    NotFoundError,
    PoolError,
    StreamError,
    ThinsyncError,
    UsageError,
)
from thinsync_virt.model.extents import Extent, ExtentKind
from thinsync_virt.model.names import check_disk_target
from thinsync_virt.model.points import RecoveryPoint
from thinsync_virt.system.files import sync_directory
from thinsync_virt.system.steps import reached
from thinsync_virt.units import align_down

_UNREADABLE = (Code.POOL, Code.TOOL)
"""What a file system says of a file, and QEMU's tools of an image, that cannot be read."""


class StoreSeeding:
    """What one session makes of damaged points. Close it before anything is written to: it keeps files open."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._directories: dict[str, Path] = {}
        self._open: dict[tuple[str, str], Sown] = {}
        self.sown: dict[str, Seed] = {}
        """What was made in this session, by the id of the point that is to come."""

    def look(self, folder: DomainFolder | None, seeds: Mapping[str, str]) -> dict[str, int]:
        """Bytes that the copies take at once, by disk: none, they share what is equal.

        ``seeds`` are paths, by disk. Raises UsageError for what is none of a damaged point, or a kind of store that
        makes nothing of one; PoolError for a file of which nothing can be made.
        """
        self._find(folder, seeds)
        return dict.fromkeys(seeds, 0)

    def _find(
        self, folder: DomainFolder | None, seeds: Mapping[str, str]
    ) -> tuple[Sower, PointRecord, dict[str, Chain]]:
        point = newest_damaged(folder) if folder is not None else None
        sower = self._keeper.sower
        if sower is None:
            raise UsageError(
                "a stream file is not made of another one",
                hint="leave --seed out; a full copy takes the place of what is damaged",
            )
        chains: dict[str, Chain] = {}
        for target, text in seeds.items():
            disk = point.disk(check_disk_target(target)) if point is not None else None
            if folder is None or point is None or disk is None or str(folder.file(point, disk)) != text:
                raise UsageError(
                    "a directory makes no copy of anything but its own newest damaged point",
                    hint="leave --seed out; or replicate to thin pools: --to HOST",
                )
            chains[target] = folder.chain(point, target)
            sower.check(folder, chains[target])
        if point is None:
            raise UsageError("there is nothing to make a copy of", hint="leave --seed out")
        return sower, point, chains

    def sow(self, folder: DomainFolder, point: RecoveryPoint, seeds: Mapping[str, str]) -> None:
        """Make the disks of ``point`` that have a seed, or go on with what an interrupted transfer left of them.

        What can never go on leaves nothing of them. Raises ThinsyncError.
        """
        self.forget()
        sower, damaged, chains = self._find(folder, seeds)
        sizes = {disk.target: disk.size for disk in point.disks}
        if not seeds.keys() <= sizes.keys():
            raise StreamError("there are seeds of disks that the point does not have", retry=False)
        if folder.record.point(point.id) is not None:
            raise ConflictError(f"point {point.id} is here already", hint=CHANGED_SINCE)
        directory = folder.incoming_path(point.id)
        with self._removing(directory):
            states = _states(folder, chains.values()) if self._keeper.chained else {}
            files = {target: folder.file(*chain[0]) for target, chain in chains.items()}
            names = {sower.path(directory, target).name for target in seeds}
            _make_directory(folder, directory, {SEED, *names})
            for target, seed in files.items():
                _make(sower, sower.path(directory, target), sizes[target], seed)
            # The names of all of them are on stable storage with it.
            write_seed(directory, damaged.id)
            reached("seeds sown")
        self._directories[point.id] = directory
        self.sown[point.id] = Seed(damaged.id, files, states)

    @contextmanager
    def _removing(self, directory: Path) -> Iterator[None]:
        """What fails in a way that does not pass takes along what was made."""
        try:
            yield
        except ThinsyncError as failure:
            if not passes(failure):
                self.forget()
                try:
                    remove_tree(directory)
                except ThinsyncError as error:
                    failure.add_note(f"and what was made could not be removed yet: {error.message}")
            raise

    def drop_useless(self, folder: DomainFolder) -> None:
        """Remove what was left of a point that nothing can be made of any more. Raises ThinsyncError."""
        path, point = find_sown(folder), newest_damaged(folder)
        if path is None or point is None or self._keeper.sower is None:
            return
        try:
            for disk in point.disks:
                self._keeper.sower.check(folder, folder.chain(point, disk.target))
        except ThinsyncError as error:
            if passes(error):
                raise
            remove_tree(path)

    def mapped(self, point: str, disk: str) -> bytes:
        """The bitmap of what was made: which 1 MiB blocks may hold data; all, where that cannot be told."""
        opened = self._sown(point, disk)
        try:
            return bytes(bitmap(opened.extents(), opened.size))
        except ThinsyncError as error:
            if error.code not in _UNREADABLE:
                raise
        return bytes(bitmap([Extent(0, opened.size, ExtentKind.DATA)], opened.size))

    def digests(self, point: str, disk: str, blocks: tuple[int, ...], size: int) -> bytes:
        """The SHA-256 of each block; what cannot be read is given up first.

        Where that happens to blocks of 4096 bytes it counts for all of the same granule in this call, and for none that
        was asked for before: ask for all of a differing MiB at once. Raises StreamError, PoolError.
        """
        if len(blocks) > MAX_WINDOW or size not in FINE_BLOCKS:
            raise StreamError("more digests were asked for than one call gives", retry=False)
        opened = self._sown(point, disk)
        for block in blocks:
            if not 0 <= block * size < opened.size:
                raise StreamError(f"disk {disk} has no block {block}", retry=False)
        found, granules = bytearray(), _Granules(opened)
        with self._removing(self._directories[point]):
            try:
                for block in blocks:
                    start = block * size
                    data = granules.read(start, min(size, opened.size - start))
                    found += hashlib.sha256(data).digest()
            except ThinsyncError as error:
                if error.code is not Code.TOOL:
                    raise
                raise PoolError(
                    f"{error.message}: what is damaged cannot be read", hint=error.hint
                ) from error
        return bytes(found)

    def _sown(self, point: str, disk: str) -> Sown:
        opened = self._open.get((point, disk))
        if opened is None:
            seed, sower = self.sown.get(point), self._keeper.sower
            if seed is None or sower is None or disk not in seed.files:
                raise NotFoundError(f"nothing was made of a damaged disk {disk}", hint="run it again")
            opened = sower.open(sower.path(self._directories[point], disk))
            self._open[point, disk] = opened
        return opened

    def close(self) -> None:
        """Close what was made; it stays for the stream."""
        while self._open:
            self._open.popitem()[1].close()

    def forget(self) -> None:
        """Close it, and take no stream into it any more; it stays for the next run."""
        self.close()
        self.sown, self._directories = {}, {}


class _Granules:
    """Reads a disk; what of it cannot be read is given up, and reads as zeroes."""

    def __init__(self, opened: Sown) -> None:
        self._opened = opened
        self._held: tuple[int, bytes] = (-1, b"")

    def read(self, start: int, length: int) -> bytes:
        """Raises PoolError for what can be neither read nor given up."""
        if length > GRANULE:
            try:
                return self._opened.read(start, length)
            except ThinsyncError as error:
                if error.code is not Code.POOL:
                    raise
        end = start + length
        return b"".join(
            self._granule(at)[max(start - at, 0) : end - at]
            for at in range(align_down(start, GRANULE), end, GRANULE)
        )

    def _granule(self, start: int) -> bytes:
        if self._held[0] == start:
            return self._held[1]
        length = min(GRANULE, self._opened.size - start)
        try:
            data = self._opened.read(start, length)
        except ThinsyncError as error:
            if error.code is not Code.POOL:
                raise
            self._opened.blank(start, length)
            reached("unreadable granule given up")
            data = self._again(start, length)
        self._held = (start, data)
        return data

    def _again(self, start: int, length: int) -> bytes:
        try:
            return self._opened.read(start, length)
        except ThinsyncError as error:
            if error.code is not Code.POOL:
                raise
            raise PoolError(
                f"{error.message}, and it could not be given up", hint="look at the disk: dmesg, smartctl"
            ) from error


def _states(folder: DomainFolder, chains: Iterable[Chain]) -> dict[tuple[str, str], tuple[int, int]]:
    """Size and time of each file on which these disks stand, and of their own."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for chain in chains:
        for point, disk in chain:
            path = folder.file(point, disk)
            with failing("look at", path):
                status = path.lstat()
            found[point.id, disk.target] = (status.st_size, status.st_mtime_ns)
    return found


def _make_directory(folder: DomainFolder, directory: Path, kept: set[str]) -> None:
    """The directory, with what an interrupted transfer left of the files ``kept``, and nothing else in it."""
    left = find_sown(folder)
    if left != directory and is_there(directory):
        remove_tree(directory)
    with failing("make", directory):
        if left is None:
            directory.mkdir(mode=0o700)
        elif left != directory:
            left.rename(directory)
        sync_directory(directory.parent)
        for path in sorted(directory.iterdir()):
            if path.name not in kept:
                remove_tree(path)


def _make(sower: Sower, path: Path, size: int, seed: Path) -> None:
    with failing("make", path):
        if sower.is_sown(path, size, seed):
            # The end, once it had come, may have made it read-only.
            path.chmod(0o600)
            return
        path.unlink(missing_ok=True)
    sower.sow(path, size, seed)
