"""dmsetup: what the kernel says about thin pools and volumes, and the few messages that we send to a pool.

``dmsetup status --noflush`` answers one line per target (without ``--noflush`` asking commits the pool)::

    0 8388608 thin-pool 4 118/1024 512/65536 - rw discard_passdown queue_if_no_space - 1024
    start length thin-pool TRANSACTION METADATA DATA HELD_ROOT|- MODE DISCARDS WHEN_FULL needs_check|- LOW_WATER
    0 8388608 thin-pool Fail | Error
    0 524288 thin 4096 524287        start length thin MAPPED_SECTORS HIGHEST_SECTOR|-
    0 524288 thin Fail
    vg0-web01: 0 524288 thin 4096 524287        when no device is named: of each
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from thinsync_virt.errors import BusyError, CommandError, NotFoundError, PoolError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.volumes import PoolMode, PoolStatus
from thinsync_virt.system.dm_names import dm_name, is_suspended, split_dm_name
from thinsync_virt.system.process import Completed, run
from thinsync_virt.units import SECTOR

_TIMEOUT = 20.0
_STATUS_HINT = "see it by hand: dmsetup status; a kernel newer than this program needs a newer version of it"
_MODES = {"rw": PoolMode.RW, "ro": PoolMode.READ_ONLY, "out_of_data_space": PoolMode.OUT_OF_DATA_SPACE}
FAILED = PoolStatus(
    transaction_id=0,
    used_metadata=0,
    total_metadata=0,
    used_data=0,
    total_data=0,
    held_root=None,
    mode=PoolMode.FAILED,
    needs_check=False,
    queue_if_no_space=False,
)
"""Of a pool of which the kernel says no more than that."""


@dataclass(frozen=True, slots=True)
class ThinStatus:
    """An active thin volume as the kernel sees it: bytes that are mapped, and the end of the highest mapping."""

    mapped: int
    highest_end: int


def parse_pool_status(line: str, pool: str) -> PoolStatus:
    """One line of ``dmsetup status`` of a pool. Raises PoolError when it is not one."""
    words = line.split()
    match words[2:]:
        case ["thin-pool", "Fail" | "Error"]:
            return FAILED
        case ["thin-pool", transaction, metadata, data, held, mode, _discards, full, check, *_] if (
            mode in _MODES
        ):
            try:
                used_metadata, total_metadata = _pair(metadata)
                used_data, total_data = _pair(data)
                return PoolStatus(
                    transaction_id=_number(transaction),
                    used_metadata=used_metadata,
                    total_metadata=total_metadata,
                    used_data=used_data,
                    total_data=total_data,
                    held_root=None if held == "-" else _number(held),
                    mode=_MODES[mode],
                    needs_check=check == "needs_check",
                    queue_if_no_space=full == "queue_if_no_space",
                )
            except ValueError:
                pass
    raise PoolError(f"pool {pool}: the kernel's status makes no sense: {line.strip()!r}", hint=_STATUS_HINT)


def parse_thin_status(line: str, volume: str) -> ThinStatus:
    """One line of ``dmsetup status`` of a thin volume. Raises PoolError when it failed or is not one."""
    match line.split()[2:]:
        case ["thin", "Fail" | "Error"]:
            raise PoolError(
                f"volume {volume} has failed in the kernel", hint="look at its pool: dmsetup status; dmesg"
            )
        case ["thin", mapped, highest]:
            try:
                end = 0 if highest == "-" else _number(highest) + 1
                return ThinStatus(_number(mapped) * SECTOR, end * SECTOR)
            except ValueError:
                pass
    raise PoolError(
        f"volume {volume}: the kernel's status makes no sense: {line.strip()!r}", hint=_STATUS_HINT
    )


def parse_thin_statuses(text: str) -> dict[VolumeName, ThinStatus]:
    """From ``dmsetup status --target thin``: ``NAME: `` before each line. What is not LVM's is passed over."""
    found: dict[VolumeName, ThinStatus] = {}
    for line in text.splitlines():
        name, _, status = line.partition(": ")
        known = split_dm_name(name)
        if known is not None and not known[1]:
            with contextlib.suppress(PoolError):
                found[known[0]] = parse_thin_status(status, name)
    return found


class DmSetup:
    """The kernel's side of LVM's thin pools and volumes. Implements the lease's ``MetadataSnapshots``."""

    def pool_status(self, pool: VolumeName) -> PoolStatus:
        """The state of an active pool. Raises NotFoundError when it is not active, PoolError on nonsense."""
        return parse_pool_status(_of_pool("status", "--noflush", pool=pool).stdout, str(pool))

    def thin_status(self, volume: VolumeName) -> ThinStatus:
        """What an active thin volume has mapped. Raises NotFoundError when it is not active, PoolError if failed."""
        return parse_thin_status(self._status(volume, "", f"volume {volume}"), str(volume))

    def thin_statuses(self) -> dict[VolumeName, ThinStatus]:
        """What every active thin volume of LVM has mapped, by one process; those that have failed are left out."""
        return parse_thin_statuses(_dmsetup("status", "--noflush", "--target", "thin").stdout)

    def reserve(self, pool: VolumeName) -> None:
        """Make the pool's one metadata snapshot. Raises BusyError if there is one already, PoolError otherwise."""
        try:
            self._message(pool, "reserve_metadata_snap")
        except CommandError as error:
            if "busy" in error.stderr.lower():
                raise BusyError(
                    f"pool {pool} holds a metadata snapshot already",
                    hint=f"wait for whoever reads it; if nobody does: thinsync-vm pool release {pool}",
                ) from error
            if error.status is None:
                # The kernel may still make it: whoever recorded the intent must keep that record.
                raise
            raise PoolError(
                f"pool {pool} refuses a metadata snapshot: {error}",
                hint="look at the pool: dmsetup status, dmesg; one that is read-only or failed takes none",
            ) from error

    def release(self, pool: VolumeName) -> None:
        """Release the pool's metadata snapshot. None there is success. Raises PoolError."""
        try:
            self._message(pool, "release_metadata_snap")
        except CommandError as error:
            if "invalid argument" in error.stderr.lower() and self.pool_status(pool).held_root is None:
                return
            raise PoolError(
                f"pool {pool} does not release its metadata snapshot: {error}",
                hint=f"try later: thinsync-vm pool release {pool}",
            ) from error

    def set_transaction_id(self, pool: VolumeName, current: int, wanted: int) -> None:
        """Raise the kernel's transaction id of a pool, under LVM's lock of its group. Raises CommandError."""
        self._message(pool, f"set_transaction_id {current} {wanted}")

    def suspended(self, volume: VolumeName) -> bool | None:
        """Whether an active volume is suspended (its I/O hangs); None if it is not active."""
        return is_suspended(dm_name(volume))

    def resume(self, volume: VolumeName) -> None:
        """Resume a suspended volume (one left so by a killed LVM command). Raises CommandError."""
        # Without --noudevsync it would wait for a udev that nobody promised.
        run(["dmsetup", "resume", "--noudevsync", dm_name(volume)], timeout=_TIMEOUT)

    def _status(self, volume: VolumeName, layer: str, what: str) -> str:
        try:
            return _dmsetup("status", "--noflush", dm_name(volume, layer)).stdout
        except CommandError as error:
            if _is_missing(error):
                raise NotFoundError(f"{what} is not active", hint=f"lvchange -ay -K {volume}") from error
            raise

    def _message(self, pool: VolumeName, message: str) -> None:
        _of_pool("message", after=("0", message), pool=pool)


def _of_pool(*before: str, pool: VolumeName, after: tuple[str, ...] = ()) -> Completed:
    """A dmsetup command on the kernel's pool. Raises NotFoundError when it is not active.

    LVM gives it the layer ``tpool`` when its first thin volume is activated; until then the pool's own device is it.
    """
    # The third try is for the first volume that appears between the first two.
    for layer in ("tpool", "", "tpool"):
        try:
            done = _dmsetup(*before, dm_name(pool, layer), *after)
        except CommandError as error:
            if not _is_missing(error):
                raise
            continue
        if layer or "status" not in before or " thin-pool " in done.stdout:
            return done
    raise NotFoundError(f"pool {pool} is not active", hint=f"lvchange -ay {pool}")


def _is_missing(error: CommandError) -> bool:
    return "does not exist" in error.stderr.lower() or "not found" in error.stderr.lower()


def _dmsetup(*arguments: str) -> Completed:
    return run(["dmsetup", *arguments], timeout=_TIMEOUT)


def _pair(text: str) -> tuple[int, int]:
    used, _, total = text.partition("/")
    return _number(used), _number(total)


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(text)
    return int(text)
