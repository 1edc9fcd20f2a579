"""The directories of a store, and the one commit in each: the rename of its ``points.json``.

::

    DIR/                                0700 where we made it
      store.json                        which store it is; made with the first point
      web01-3f2a91c0/                   a domain: its name made legal, the first digits of its UUID
        points.json                     the commit: what it does not name is no point
        000007-<point id>/              a point
          definition/domain.xml ...     the parts of its definition; a / in a name is written +
          vda.qcow2                     its disks, or stream.tsv
        incoming-<point id>/            a point on its way, or what a crash left of one
        set-aside-20261128-000007-<point id>/   since that day (UTC): what looks like a point, and is not in the
                                        record; goes after 30 days
        lock                            empty; whoever changes something here has it locked (flock)
        latest -> 000007-<point id>     for people; nothing here reads it

Names from outside are made legal before they become file names. Below DIR no symbolic link is followed.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thinsync_virt.endpoint.target.stores.plain import (
    failing,
    failure,
    is_directory,
    is_file,
    read_plain,
    require_directory,
)
from thinsync_virt.endpoint.target.stores.records import (
    BRING_BACK,
    DiskRecord,
    DomainRecord,
    Identity,
    PointRecord,
    encode_domain,
    encode_identity,
    parse_domain,
    parse_identity,
)
from thinsync_virt.errors import BusyError, ConflictError, PoolError, ThinsyncError
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.names import new_lvm_uuid, short_id
from thinsync_virt.model.targets import StoreTarget
from thinsync_virt.system import steps
from thinsync_virt.system.files import make_directory, sync_directory, write_durably, write_new
from thinsync_virt.system.locks import hold_among_hosts

STORE = "store.json"
POINTS = "points.json"
DEFINITION = "definition"
LATEST = "latest"
INCOMING = "incoming-"
LOCK = "lock"
_DOMAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}-(?:[0-9a-f]{8}|[0-9a-f]{32})")
_OURS = re.compile(r"(?:[0-9]{6,16}|incoming)-[0-9a-f]{32}")


def legal_name(name: str) -> str:
    """A domain's name as part of a file name: never hidden, never a path, never an option."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", name).lstrip(".")[:48] or "domain"


class StoreDirectory:
    """One store: its identity, and its domains."""

    def __init__(self, target: StoreTarget) -> None:
        """Looks at what is there; makes nothing. Raises ConflictError, PoolError."""
        self.target = target
        self.path = Path(target.path)
        self.is_there = False
        self.identity = Identity(new_lvm_uuid(), target.kind)
        self._locks: dict[Path, contextlib.ExitStack] = {}
        self._look()

    def lock(self, path: Path) -> None:
        """Keep other hosts that see the store from changing a domain, until :meth:`unlock`. Raises BusyError.

        Read the record after that. Nothing happens to one that is locked already.
        """
        if path not in self._locks:
            with contextlib.ExitStack() as stack:
                stack.enter_context(hold_among_hosts(path / LOCK, f"replication to {path}"))
                self._locks[path] = stack.pop_all()

    def unlock(self) -> None:
        """Give back every lock."""
        while self._locks:
            self._locks.popitem()[1].close()

    def _look(self) -> None:
        with failing("look at", self.path):
            there, directory = self.path.exists(), self.path.is_dir()
        if not there:
            return
        if not directory:
            raise ConflictError(
                f"{self.path} is no directory", hint="name a directory, or one that is to be made"
            )
        data = read_plain(self.path / STORE)
        if data is None:
            self._refuse_others()
            return
        self.identity = parse_identity(data, str(self.path / STORE))
        self.is_there = True
        if self.identity.kind is not self.target.kind:
            raise ConflictError(
                f"{self.path} holds {self.identity.kind.value}: points",
                hint=f"write {self.identity.kind.value}:{self.path}, or name another directory",
            )

    def _refuse_others(self) -> None:
        """A directory that is no store yet has to be empty, and nobody else's to write to."""
        try:
            mode = self.path.stat().st_mode
            found = sorted(name for name in os.listdir(self.path) if name != "lost+found" and name[0] != ".")
        except OSError as error:
            raise failure("read", self.path, error) from error
        if any(is_file(self.path / name / POINTS) for name in found if _DOMAIN.fullmatch(name)):
            raise PoolError(f"{self.path / STORE} is missing, and there are points", hint=BRING_BACK)
        if found:
            raise ConflictError(
                f"{self.path} is no store of ours, and is not empty: {found[0][:60]!r}",
                hint="name the store itself; for a new one an empty directory, or one that is to be made",
            )
        if mode & stat.S_IWOTH:
            raise ConflictError(
                f"everybody may write to {self.path}", hint="name a directory that is to be made beneath it"
            )

    def ensure(self) -> None:
        """Make the store, if it is not there yet. Raises BusyError when somebody made another one meanwhile."""
        if self.is_there:
            return
        with failing("make", self.path):
            make_directory(self.path)
        try:
            with failing("write", self.path / STORE, but=FileExistsError):
                write_new(self.path / STORE, encode_identity(self.identity))
        except FileExistsError as error:
            raise BusyError(f"{self.path} was made by another job just now", hint="run it again") from error
        self.is_there = True
        steps.reached("store made")

    def domains(self) -> tuple[DomainFolder, ...]:
        """Every domain here. Raises PoolError for one whose record is damaged."""
        found, damaged = self.readable()
        for error in damaged.values():
            raise error
        return found

    def readable(self) -> tuple[tuple[DomainFolder, ...], dict[str, ThinsyncError]]:
        """Every domain here whose record can be read, and what is wrong with the others, by their directory's name."""
        found: list[DomainFolder] = []
        damaged: dict[str, ThinsyncError] = {}
        for name in self._names():
            try:
                found += self._folder(name)
            except ThinsyncError as error:
                damaged[name] = error
        return tuple(found), damaged

    def domain(self, uuid: str) -> DomainFolder | None:
        """The domain of that UUID, if anything of it is here.

        Raises PoolError when its record is damaged, ConflictError when there is a second one: a copy by hand.
        """
        ours = [name for name in self._names() if name.endswith((f"-{short_id(uuid)}", f"-{uuid}"))]
        found = [folder for name in ours for folder in self._folder(name) if folder.record.uuid == uuid]
        if len(found) > 1:
            first, second = found[0].path, found[1].path
            raise ConflictError(
                f"{first} and {second.name} both hold points of one domain",
                hint=f"one is a copy of the other: look which is the newer one, and move the other out of {self.path}",
            )
        return found[0] if found else None

    def _names(self) -> list[str]:
        if not self.is_there:
            return []
        with failing("read", self.path):
            return sorted(name for name in os.listdir(self.path) if _DOMAIN.fullmatch(name))

    def _folder(self, name: str) -> Iterator[DomainFolder]:
        path = self.path / name
        data = read_plain(path / POINTS) if is_directory(path) else None
        if data is None:
            return
        record = parse_domain(data, str(path / POINTS))
        if record.store != self.identity.id:
            raise PoolError(
                f"{path} belongs to another store", hint="move it back to where it was, or away from here"
            )
        yield DomainFolder(path, record)

    def make_domain(self, name: str, uuid: str) -> DomainFolder:
        """The domain's folder, made if it is not there, and locked. Raises BusyError."""
        self.ensure()
        found = self.domain(uuid)
        path = found.path if found is not None else self._begun(uuid)
        path = path or self.path / f"{legal_name(name)}-{short_id(uuid)}"
        if found is None and read_plain(path / POINTS) is not None:
            # Two domains whose UUIDs begin alike.
            path = self.path / f"{legal_name(name)}-{uuid}"
        with failing("make", path):
            make_directory(path)
        require_directory(path)
        self.lock(path)
        found = self.domain(uuid)
        if found is not None:
            return found
        folder = DomainFolder(path, DomainRecord(self.identity.id, name, uuid))
        folder.commit(folder.record)
        return folder

    def _begun(self, uuid: str) -> Path | None:
        """A folder that a crash kept from its first record; the domain may have had another name then."""
        ours = (
            self.path / name for name in self._names() if name.endswith((f"-{short_id(uuid)}", f"-{uuid}"))
        )
        return next((path for path in ours if is_directory(path) and not is_file(path / POINTS)), None)


@dataclass
class DomainFolder:
    """One domain's directory, and its record as it was read or committed last."""

    path: Path
    record: DomainRecord

    def commit(self, record: DomainRecord) -> None:
        """From here on this is what is here, also after a power cut."""
        write_durably(self.path / POINTS, encode_domain(record))
        self.record = record

    def point_path(self, point: PointRecord) -> Path:
        """The directory of a point."""
        return self.path / f"{point.sequence:06d}-{point.id}"

    def incoming_path(self, identifier: str) -> Path:
        """Where the point of that id is received."""
        return self.path / f"{INCOMING}{identifier}"

    def file(self, point: PointRecord, disk: DiskRecord) -> Path:
        """The file of a disk."""
        return self.point_path(point) / disk.file

    def chain(self, point: PointRecord, target: str) -> list[tuple[PointRecord, DiskRecord]]:
        """The disk, and what it stands on, down to a file that stands on none."""
        found: list[tuple[PointRecord, DiskRecord]] = []
        current: PointRecord | None = point
        while current is not None:
            disk = current.disk(target)
            if disk is None:
                raise PoolError(
                    f"disk {target} of point {short_id(point.id)} stands on nothing in {self.path}",
                    hint="choose another point: thinsync-vm points DOMAIN --to TARGET; verify those that are left",
                )
            found.append((current, disk))
            current = self.record.point(disk.base) if disk.base is not None else None
        return found

    def whole(self, point: PointRecord) -> bool:
        """Whether every file is there on which the point stands."""
        try:
            return all(
                is_file(self.file(held, disk))
                for target in point.disks
                for held, disk in self.chain(point, target.target)
            )
        except PoolError:
            return False

    def all_whole(self) -> list[PointRecord]:
        """Those points that are :meth:`whole`, retired or not, oldest first; each file is looked at once."""
        there: set[tuple[str, str]] = set()
        # Each comes after those that it stands on.
        for point in self.record.points:
            for disk in point.disks:
                stands = disk.base is None or (disk.base, disk.target) in there
                if stands and is_file(self.file(point, disk)):
                    there.add((point.id, disk.target))
        return [
            point
            for point in self.record.points
            if all((point.id, disk.target) in there for disk in point.disks)
        ]

    def read_definition(self, point: PointRecord) -> Definition:
        """The definition of a point, from its files. Raises PoolError."""
        parts: dict[str, bytes] = {}
        for name in point.parts:
            path = self.point_path(point) / DEFINITION / part_file(name)
            data = read_plain(path)
            if data is None:
                raise PoolError(
                    f"{path} is missing", hint="choose another point: thinsync-vm points DOMAIN --to TARGET"
                )
            parts[name] = data
        return Definition(parts)

    def remains(self) -> list[Path]:
        """Directories of ours that the record does not name: what crashes left, or somebody copied here."""
        kept = {self.point_path(point).name for point in self.record.points}
        with failing("read", self.path):
            return [
                self.path / name
                for name in sorted(os.listdir(self.path))
                if _OURS.fullmatch(name) and name not in kept
            ]

    def point_out_latest(self) -> None:
        """Set the link for people to the newest point. It is never read here, so its loss is none."""
        newest = [point for point in self.record.points if not point.retired][-1:]
        link = self.path / LATEST
        with contextlib.suppress(OSError):
            wanted = self.point_path(newest[0]).name if newest else ""
            if link.is_symlink() and os.readlink(link) == wanted:
                return
            temporary = self.path / f".{LATEST}"
            temporary.unlink(missing_ok=True)
            if newest:
                temporary.symlink_to(wanted)
                temporary.replace(link)
            else:
                link.unlink(missing_ok=True)


def write_definition(path: Path, definition: Definition, *, twin: Path | None) -> None:
    """The parts as files in ``path``; those of an equal definition in ``twin`` are linked rather than written again."""
    with failing("write", path):
        path.mkdir(mode=0o700)
        for name, data in sorted(definition.parts.items()):
            file = path / part_file(name)
            if twin is None or not _linked(twin / part_file(name), file, data):
                write_new(file, data, mode=0o400)
        sync_directory(path)


def _linked(old: Path, new: Path, data: bytes) -> bool:
    """Whether the new name stands for the old file now, which holds just that."""
    try:
        if read_plain(old) != data:
            return False
        os.link(old, new, follow_symlinks=False)
    except (OSError, ThinsyncError):
        return False
    return True


def part_file(name: str) -> str:
    """``media/a.iso`` -> ``media+a.iso``: a part's name has no plus, so it stays one for each."""
    return name.replace("/", "+")
