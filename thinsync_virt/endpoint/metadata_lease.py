"""The borrowed metadata snapshot of a pool (invariant 9).

A pool has one metadata snapshot at most, whoever made it; it survives its maker and a reboot, and while it is held the
pool frees nothing. So each is held under the pool's lock and stands in a record on stable storage::

    no record          --record intent-->   {"block": null}   --reserve, read its block-->   {"block": 900}
       ^                                                                                         |
       +--------------------- remove the record <-- release <-- still the same block? -----------+

A record found under the lock belongs to a process that is gone: what it names is released. A metadata snapshot without
such a record is somebody else's: waited for, then named in an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from thinsync_virt.errors import BusyError, ConflictError, PoolError, ThinsyncError
from thinsync_virt.model.names import VolumeName, check_lvm_uuid
from thinsync_virt.model.pools import Holder, HolderKind
from thinsync_virt.model.volumes import Pool, PoolMode, PoolStatus
from thinsync_virt.planning.space import repair_hint
from thinsync_virt.system.dmsetup import DmSetup
from thinsync_virt.system.files import read_if_there, remove_durably, write_durably
from thinsync_virt.system.locks import LOCKS, hold, holder

RECORDS = Path("/var/lib/thinsync/metadata-snapshots")

_POLL_SECONDS = 0.2
_VERSION = 1


class MetadataSnapshots(Protocol):
    """The kernel's side: :class:`DmSetup`, or a fake that passes the same contract tests."""

    def pool_status(self, pool: VolumeName) -> PoolStatus:
        """The pool's state, with the held root. Raises NotFoundError, PoolError."""
        ...

    def reserve(self, pool: VolumeName) -> None:
        """Make the metadata snapshot. Raises BusyError when there is one, PoolError."""
        ...

    def release(self, pool: VolumeName) -> None:
        """Release it; none there is success. Raises PoolError."""
        ...


@dataclass(frozen=True, slots=True)
class Lease:
    """A metadata snapshot that is ours: ``held_root`` is the metadata block of its superblock's copy."""

    pool: VolumeName
    held_root: int


@dataclass(frozen=True, slots=True)
class _Record:
    """``block`` is None from the intent until the kernel's answer is recorded."""

    block: int | None

    def owns(self, held_root: int) -> bool:
        return self.block is None or self.block == held_root


def lock_file(pool: Pool, locks: Path = LOCKS) -> Path:
    """The lock file of a pool."""
    return locks / check_lvm_uuid(pool.uuid)


@contextlib.contextmanager
def pool_lock(pool: Pool, *, wait: float, locks: Path = LOCKS) -> Iterator[None]:
    """Hold the pool's lock. ``wait``: seconds at most, 0 inside a freeze. Raises BusyError naming the holder."""
    with hold(lock_file(pool, locks), wait, what=f"pool {pool.name}"):
        yield


class MetadataLeases:
    """Borrows, recognises and gives back metadata snapshots on this host."""

    def __init__(
        self,
        kernel: MetadataSnapshots | None = None,
        *,
        locks: Path = LOCKS,
        records: Path = RECORDS,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kernel = kernel or DmSetup()
        self._locks = locks
        self._records = records
        self._sleep = sleep
        self._clock = clock

    @contextlib.contextmanager
    def hold(self, pool: Pool, *, lock_wait: float = 60.0, foreign_wait: float = 10.0) -> Iterator[Lease]:
        """Borrow the metadata snapshot for the length of the context.

        Waits ``lock_wait`` seconds for others of ours and ``foreign_wait`` for somebody else's snapshot. What was read
        inside is good only if the context is left without an error. Raises BusyError, PoolError, NotFoundError.
        """
        with pool_lock(pool, wait=lock_wait, locks=self._locks):
            self._clean(pool)
            lease = self._reserve(pool, self._clock() + foreign_wait)
            try:
                yield lease
            except BaseException as failure:
                try:
                    self._end(pool, lease)
                except ThinsyncError as second:  # the first failure is the one to tell
                    failure.add_note(
                        f"and the metadata snapshot of {pool.name} could not be given back: {second}"
                    )
                raise
            self._end(pool, lease)

    def recover(self, pool: Pool, *, lock_wait: float = 60.0) -> bool:
        """Release what a crash of ours left over. False if there was nothing. Raises BusyError, PoolError."""
        with pool_lock(pool, wait=lock_wait, locks=self._locks):
            return self._clean(pool)

    def release_foreign(self, pool: Pool, *, block: int | None = None, lock_wait: float = 60.0) -> bool:
        """The operator's way out: release the pool's metadata snapshot, whoever made it. False if there was none.

        Whoever reads it then fails or reads garbage: only after asking. ``block`` is the held root that was asked
        about, where it is to be that one. Raises BusyError, PoolError, ConflictError (it is another one by now).
        """
        with pool_lock(pool, wait=lock_wait, locks=self._locks):
            held = self._kernel.pool_status(pool.name).held_root
            if held is not None and block not in (None, held):
                raise ConflictError(
                    f"pool {pool.name}: the metadata snapshot that is held now is another one"
                    f" (metadata block {held}, not {block}); it was not released",
                    hint=f"who holds it? thinsync-vm pool {pool.name}",
                )
            if held is not None:
                self._kernel.release(pool.name)
            remove_durably(self._record_file(pool))
            return held is not None

    def is_ours(self, pool: Pool) -> bool | None:
        """Whether the metadata snapshot that is held now is ours; None if none is held. Raises as pool_status."""
        held = self._kernel.pool_status(pool.name).held_root
        record = self._read(pool)
        return None if held is None else record is not None and record.owns(held)

    def holder(self, pool: Pool) -> Holder:
        """Who holds the pool's metadata snapshot now. Raises as pool_status."""
        lock = lock_file(pool, self._locks)
        # Before the kernel is asked and after it: a run of ours may begin in between, or end.
        before, record_before = holder(lock), self._read(pool)
        held = self._kernel.pool_status(pool.name).held_root
        if held is None:
            return Holder(HolderKind.NOBODY)
        after, record_after = holder(lock), self._read(pool)
        if not any(record is not None and record.owns(held) for record in (record_before, record_after)):
            return Holder(HolderKind.FOREIGN, held)
        pid = before or after
        return Holder(HolderKind.RUNNING if pid else HolderKind.CRASHED, held, pid)

    def _reserve(self, pool: Pool, deadline: float) -> Lease:
        while True:
            self._wait_for_foreign(pool, deadline)
            self._write(pool, None)
            try:
                self._kernel.reserve(pool.name)
            except BusyError:
                # Somebody was faster: theirs must not look like ours.
                remove_durably(self._record_file(pool))
                if self._clock() >= deadline:
                    raise self._foreign(pool) from None
                continue
            except PoolError:
                remove_durably(self._record_file(pool))
                raise
            except ThinsyncError:
                # No answer in time: it may still be made, and then the record tells whose it is.
                raise
            except BaseException:
                self._undo_reserving(pool)
                raise
            break
        try:
            held = self._kernel.pool_status(pool.name).held_root
            if held is None:
                remove_durably(self._record_file(pool))
                raise BusyError(f"pool {pool.name}: our metadata snapshot vanished at once", hint=_WHO)
            self._write(pool, held)
        except BaseException as failure:
            with contextlib.suppress(ThinsyncError):
                failure.add_note("the metadata snapshot just made is released" if self._clean(pool) else "")
            raise
        return Lease(pool.name, held)

    def _wait_for_foreign(self, pool: Pool, deadline: float) -> None:
        while True:
            status = self._kernel.pool_status(pool.name)
            _check_usable(pool.name, status)
            if status.held_root is None:
                return
            if self._clock() >= deadline:
                raise self._foreign(pool)
            self._sleep(_POLL_SECONDS)

    def _undo_reserving(self, pool: Pool) -> None:
        """A signal has ended the command that reserves: by then the kernel may have made it, or not."""
        with contextlib.suppress(ThinsyncError):
            if self._kernel.pool_status(pool.name).held_root is not None:
                self._clean(pool)

    def _end(self, pool: Pool, lease: Lease) -> None:
        try:
            self._give_back(pool, lease)
        except ThinsyncError:
            raise
        except BaseException:
            # A signal has ended the command that releases.
            with contextlib.suppress(ThinsyncError):
                self._clean(pool)
            raise

    def _give_back(self, pool: Pool, lease: Lease) -> None:
        held = self._kernel.pool_status(pool.name).held_root
        if held == lease.held_root:
            self._kernel.release(pool.name)
            remove_durably(self._record_file(pool))
            return
        remove_durably(self._record_file(pool))
        raise BusyError(
            f"pool {pool.name}: our metadata snapshot was released by somebody else while it was read",
            hint=_WHO,
        )

    def _clean(self, pool: Pool) -> bool:
        """Under the lock: a record belongs to a process that is gone."""
        record = self._read(pool)
        if record is None:
            return False
        held = self._kernel.pool_status(pool.name).held_root
        ours = held is not None and record.owns(held)
        if ours:
            self._kernel.release(pool.name)
        remove_durably(self._record_file(pool))
        return ours

    def _foreign(self, pool: Pool) -> BusyError:
        return BusyError(
            f"somebody else holds the metadata snapshot of pool {pool.name}",
            hint=f"wait for that program to end; if it is gone: thinsync-vm pool release {pool.name}",
        )

    def _record_file(self, pool: Pool) -> Path:
        return self._records / check_lvm_uuid(pool.uuid)

    def _read(self, pool: Pool) -> _Record | None:
        content = read_if_there(self._record_file(pool))
        if content is None:
            return None
        try:
            block = json.loads(content)["block"]
        except (ValueError, KeyError, TypeError):
            # Only we write there, and whole: damage is no reason to take ours for somebody else's.
            return _Record(None)
        return _Record(block if isinstance(block, int) else None)

    def _write(self, pool: Pool, block: int | None) -> None:
        record = {"version": _VERSION, "pool": str(pool.name), "pid": os.getpid(), "block": block}
        write_durably(self._record_file(pool), json.dumps(record).encode() + b"\n")


_WHO = "no other program may release it: look for thin_dump, thin_delta and backup tools in cron and timers"


def _check_usable(pool: VolumeName, status: PoolStatus) -> None:
    if status.mode in (PoolMode.READ_ONLY, PoolMode.FAILED) or status.needs_check:
        state = "needs a check" if status.needs_check else f"is in mode {status.mode.value}"
        raise PoolError(f"pool {pool} {state}", hint=f"see dmesg; {repair_hint(pool)}")
