"""LVM2: the only module that runs its commands.

LVM is the database of recovery points (invariant 1): what its commands say is checked against what exists.
Sizes are bytes. Every method may raise CommandError (LVM failed: argv, status, stderr) and PoolError (a report that
makes no sense) besides what it names itself.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress

from thinsync_virt.errors import (
    BusyError,
    CommandError,
    ConflictError,
    NotFoundError,
    PoolError,
    SpaceError,
    ThinsyncError,
)
from thinsync_virt.model.names import VolumeName, check_lvm_name
from thinsync_virt.model.volumes import Pool, ThinVolume
from thinsync_virt.system import lvm_commands, lvm_report
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.system.dm_names import dm_name, lvm_device
from thinsync_virt.system.dmsetup import DmSetup
from thinsync_virt.system.flush import GroupFlush
from thinsync_virt.system.lvm_commands import Batch, SnapshotRequest, snapshot_batch
from thinsync_virt.system.lvm_lock import timed_out
from thinsync_virt.system.lvm_report import Inventory, VolumeGroup, VolumeKind
from thinsync_virt.system.process import Completed, run
from thinsync_virt.units import SECTOR, align_up

__all__ = ["Batch", "Inventory", "Lvm", "SnapshotRequest", "VolumeGroup", "VolumeKind", "snapshot_batch"]

# LVM waits for its own locks without end; a command of another program may hold the group for long.
_TIMEOUT = 120.0
# A report may be asked for again at any time; before a freeze nothing waits longer for a lock.
_REPORT_TIMEOUT = 60.0
# thin_check reads all of a pool's metadata.
_CHECK_TIMEOUT = 900.0
# Known to 0.9.0 and 1.x: leaked blocks are given back, after everything else was found right.
_MEND_LEAKS = "--auto-repair"
# lvs exits so when a named VG or LV does not exist (and on other errors: the message decides).
_FAILED = 5
# udev makes /dev/VG/LV; on a busy host its queue is long.
_LINK_SECONDS = 60.0
_LINK_POLL_SECONDS = 0.05
_ATTEMPTS = 5
_PAUSE_SECONDS = 0.2
# How LVM says that a group's text, a pool's data or its metadata has no room.
_NO_ROOM = (
    "insufficient free space",
    "metadata too large",
    "free space in thin pool",
    "too large for circular buffer",
)
_ROOM_HINT = "see: vgs -o+vg_mda_free; lvs -a"
_LOOK_HINT = "see how things stand: lvs -a -o+lv_health_status,tags; dmesg; thinsync-vm check"


class Lvm:
    """LVM of this host."""

    def __init__(self, dmsetup: DmSetup | None = None, *, locking: bool = True) -> None:
        self._dmsetup = dmsetup or DmSetup()
        self._locking = locking

    def without_locks(self) -> Lvm:
        """For reports only, by whoever holds the group's lock (``lvm_lock.hold_group``)."""
        return Lvm(self._dmsetup, locking=False)

    # What there is.

    def volumes(self, vg: str | None = None) -> tuple[ThinVolume, ...]:
        """All visible thin volumes, of one volume group or of all. Raises NotFoundError for an unknown group."""
        scope = [check_lvm_name(vg)] if vg is not None else []
        return lvm_report.parse_volumes(
            self._lvs(lvm_report.VOLUME_FIELDS, lvm_report.VOLUME_SELECTION, scope)
        )

    def inventory(self, vg: str | None = None) -> Inventory:
        """Everything at one instant, in one report: for whoever needs two of them, since each report is a process.

        Groups without any LV are left out. Raises NotFoundError for an unknown group.
        """
        scope = ["-a", *([check_lvm_name(vg)] if vg is not None else [])]
        return lvm_report.parse_inventory(self._lvs(lvm_report.INVENTORY_FIELDS, None, scope))

    def volume(self, name: VolumeName) -> ThinVolume:
        """One thin volume. Raises NotFoundError when it does not exist or is no thin volume."""
        for volume in self.volumes(name.vg):
            if volume.name == name:
                return volume
        kind = self.kind_of(name)
        raise NotFoundError(
            f"{name} is not a thin volume but {kind.segment_type}", hint=f"see: lvs -a {name.vg}"
        )

    def pools(self, vg: str | None = None) -> tuple[Pool, ...]:
        """All thin pools, of one volume group or of all. Raises NotFoundError for an unknown group."""
        scope = [check_lvm_name(vg)] if vg is not None else []
        return lvm_report.parse_pools(self._lvs(lvm_report.POOL_FIELDS, "segtype=thin-pool", scope))

    def pool(self, name: VolumeName) -> Pool:
        """One thin pool. Raises NotFoundError when it does not exist or is no thin pool."""
        found = lvm_report.parse_pools(self._lvs(lvm_report.POOL_FIELDS, "segtype=thin-pool", [str(name)]))
        if len(found) != 1:
            raise NotFoundError(f"{name} is not a thin pool", hint="see the pools: lvs -S segtype=thin-pool")
        return found[0]

    def pool_health(self) -> dict[VolumeName, str]:
        """LVM's own word on each thin pool's health, "" for none: ``partial`` where a device of it is missing."""
        return lvm_report.parse_health(self._lvs(lvm_report.HEALTH_FIELDS, "segtype=thin-pool", []))

    def volume_groups(self) -> tuple[VolumeGroup, ...]:
        """All volume groups, with their room for volumes and for their own metadata text."""
        return lvm_report.parse_groups(_report("vgs", lvm_report.GROUP_FIELDS, None, []))

    def kind_of(self, name: VolumeName) -> VolumeKind:
        """What any LV is made of, so that a caller can say why it cannot be replicated. Raises NotFoundError."""
        for kind in lvm_report.parse_kinds(self._lvs(lvm_report.KIND_FIELDS, None, ["-a", name.vg])):
            if kind.name == name:
                return kind
        raise NotFoundError(f"volume {name} does not exist", hint=f"see: lvs -a {name.vg}")

    def kinds(self) -> tuple[VolumeKind, ...]:
        """What every LV is made of, hidden ones too."""
        return lvm_report.parse_kinds(self._lvs(lvm_report.KIND_FIELDS, None, ["-a"]))

    def active_uuid(self, name: VolumeName) -> str:
        """The UUID of the LV whose device has that name now, as the kernel says; "" where there is none.

        No process is started for it.
        """
        try:
            status = os.stat(name.path)
        except OSError:
            return ""
        device = lvm_device(status.st_rdev) if stat.S_ISBLK(status.st_mode) else None
        return device.lv_uuid if device is not None else ""

    def _lvs(self, fields: str, select: str | None, scope: list[str]) -> str:
        return _report("lvs", fields, select, scope if self._locking else ["--nolocking", *scope])

    # Snapshots.

    def create_snapshots(self, requests: Sequence[SnapshotRequest]) -> tuple[ThinVolume, ...]:
        """Make them outside a freeze, confirm them, and activate those that are not skipped.

        Raises as :meth:`confirm_snapshots`.
        """
        batch = snapshot_batch(requests, in_freeze=False)
        done = _run(
            batch.argv,
            stdin=batch.stdin,
            timeout=_TIMEOUT,
            ok=range(256),
            kill_on_timeout=False,
            environment=lvm_commands.SHELL_ENVIRONMENT,
            groups={request.origin.vg for request in requests},
        )
        if "already exists" in f"{done.stdout}{done.stderr}":
            raise ConflictError(
                f"a name is taken: {_words(done.stderr)}", hint="see what has that name: lvs -o+tags"
            )
        try:
            made = self.confirm_snapshots(requests)
        except NotFoundError as error:
            raise _failed("lvcreate", done, error.message) from error
        wanted = [volume for request, volume in zip(requests, made, strict=True) if request.wanted_active]
        self.activate([volume.name for volume in wanted if not volume.active])
        for volume in wanted:
            _wait_for_link(volume.name)
        return made

    def confirm_snapshots(self, requests: Sequence[SnapshotRequest]) -> tuple[ThinVolume, ...]:
        """What the batch really made, in the order of the requests; it is on stable storage then.

        An LV alone proves nothing: LVM commits it before the pool makes the snapshot. Only with LVM's and the
        kernel's transaction ids equal does each of them exist in the pool. Raises NotFoundError (an LV is missing),
        PoolError (ids differ, or an LV is not what was asked for).
        """
        self.settle({request.origin.vg for request in requests})
        found = [self.inventory(vg) for vg in sorted({request.origin.vg for request in requests})]
        by_name = {volume.name: volume for one in found for volume in one.volumes}
        missing = [str(request.volume) for request in requests if request.volume not in by_name]
        if missing:
            raise NotFoundError(f"LVM did not make {', '.join(missing)}", hint=_LOOK_HINT)
        made = tuple(by_name[request.volume] for request in requests)
        for request, volume in zip(requests, made, strict=True):
            _check_made(request, volume)
        ids = {pool.name: pool.transaction_id for one in found for pool in one.pools}
        for pool in {volume.pool for volume in made}:
            self.check_transaction(pool, ids.get(pool))
        return made

    def check_transaction(self, pool: VolumeName, said: int | None = None) -> int:
        """The pool's transaction id, equal at LVM and in the kernel. ``said`` is what LVM said just now.

        Raises PoolError when they differ, NotFoundError when the pool is not active.
        """
        for _ in range(_ATTEMPTS):
            lvm = said if said is not None else self.pool(pool).transaction_id
            said = None
            kernel = self._dmsetup.pool_status(pool).transaction_id
            if lvm == kernel:
                return kernel
            # Another command may stand between its commit and its message: look again.
            time.sleep(_PAUSE_SECONDS)
        raise _ids_differ(pool, lvm, kernel)

    # Changes.

    def settle(self, groups: Iterable[str]) -> None:
        """Have on stable storage what any LVM command has committed to these groups. Raises PoolError."""
        for vg in sorted(groups):
            _flush(check_lvm_name(vg))

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
        """Make an empty thin volume of ``size`` bytes (LVM rounds up to its extents). Raises SpaceError."""
        _check_same_group(name, pool)
        words = ["lvcreate", "-V", f"{align_up(size, SECTOR)}b", "--thinpool", str(pool), "--name", name.lv]
        words += ["--wipesignatures", "n", "-an", "--setactivationskip", "y" if skip else "n"]
        _change([*words, *lvm_commands.tag_options("--addtag", tags)], f"pool {pool}", name.vg)
        if active:
            self.activate([name])
        return self.volume(name)

    def remove(self, names: Sequence[VolumeName]) -> None:
        """Remove volumes, in one command. Those already gone are success.

        Raises BusyError naming those that are open, or that somebody's volume stands on; the others are gone then.
        """
        standing = self.standing_on(names)
        self._remove([name for name in names if name not in standing])
        for name, others in standing.items():
            raise BusyError(
                f"not removed: {name}: {_listed(others)} would go with it",
                hint=f"when nobody needs that any more: lvremove {' '.join(_texts(others))}",
            )

    def standing_on(self, names: Sequence[VolumeName]) -> dict[VolumeName, tuple[VolumeName, ...]]:
        """Of these volumes those with which others would go that are not among them: LVM asks, and we say yes."""
        found: dict[VolumeName, tuple[VolumeName, ...]] = {}
        for vg in sorted({name.vg for name in names}):
            with suppress(NotFoundError):  # the group is gone, and all that was in it
                inventory = self.inventory(vg)
                for name in names:
                    others = tuple(one for one in inventory.standing_on(name) if one not in names)
                    if name.vg == vg and others:
                        found[name] = others
        return found

    def _remove(self, names: Sequence[VolumeName]) -> None:
        if not names:
            return
        done = _change(
            ["lvremove", "--yes", *_texts(names)],
            _listed(names),
            *{name.vg for name in names},
            ok=(0, _FAILED),
        )
        if done.status == 0:
            return
        wanted = set(names)
        left = [volume for volume in self.volumes() if volume.name in wanted]
        if not left:
            return
        if any(volume.open for volume in left):
            in_use = ", ".join(str(volume.name) for volume in left if volume.open)
            raise BusyError(
                f"in use, not removed: {in_use}", hint=f"see who has it open: lsof /dev/{left[0].name}"
            )
        raise CommandError(done.argv, done.status, done.stderr, hint=_LOOK_HINT)

    def activate(self, names: Sequence[VolumeName]) -> None:
        """Activate volumes, also those that activation skips; their device paths exist on return.

        Read-only volumes come up read-only. (LVM's ``read_only_volume_list`` is no way for others: it loads the
        pool's own table read-only then, which the kernel refuses.) Raises NotFoundError.
        """
        if not names:
            return
        try:
            _run(
                ["lvchange", "-ay", "-K", *_texts(names)],
                timeout=_TIMEOUT,
                kill_on_timeout=False,
                groups={name.vg for name in names},
            )
        except CommandError as error:
            raise _not_found(error, _listed(names)) or error from error
        for name in names:
            _wait_for_link(name)

    def activate_group(self, vg: str) -> None:
        """Activate what a boot activates of a group, leaked blocks in its pools mended. Raises CommandError."""
        config = f'global{{thin_check_options=["-q","{_MEND_LEAKS}"]}}'
        _run(
            ["vgchange", "--config", config, "-aay", check_lvm_name(vg)],
            timeout=_CHECK_TIMEOUT,
            kill_on_timeout=False,
            hint=f"look at its pools: lvs -a {vg}; dmesg",
            groups=(vg,),
        )
        _flush(vg)

    def deactivate(self, names: Sequence[VolumeName]) -> None:
        """Deactivate volumes. Raises BusyError naming one that is open."""
        if not names:
            return
        done = _run(
            ["lvchange", "-an", *_texts(names)],
            timeout=_TIMEOUT,
            ok=(0, _FAILED),
            kill_on_timeout=False,
            groups={name.vg for name in names},
        )
        if done.status == 0:
            return
        wanted = set(names)
        active = [volume for volume in self.volumes() if volume.name in wanted and volume.active]
        if not active:
            return
        in_use = ", ".join(str(volume.name) for volume in active)
        raise BusyError(
            f"in use, still active: {in_use}", hint=f"see who has it open: lsof /dev/{active[0].name}"
        )

    def change_tags(
        self,
        name: VolumeName,
        *,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        read_only: bool = False,
    ) -> None:
        """Add and remove tags in ONE commit: there is no moment with one half of it.

        ``read_only`` makes a writable volume read-only in the same commit. Raises NotFoundError.
        """
        options = lvm_commands.tag_options("--addtag", add) + lvm_commands.tag_options("--deltag", remove)
        if read_only:
            options += ["--permission", "r"]
        if options:
            _change(["lvchange", *options, str(name)], str(name), name.vg)

    def set_read_only(self, names: Sequence[VolumeName]) -> None:
        """Make volumes read-only, also where they are active. Already so is success. Raises NotFoundError."""
        self._permit("r", names)

    def set_writable(self, names: Sequence[VolumeName]) -> None:
        """Make volumes writable. Already so is success. Raises NotFoundError."""
        self._permit("rw", names)

    def _permit(self, permission: str, names: Sequence[VolumeName]) -> None:
        if not names:
            return
        groups = {name.vg for name in names}
        words = ["lvchange", "--permission", permission, *_texts(names)]
        done = _change(words, _listed(names), *groups, ok=(0, _FAILED))
        if done.status == 0:
            return
        # It fails for what is so already, after it has changed the others; and for what went wrong.
        there = {volume.name: volume for vg in groups for volume in self.volumes(vg)}
        for name in names:
            if name not in there:
                raise NotFoundError(f"{name} does not exist", hint="see what there is: vgs; lvs")
            if there[name].read_only is not (permission == "r") or not _only_already(done.stderr):
                raise _meaning(CommandError(done.argv, done.status, done.stderr, hint=_LOOK_HINT), str(name))

    def resize(self, name: VolumeName, size: int) -> ThinVolume:
        """Grow or shrink a thin volume to ``size`` bytes (rounded up to extents); its content is not looked at.

        Mappings beyond a smaller size stay and reappear after growing again. Raises NotFoundError, SpaceError.
        """
        volume = self.volume(name)
        if volume.size == size:
            return volume
        words = ["lvresize", "--yes", "--force", "--size", f"{align_up(size, SECTOR)}b", str(name)]
        try:
            # Since 2.03.17 LVM else looks at what a guest wrote there, and has opinions about it.
            _change([*words, "--fs", "ignore"], str(name), name.vg)
        except CommandError as error:
            if "unrecognized option" not in error.stderr.lower():
                raise
            _change(words, str(name), name.vg)
        return self.volume(name)

    def rename(self, name: VolumeName, new: str) -> None:
        """Give a volume another name in its group. Raises NotFoundError, ConflictError (the name is taken)."""
        _change(["lvrename", name.vg, name.lv, check_lvm_name(new)], f"{name} or {new}", name.vg)


def _run(
    argv: Sequence[str],
    *,
    timeout: float,
    stdin: str | None = None,
    ok: Collection[int] = (0,),
    hint: str = "",
    kill_on_timeout: bool = True,
    environment: Mapping[str, str] | None = None,
    groups: Iterable[str] | None = None,
) -> Completed:
    """As :func:`run`; what did not end in time for a lock that another command holds says which.

    ``groups`` are those that it needs, None for all.
    """
    try:
        return run(
            argv,
            stdin=stdin,
            timeout=timeout,
            ok=ok,
            hint=hint,
            kill_on_timeout=kill_on_timeout,
            environment=environment,
        )
    except CommandError as error:
        if error.status is not None:
            raise
        busy = timed_out(argv[0], timeout, groups, goes_on=not kill_on_timeout)
        raise busy or error from error


def _only_already(stderr: str) -> bool:
    """Whether ``lvchange --permission`` complains of nothing but that something is so already."""
    lines = [line for line in map(str.strip, stderr.splitlines()) if line and not line.startswith("WARNING")]
    return all("is already read only" in line or "is already writable" in line for line in lines)


def _wait_for_link(name: VolumeName) -> None:
    """A volume that was active already, or that LVM's udev cookie timed out for, may not have its link yet."""
    deadline = time.monotonic() + _LINK_SECONDS
    while True:
        try:
            BlockDevice(name.path).close()
            return
        except NotFoundError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_LINK_POLL_SECONDS)


def _report(command: str, fields: str, select: str | None, scope: list[str]) -> str:
    argv = [
        command,
        "--config",
        'report{time_format="%s"}',
        "--reportformat",
        "json",
        "--units",
        "b",
        "--nosuffix",
    ]
    argv += ["-o", fields, *(["-S", select] if select else []), *scope]
    try:
        groups = {word.partition("/")[0] for word in scope if not word.startswith("-")}
        return _run(argv, timeout=_REPORT_TIMEOUT, hint="try it by hand: lvs", groups=groups or None).stdout
    except CommandError as error:
        raise (
            _not_found(error, " ".join(word for word in scope if not word.startswith("-"))) or error
        ) from error


def _physical_volumes(vg: str) -> tuple[str, ...]:
    """Devices of a group, as LVM sees them now; those that are missing have no name."""
    listed = _report("vgs", "pv_name", None, [check_lvm_name(vg)])
    return lvm_report.parse_devices(listed)


_flush = GroupFlush(_physical_volumes)


def _change(words: Sequence[str], what: str, *groups: str, ok: Sequence[int] = (0,)) -> Completed:
    """Run a command that changes these groups, and have what it committed on stable storage."""
    # -An: no backup file either; LVM's own metadata on the disks is what counts.
    argv = [words[0], "--config", lvm_commands.NO_ARCHIVE, "-An", *words[1:]]
    try:
        done = _run(argv, timeout=_TIMEOUT, ok=ok, kill_on_timeout=False, hint=_LOOK_HINT, groups=groups)
    except CommandError as error:
        raise _meaning(error, what) from error
    for vg in groups:
        with (
            suppress(NotFoundError) if done.status else nullcontext()
        ):  # it went meanwhile, and that was allowed
            _flush(vg)
    return done


def _meaning(error: CommandError, what: str) -> ThinsyncError:
    """What a failed change of ``what`` means to a caller."""
    text = error.stderr.lower()
    if any(word in text for word in _NO_ROOM):
        return SpaceError(f"no room for {what}: {error}", hint=_ROOM_HINT)
    if "already exists" in text:
        return ConflictError(f"{what}: {error}", hint="see what has that name: lvs -o+tags")
    return _not_found(error, what) or error


def _not_found(error: CommandError, what: str) -> NotFoundError | None:
    text = error.stderr.lower()
    if (
        "failed to find logical volume" in text
        or "not found" in text
        or "cannot process volume group" in text
    ):
        return NotFoundError(f"{what} does not exist", hint="see what there is: vgs; lvs")
    return None


def _check_made(request: SnapshotRequest, volume: ThinVolume) -> None:
    if volume.origin != request.origin.lv or set(volume.tags) != set(request.tags):
        raise PoolError(
            f"{volume.name} is not the snapshot of {request.origin} that was asked for",
            hint=f"see: lvs -o+tags,origin {volume.name}",
        )


def _ids_differ(pool: VolumeName, lvm: int, kernel: int) -> PoolError:
    # One ahead: a killed command, whose message LVM sends at its next one, or whose id recover raises.
    # Anything else nobody mends by himself.
    if lvm == kernel + 1:
        hint = "a killed LVM command left a snapshot half made: thinsync-vm recover"
    else:
        device = dm_name(pool, "tpool")
        hint = (
            f"see whether a volume is known to one of the two only: thinsync-vm pool {pool}; if none is: "
            f'dmsetup message {device} 0 "set_transaction_id {kernel} {lvm}"'
        )
    return PoolError(
        f"pool {pool}: LVM's transaction id is {lvm}, the kernel's {kernel}", hint=hint, retry=True
    )


def _failed(what: str, done: Completed, otherwise: str) -> ThinsyncError:
    text = f"{done.stdout}\n{done.stderr}"
    if "unexpected transaction id" in text:
        return PoolError(f"{what}: {otherwise}: {_words(text)}", hint="see: thinsync-vm check")
    if "flock failed" in text or "can't get lock" in text.lower():
        return BusyError(
            f"{what}: {otherwise}: LVM is busy", hint="try again: another LVM command was running"
        )
    if any(word in text.lower() for word in _NO_ROOM):
        return SpaceError(f"{what}: {otherwise}: {_words(text)}", hint=_ROOM_HINT)
    return CommandError((what,), done.status, done.stderr.strip() or otherwise, hint=_LOOK_HINT)


def lacks_room(output: str) -> bool:
    """Whether LVM says that a group's text, a pool's data or its metadata has no room."""
    return any(word in output.lower() for word in _NO_ROOM)


def _words(text: str) -> str:
    return " / ".join(line.strip() for line in text.splitlines() if line.strip())[:300]


def _check_same_group(name: VolumeName, pool: VolumeName) -> None:
    if name.vg != pool.vg:
        raise NotFoundError(
            f"volume {name} cannot lie in pool {pool}: another volume group",
            hint=f"choose a pool of {name.vg}: lvs -S segtype=thin-pool {name.vg}",
        )


def _texts(names: Iterable[VolumeName]) -> list[str]:
    return [str(name) for name in names]


def _listed(names: Iterable[VolumeName]) -> str:
    return ", ".join(_texts(names))
