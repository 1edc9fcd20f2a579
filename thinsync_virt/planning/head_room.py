"""A pool's health in one word, and how much of each of its four limits is used, with what is to be said of it."""

from __future__ import annotations

from thinsync_virt.model.findings import Finding
from thinsync_virt.model.pools import HeadRoom, Health, Limit
from thinsync_virt.model.states import PoolReport
from thinsync_virt.model.volumes import Pool, PoolMode, PoolStatus
from thinsync_virt.planning.pool_time import Pace
from thinsync_virt.planning.space import END_OF_TIME, METADATA_BLOCK, judge_pool

_MODES = {
    PoolMode.FAILED: Health.FAILED,
    PoolMode.READ_ONLY: Health.READ_ONLY,
    PoolMode.OUT_OF_DATA_SPACE: Health.OUT_OF_DATA_SPACE,
}
_PARTIAL = "partial"


def find_health(pool: Pool, status: PoolStatus, lvm_says: str = "") -> Health:
    """The worst that is true of a pool. ``lvm_says`` is LVM's own word (``lv_health_status``)."""
    if status.mode is PoolMode.FAILED:
        return Health.FAILED
    if status.needs_check:
        return Health.NEEDS_CHECK
    if status.mode in _MODES:
        return _MODES[status.mode]
    if pool.transaction_id != status.transaction_id:
        return Health.IDS_APART
    return Health.PARTIAL if lvm_says == _PARTIAL else Health.OK


def judge_room(
    report: PoolReport, *, where: str, pace: Pace | None = None, time_known: bool = True
) -> tuple[Finding, tuple[HeadRoom, ...]]:
    """What is said of a pool's health, and its four limits; fewer where the kernel does not tell of them."""
    health, data, metadata, text, time = judge_pool(report, where=where, pace=pace)
    status, chunk = report.status, report.pool.chunk_size
    # LVM writes a new copy of its text beside the old one: half of the area is what there is.
    text_total = max(report.group.text_size // 2, report.group.text_free)
    rooms = [
        HeadRoom(
            Limit.DATA,
            status.used_data * chunk,
            status.total_data * chunk,
            "bytes",
            data,
            "when it is full, writes wait for a minute, then fail, for every guest on the pool",
        ),
        HeadRoom(
            Limit.METADATA,
            status.used_metadata * METADATA_BLOCK,
            status.total_metadata * METADATA_BLOCK,
            "bytes",
            metadata,
            "when it is full, the pool becomes read-only and needs a repair",
        ),
        HeadRoom(
            Limit.TEXT,
            text_total - report.group.text_free,
            text_total,
            "bytes",
            text,
            "when it is full, LVM can make no more volumes in the group, and change no tag",
        ),
        HeadRoom(
            Limit.TIME,
            report.time,
            END_OF_TIME - 1,
            "snapshots",
            time,
            "past it the kernel mixes up chunks without a word",
        ),
    ]
    known = {Limit.TEXT} if status.mode is PoolMode.FAILED else set(Limit)
    if not time_known:
        known.discard(Limit.TIME)
    return health, tuple(room for room in rooms if room.limit in known)
