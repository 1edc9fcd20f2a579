"""Every kind of target, each as it is used: opened anew after a crash, asked through the interfaces of the server."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.contract.targets.streams import Contents, Sent, stream
from tests.unit.endpoint.devices import FileLvm, FileMappings
from tests.unit.endpoint.stored import PowerCutError
from tests.unit.endpoint.test_target import NoDomains
from tests.unit.values import CHOICES, DOMAIN, KEY, NAME, identifier, pool_report
from thinsync_virt.endpoint.catalogue import read_catalogue
from thinsync_virt.endpoint.proof import Prover
from thinsync_virt.endpoint.target import thin as thin_module
from thinsync_virt.endpoint.target.journal import TransferJournal
from thinsync_virt.endpoint.target.stores.archive import ArchiveKeeper
from thinsync_virt.endpoint.target.stores.directory import StoreDirectory
from thinsync_virt.endpoint.target.stores.keeper import Keeper
from thinsync_virt.endpoint.target.stores.proof import StoreProver
from thinsync_virt.endpoint.target.stores.qcow2 import Qcow2Keeper
from thinsync_virt.endpoint.target.stores.raw import RawKeeper
from thinsync_virt.endpoint.target.stores.store import StoreEnd
from thinsync_virt.endpoint.target.thin import ThinTarget
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import RecoveryPoint, ReplicaKey
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.tags import Role
from thinsync_virt.model.targets import StoreTarget, TargetKind
from thinsync_virt.model.volumes import PoolStatus
from thinsync_virt.remote.target_server import ServedProver, ServedTarget
from thinsync_virt.system import steps
from thinsync_virt.system.dmsetup import DmSetup
from thinsync_virt.system.images import SparseFile, can_clone
from thinsync_virt.system.locks import hold, lock_path


class Fuse:
    """In the place of the file that stops a process at a step: the power goes after so many of them."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.passed = 0

    def exists(self) -> bool:
        self.passed += 1
        if self.left is not None:
            if self.left == 0:
                raise PowerCutError
            self.left -= 1
        return False


class Site(Protocol):
    """A place for replicas."""

    choices: Choices
    fuse: Fuse
    lazy: bool
    """Whether more than a few points have to expire before any goes."""

    @property
    def key(self) -> ReplicaKey: ...

    def session(self) -> Any:
        """A context in which the target and its prover are open, and the domain is locked and tidy."""
        ...

    def content(self, number: int) -> Contents:
        """The disks of a point, read without the product's help where something else can."""
        ...

    def spoil(self, number: int, target: str, old: bytes, new: bytes) -> None:
        """Change a byte that is stored: where ``old`` is, ``new`` is afterwards."""
        ...

    def everything(self) -> object:
        """All that is there, to compare."""
        ...

    def saved(self) -> Callable[[], None]:
        """Keeps all that is there; called, it brings it back."""
        ...


class Kernel(DmSetup):
    """Every pool has room."""

    def pool_status(self, pool: VolumeName) -> PoolStatus:
        return pool_report().status


class ThinSite:
    """Thin volumes in memory, files in the place of their devices."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        directory = tmp_path / "devices"
        directory.mkdir()
        self.lvm = FileLvm.installed(directory, [pool_report().pool], monkeypatch)
        monkeypatch.setattr(thin_module, "report_pools", lambda _: (pool_report(),))
        monkeypatch.setattr(thin_module, "DmSetup", Kernel)
        locks = tmp_path / "locks"

        def replica_lock(role: Role, domain: str, *, what: str = "", host: str = "") -> Any:
            return hold(lock_path("target", domain, directory=locks), 0, what=what, host=host)

        monkeypatch.setattr(thin_module, "replica_lock", replica_lock)
        self.lazy = False
        self.journal = TransferJournal(tmp_path / "journal")
        self.choices = CHOICES
        self.key = KEY
        self.fuse = Fuse()

    @contextmanager
    def session(self) -> Iterator[tuple[ServedTarget, ServedProver]]:
        hypervisor: Any = NoDomains()
        mappings: Any = FileMappings(self.lvm)
        target = ThinTarget(self.lvm, hypervisor, mappings, "beta", self.journal)
        prover = Prover(self.lvm, mappings, lambda: read_catalogue(self.lvm.volumes(), Role.TARGET))
        self.lvm.commits = None
        try:
            target.begin(DOMAIN)
            yield target, prover
        except PowerCutError:
            self.lvm.commits = 0
            raise
        finally:
            target.end()
            prover.close()

    def _point(self, number: int) -> RecoveryPoint:
        points = read_catalogue(self.lvm.volumes(), Role.TARGET).points
        return next(point for point in points if point.id == identifier(number))

    def content(self, number: int) -> Contents:
        return {disk.target: self.lvm.content(disk.volume.name) for disk in self._point(number).disks}

    def spoil(self, number: int, target: str, old: bytes, new: bytes) -> None:
        disk = self._point(number).disk(target)
        assert disk is not None
        replace_bytes(Path(disk.volume.name.path), old, new)

    def everything(self) -> object:
        return {one.name: (one.tags, self.lvm.content(one.name)) for one in self.lvm.volumes()}

    def saved(self) -> Callable[[], None]:
        stored = dict(self.lvm.stored)
        contents = {name: self.lvm.content(name) for name in stored}

        def bring_back() -> None:
            self.lvm.commits = None
            self.lvm.stored = dict(stored)
            for name, content in contents.items():
                Path(name.path).write_bytes(content)

        return bring_back


class StoreSite:
    """A directory."""

    def __init__(self, path: Path, keeper: Keeper) -> None:
        self.path = path
        self.keeper = keeper
        self.lazy = bool(keeper.slack)
        self.choices = Choices(None)
        self.fuse = Fuse()
        self._key: ReplicaKey | None = None

    @property
    def store(self) -> StoreDirectory:
        return StoreDirectory(StoreTarget(self.keeper.kind, str(self.path)))

    @property
    def key(self) -> ReplicaKey:
        """Of the store if it is there; of one that is to be made there is none yet but in its session."""
        assert self._key is not None
        return self._key

    @contextmanager
    def session(self) -> Iterator[tuple[ServedTarget, ServedProver]]:
        store = self.store
        self._key = ReplicaKey(DOMAIN, store.identity.id)
        locks = self.path.with_name("locks")
        target, prover = StoreEnd(store, self.keeper, "beta", locks), StoreProver(store, self.keeper)
        try:
            target.begin(DOMAIN)
            yield target, prover
        finally:
            target.end()
            prover.close()

    def file(self, number: int, target: str) -> Path:
        folder = self.store.domain(DOMAIN)
        assert folder is not None
        point = folder.record.point(identifier(number))
        disk = point.disk(target) if point is not None else None
        assert point is not None and disk is not None
        return folder.file(point, disk)

    def targets(self, number: int) -> list[str]:
        folder = self.store.domain(DOMAIN)
        assert folder is not None
        point = folder.record.point(identifier(number))
        assert point is not None and folder.whole(point)
        return [disk.target for disk in point.disks]

    def content(self, number: int) -> Contents:
        return {target: self.read(number, target) for target in self.targets(number)}

    def read(self, number: int, target: str) -> bytes:
        folder = self.store.domain(DOMAIN)
        assert folder is not None
        point = folder.record.point(identifier(number))
        assert point is not None
        opened = self.keeper.read(folder, folder.chain(point, target))
        try:
            return opened.read(0, opened.size)
        finally:
            opened.close()

    def spoil(self, number: int, target: str, old: bytes, new: bytes) -> None:
        replace_bytes(self.file(number, target), old, new)

    def everything(self) -> object:
        return {
            path.relative_to(self.path): path.read_bytes()
            for path in sorted(self.path.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }

    def saved(self) -> Callable[[], None]:
        kept = self.path.with_name("kept")
        shutil.copytree(self.path, kept, symlinks=True)

        def bring_back() -> None:
            shutil.rmtree(self.path)
            shutil.copytree(kept, self.path, symlinks=True)

        return bring_back


class FileSite(StoreSite):
    def read(self, number: int, target: str) -> bytes:
        return self.file(number, target).read_bytes()


class Qcow2Site(StoreSite):
    """Read by QEMU's own converter, which follows each overlay."""

    def read(self, number: int, target: str) -> bytes:
        raw = self.path.parent / "converted.raw"
        command = [
            "qemu-img",
            "convert",
            "-f",
            "qcow2",
            "-O",
            "raw",
            str(self.file(number, target)),
            str(raw),
        ]
        subprocess.run(command, check=True, timeout=60, capture_output=True)
        return raw.read_bytes()


def copying(origin: Path, path: Path, size: int) -> SparseFile:
    """In the place of a clone, where the file system of the tests cannot."""
    made = SparseFile.create(path, 0)
    with SparseFile(origin) as held:
        made.resize(held.size)
        for extent in held.extents():
            made.write(extent.start, held.read(extent.start, extent.length))
    made.resize(size)
    return made


KINDS = ("thin", *(kind.value for kind in TargetKind if kind is not TargetKind.HOST))
STORES = KINDS[1:]


def make_site(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    path = tmp_path / "store"
    site: Any
    match kind:
        case "thin":
            site = ThinSite(tmp_path, monkeypatch)
        case "archive":
            site = StoreSite(path, ArchiveKeeper())
        case "file":
            keeper = RawKeeper() if can_clone(tmp_path) else RawKeeper(copying, lambda _: True)
            site = FileSite(path, keeper)
        case _:
            site = Qcow2Site(path, Qcow2Keeper())
    monkeypatch.setattr(steps, "STOP_AT", site.fuse)
    return site


class Replica:
    """What a source would do with a site: send points, one on the other."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.history: dict[int, Contents] = {}

    def sent(self, number: int, contents: Contents, *, base: int | None = None, **more: Any) -> Sent:
        """The stream that brings a point; on the newest one before, unless ``base`` says otherwise (0: on none)."""
        if base is None:
            base = max(self.history, default=0)
        known = self.history[base] if base else {}
        return stream(self.site.key, self.site.choices, number, contents, base=base, known=known, **more)

    def send(self, number: int, contents: Contents, *, base: int | None = None, **more: Any) -> RecoveryPoint:
        """In a session of its own, as the driver would: tidy, receive."""
        with self.site.session() as (target, _):
            target.tidy(self.site.key, "")
            sent = self.sent(number, contents, base=base, **more)
            point: RecoveryPoint = target.receive(
                iter(sent.events()), sent.expected, lambda _: None, lambda _: None
            )
        self.history[number] = contents
        return point

    def points(self) -> list[int]:
        with self.site.session() as (target, _):
            return [point.sequence for state in target.states(DOMAIN, NAME) for point in state.points]

    def check(self) -> None:
        """Every point that is there is what was sent."""
        for number in self.points():
            assert self.site.content(number) == self.history[number], f"point {number}"


def replace_bytes(path: Path, old: bytes, new: bytes) -> None:
    """Change what a file holds, and not when it was changed."""
    status = path.stat()
    content = path.read_bytes()
    assert content.count(old) == 1 and len(old) == len(new)
    path.chmod(0o600)
    path.write_bytes(content.replace(old, new))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def retention_cut(site: Site, point: str) -> Iterator[int]:
    """Retention with ``point`` in common, cut after each of its steps, always from the same state."""
    bring_back = site.saved()
    for cut in range(200):
        bring_back()
        try:
            with site.session() as (target, _):
                site.fuse.left = cut
                target.retire(site.key, point)
                break
        except PowerCutError:
            pass
        finally:
            site.fuse.left = None
        yield cut
    assert cut > 2, "steps are marked"


def end_retention(site: Site, point: str) -> None:
    """What the next run does."""
    with site.session() as (target, _):
        target.tidy(site.key, "")
        target.retire(site.key, point)
