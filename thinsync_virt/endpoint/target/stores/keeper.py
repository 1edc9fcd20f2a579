"""What the kinds of store have in common, and what each of them does in its own way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from thinsync_virt.endpoint.target.stores.directory import DomainFolder
from thinsync_virt.endpoint.target.stores.records import DiskRecord, PointRecord
from thinsync_virt.model.extents import Extent
from thinsync_virt.model.findings import Finding
from thinsync_virt.model.targets import TargetKind
from thinsync_virt.stream.header import StreamHeader
from thinsync_virt.units import KIB


@dataclass(frozen=True, slots=True)
class Seed:
    """The damaged point of which one on its way was made, and by disk its files.

    ``states`` are sizes (bytes) and times (nanoseconds) of the files on which the new ones stand, by point and disk,
    from before anything was read in them.
    """

    point: str
    files: Mapping[str, Path]
    states: Mapping[tuple[str, str], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Incoming:
    """A point on its way: what its stream says, the packed definition, for each incremental disk its base's file.

    ``resumed`` is the length that an earlier transfer reported, None when this is the first. With a ``seed`` the files
    of the disks that it names were made already.
    """

    header: StreamHeader
    definition: bytes
    directory: Path
    bases: dict[str, Path]
    resumed: int | None = None
    seed: Seed | None = None

    def is_there(self, target: str) -> bool:
        """Whether the file of this disk was made before."""
        return self.resumed is not None or (self.seed is not None and target in self.seed.files)

    def below(self, target: str) -> Path | None:
        """The file on which that of this disk stands, or of which it was made; None for a full copy."""
        if self.seed is not None and target in self.seed.files:
            return self.seed.files[target]
        return self.bases.get(target)


class Writer(Protocol):
    """Takes what a stream says of disks into new files. Positions are bytes; ``disk`` counts the header's disks."""

    def data(self, disk: int, offset: int, data: memoryview) -> None: ...

    def zero(self, disk: int, offset: int, length: int) -> None: ...

    def unmap(self, disk: int, offset: int, length: int) -> None: ...

    def checkpoint(self) -> int:
        """Put what has come on stable storage; how much of a stream's file that is, 0 for images."""
        ...

    def finish(self) -> dict[str, str]:
        """All is there: close the files, and say which holds each disk."""
        ...

    def close(self) -> None:
        """Close what is open, finished or not. Idempotent, and raises nothing."""
        ...


class Readable(Protocol):
    """One disk of a point, open for reading. ``size`` in bytes."""

    size: int

    def extents(self) -> Iterator[Extent]:
        """What may hold data, ascending; the rest reads as zeroes."""
        ...

    def read(self, start: int, length: int) -> bytes:
        """Raises StreamError where what is stored is damaged, and known to be."""
        ...

    def close(self) -> None: ...


class Sown(Readable, Protocol):
    """A disk that was made of a damaged one, open for comparing."""

    def blank(self, start: int, length: int) -> None:
        """Give up a granule that cannot be read, reading nothing in it: it reads as zeroes afterwards."""
        ...


GRANULE = 64 * KIB
"""What is given up at once of a disk that cannot be read: a cluster of qcow2, and no file system's block is larger."""


class Sower(Protocol):
    """How a kind of store makes a disk of a damaged one, to which nothing is written."""

    def path(self, directory: Path, target: str) -> Path:
        """The file of a disk in the directory of a point on its way."""
        ...

    def check(self, folder: DomainFolder, chain: Chain) -> None:
        """Raises PoolError when no disk can be made of this one."""
        ...

    def sow(self, path: Path, size: int, seed: Path) -> None:
        """Make the file: it reads as ``seed`` does, cut or grown to ``size`` bytes."""
        ...

    def is_sown(self, path: Path, size: int, seed: Path) -> bool:
        """Whether a file that an interrupted transfer left can be gone on with, whatever it holds."""
        ...

    def open(self, path: Path) -> Sown: ...


Chain = Sequence[tuple[PointRecord, DiskRecord]]
"""A disk, and the disks of older points on which it stands, newest first."""


class Keeper(Protocol):
    """One kind of store."""

    kind: TargetKind

    chained: bool
    """Whether an increment's file stands on its base's."""

    longest: int
    """So many files may stand on each other, and still be read together."""

    slack: int
    """So many points more than retention keeps may come together before the oldest are merged, all at once."""

    sower: Sower | None
    """None where nothing is ever made of what is damaged."""

    def findings(self, directory: Path, where: str) -> tuple[Finding, ...]:
        """What this kind needs of the host and of the file system; ``directory`` is there."""
        ...

    def write(self, incoming: Incoming) -> Writer:
        """Begin a point in its own directory, which is empty; or go on with what an earlier transfer left in it."""
        ...

    def read(self, folder: DomainFolder, chain: Chain) -> Readable: ...

    def merge(self, folder: DomainFolder, retired: Sequence[PointRecord], child: PointRecord) -> None:
        """Let ``child`` stand without the retired points before it (each stands on the one before, oldest first).

        Commits the folder's record without them. At every instant every point that is not retired stays readable;
        what a crash cuts short, the same call finishes.
        """
        ...

    def start(self, folder: DomainFolder, point: PointRecord) -> str:
        """How a person starts from this point, in one line."""
        ...
