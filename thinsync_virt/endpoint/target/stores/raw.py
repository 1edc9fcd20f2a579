"""``file:``: each point is a sparse raw image per disk; an increment goes into a clone of its base (reflink)."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from thinsync_virt.endpoint.target.stores.directory import POINTS, DomainFolder
from thinsync_virt.endpoint.target.stores.keeper import Chain, Incoming, Sower
from thinsync_virt.endpoint.target.stores.plain import failing, is_file, require_left
from thinsync_virt.endpoint.target.stores.records import PointRecord
from thinsync_virt.errors import PoolError
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import short_id
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.targets import TargetKind
from thinsync_virt.system.images import SparseFile, can_clone


class RawKeeper:
    """Raw images. ``clone`` makes one that shares what another holds, if ``probe`` says that a directory's can."""

    kind = TargetKind.FILE
    chained = False
    longest = 1
    slack = 0

    def __init__(
        self,
        clone: Callable[[Path, Path, int], SparseFile] = SparseFile.clone,
        probe: Callable[[Path], bool] = can_clone,
    ) -> None:
        self._clone = clone
        self._probe = probe
        self.sower: Sower | None = RawSower(clone)

    def findings(self, directory: Path, where: str) -> tuple[Finding, ...]:
        """Whether files can be cloned there: points are kept by nothing else."""
        if self._probe(directory):
            return (Finding(Severity.OK, where, "its file system clones files (reflink)"),)
        return (
            Finding(
                Severity.REFUSAL,
                where,
                "its file system cannot clone files (reflink), by which points are kept",
                "name a directory on XFS or btrfs, or write qcow2: or archive: before this one",
            ),
        )

    def write(self, incoming: Incoming) -> RawWriter:
        """Clones of the bases, or new images with nothing in them."""
        return RawWriter(incoming, self._clone)

    def read(self, folder: DomainFolder, chain: Chain) -> SparseFile:
        """The image."""
        point, disk = chain[0]
        return SparseFile(folder.file(point, disk))

    def merge(self, folder: DomainFolder, retired: Sequence[PointRecord], child: PointRecord) -> None:
        """Images stand on nothing: no run of ours writes a record that says so. Raises PoolError."""
        raise PoolError(
            f"by {folder.path / POINTS} point #{child.sequence} {short_id(child.id)} stands on another, and no raw"
            " image does",
            hint="somebody wrote that: bring the whole domain directory back, or move it away",
        )

    def start(self, folder: DomainFolder, point: PointRecord) -> str:
        """From a copy, which may be written to: the point stays as it is."""
        path = shlex.quote(str(folder.file(point, point.disks[0])))
        return (
            f"start it from a copy, never in place: cp --reflink=auto {path} NEW && chmod u+w NEW;"
            " its domain.xml is beside it, in definition"
        )


class RawSower:
    """Clones: what is read in one is what the damaged image holds now, and it shares nothing that is written later."""

    def __init__(self, clone: Callable[[Path, Path, int], SparseFile]) -> None:
        self._clone = clone

    def path(self, directory: Path, target: str) -> Path:
        """As :class:`RawWriter` calls it."""
        return directory / f"{target}.raw"

    def check(self, folder: DomainFolder, chain: Chain) -> None:
        """Any file can be cloned."""

    def sow(self, path: Path, size: int, seed: Path) -> None:
        """A clone."""
        self._clone(seed, path, size).close()

    def is_sown(self, path: Path, size: int, seed: Path) -> bool:
        """It stands on nothing: if only its size is right."""
        with failing("look at", path):
            return is_file(path) and path.lstat().st_size == size

    def open(self, path: Path) -> RawSown:
        """The clone."""
        return RawSown(path, write=True)


class RawSown(SparseFile):
    """A clone of a damaged image."""

    def blank(self, start: int, length: int) -> None:
        """A hole. Where the image ends in it, by its size: a hole's edge within a block would be read."""
        if start + length < self.size:
            self.clear(start, length)
            return
        size = self.size
        self.resize(start)
        self.resize(size)


class RawWriter:
    """One image for each disk of a stream."""

    def __init__(self, incoming: Incoming, clone: Callable[[Path, Path, int], SparseFile]) -> None:
        going_on = incoming.resumed is not None
        self._fresh = [disk.mode is Mode.FULL and not going_on for disk in incoming.header.disks]
        self._targets = [disk.target for disk in incoming.header.disks]
        self._images: list[SparseFile] = []
        try:
            for disk in incoming.header.disks:
                path = incoming.directory / f"{disk.target}.raw"
                base = incoming.bases.get(disk.target)
                if incoming.is_there(disk.target):
                    require_left(path, disk.size)
                    self._images.append(SparseFile(path, write=True))
                elif base is None:
                    self._images.append(SparseFile.create(path, disk.size))
                else:
                    self._images.append(clone(base, path, disk.size))
        except BaseException:
            self.close()
            raise

    def data(self, disk: int, offset: int, data: memoryview) -> None:
        """Written where it belongs."""
        self._images[disk].write(offset, data)

    def zero(self, disk: int, offset: int, length: int) -> None:
        """A hole is zeroes too."""
        if not self._fresh[disk]:
            self._images[disk].clear(offset, length)

    def unmap(self, disk: int, offset: int, length: int) -> None:
        """A hole."""
        self._images[disk].clear(offset, length)

    def checkpoint(self) -> int:
        """All on stable storage."""
        for image in self._images:
            image.sync()
        return 0

    def finish(self) -> dict[str, str]:
        """The names of the images."""
        self.checkpoint()
        self.close()
        return {target: f"{target}.raw" for target in self._targets}

    def close(self) -> None:
        """Nothing is flushed."""
        for image in self._images:
            image.close()
