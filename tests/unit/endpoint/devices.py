"""LVM in memory with files in the place of devices: what is made, copied, resized and written is really there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.endpoint.stored import StoredLvm
from tests.unit.thin.images import Image
from tests.unit.values import GROUP, LVM_UUID
from thinsync_virt.errors import BusyError, ConflictError, NotFoundError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.volumes import Pool, ThinVolume
from thinsync_virt.system.lvm import Inventory, SnapshotRequest, VolumeKind
from thinsync_virt.thin.metadata import ThinMetadata
from thinsync_virt.units import SECTOR


class FileLvm(StoredLvm):
    """A snapshot is a copy. Thin ids are given once, as a pool does."""

    def __init__(self, directory: Path, pools: Iterable[Pool]) -> None:
        super().__init__((), pools)
        self.directory = directory
        self.changes = 0
        self.others: dict[VolumeName, VolumeKind] = {}
        """Volumes that are not thin."""

    @classmethod
    def installed(cls, directory: Path, pools: Iterable[Pool], monkeypatch: pytest.MonkeyPatch) -> FileLvm:
        """Its volumes' paths lead to its files for the length of a test."""
        monkeypatch.setattr(
            VolumeName, "path", property(lambda name: str(directory / f"{name.vg}-{name.lv}"))
        )
        return cls(directory, pools)

    def pools(self, vg: str | None = None) -> tuple[Pool, ...]:
        return tuple(self.known_pools.values())

    def put(self, one: ThinVolume, content: bytes) -> ThinVolume:
        """A volume that is there already."""
        self.changes += 1
        uuid = f"lv{self.changes:04}-0000-0000-0000-0000-0000-000000"
        made = replace(one, size=len(content), thin_id=self.changes, uuid=uuid)
        Path(one.name.path).write_bytes(content)
        self.stored[one.name] = made
        return made

    def content(self, name: VolumeName) -> bytes:
        return Path(name.path).read_bytes()

    def create_thin(
        self,
        name: VolumeName,
        pool: VolumeName,
        size: int,
        tags: Iterable[str],
        *,
        active: bool = False,
        skip: bool = True,
    ) -> ThinVolume:
        self._commit()
        if name in self.stored:
            raise ConflictError(f"{name} exists")
        return self.put(ThinVolume(name, LVM_UUID, GROUP, pool, 0, size, tuple(tags)), bytes(size))

    def create_snapshots(self, requests: Sequence[SnapshotRequest]) -> tuple[ThinVolume, ...]:
        made = []
        for request in requests:
            self._commit()
            if request.volume in self.stored:
                raise ConflictError(f"{request.volume} exists")
            origin = self.stored[request.origin]
            one = replace(
                origin,
                name=request.volume,
                tags=request.tags,
                origin=request.origin.lv,
                read_only=request.read_only,
                activation_skip=request.skip,
                active=request.wanted_active,
            )
            made.append(self.put(one, self.content(request.origin)))
        return tuple(made)

    def activate(self, names: Sequence[VolumeName]) -> None:
        for name in names:
            if name not in self.stored:
                raise NotFoundError(f"{name} does not exist")
            self.stored[name] = replace(self.stored[name], active=True)

    def deactivate(self, names: Sequence[VolumeName]) -> None:
        for name in names:
            if self.stored[name].open:
                raise BusyError(f"in use, still active: {name}")
            self.stored[name] = replace(self.stored[name], active=False)

    def set_read_only(self, names: Sequence[VolumeName]) -> None:
        for name in names:
            self._commit()
            self.stored[name] = replace(self.stored[name], read_only=True)

    def rename(self, name: VolumeName, new: str) -> None:
        self._commit()
        to = VolumeName(name.vg, new)
        if to in self.stored:
            raise ConflictError(f"{to} already exists")
        Path(name.path).rename(to.path)
        self.stored[to] = replace(self.stored.pop(name), name=to)

    def inventory(self, vg: str | None = None) -> Inventory:
        found = super().inventory(vg)
        return replace(found, kinds=(*found.kinds, *self.others.values()))

    def kind_of(self, name: VolumeName) -> VolumeKind:
        if name in self.others:
            return self.others[name]
        if name not in self.stored:
            raise NotFoundError(f"volume {name} does not exist", hint="see: lvs -a")
        return VolumeKind(name, self.stored[name].uuid, "thin", (), False)

    def set_writable(self, names: Sequence[VolumeName]) -> None:
        for name in names:
            if self.stored[name].read_only:
                self._commit()
                self.stored[name] = replace(self.stored[name], read_only=False)

    def resize(self, name: VolumeName, size: int) -> ThinVolume:
        self._commit()
        content = self.content(name)[:size]
        Path(name.path).write_bytes(content + bytes(size - len(content)))
        self.stored[name] = replace(self.stored[name], size=size)
        return self.stored[name]


class FileMappings:
    """Opens the mappings of a pool of :class:`FileLvm`: our own reader, on metadata made of what the files hold.

    Equal chunks share a data block, and a chunk of zeroes is not mapped.
    """

    def __init__(self, lvm: FileLvm) -> None:
        self._lvm = lvm
        self.opened = 0

    @contextmanager
    def open(self, pool: Pool, *, lock_wait: float = 60.0) -> Iterator[ThinMetadata]:
        self.opened += 1
        image = Image()
        numbers: dict[bytes, int] = {}
        devices = {
            one.thin_id: self._mapping(one.name, pool.chunk_size, numbers)
            for one in self._lvm.volumes()
            if one.pool == pool.name
        }
        roots = {thin_id: image.tree(mapping) for thin_id, mapping in sorted(devices.items())}
        image.finish(
            roots,
            chunk_sectors=pool.chunk_size // SECTOR,
            mapped={thin_id: len(mapping) for thin_id, mapping in devices.items()},
        )
        yield ThinMetadata(image, metadata_snapshot=False)

    def _mapping(self, name: VolumeName, chunk: int, numbers: dict[bytes, int]) -> dict[int, int]:
        content = self._lvm.content(name)
        pieces = {at // chunk: content[at : at + chunk] for at in range(0, len(content), chunk)}
        return {
            index: numbers.setdefault(piece, len(numbers) + 1)
            for index, piece in pieces.items()
            if piece.strip(b"\0")
        }
