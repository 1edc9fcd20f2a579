"""Is there room? A thin pool is finite in four ways, and each is looked at before anything is made.

Data and metadata blocks; the volume group's text area (LVM keeps its metadata as text, some 620 bytes for a
tagged snapshot with names of usual length); and the pool's time, which counts snapshots and must stay below 2^24,
since beyond it the kernel packs it over the block numbers (``dm-thin-metadata.c``, ``pack_block_time``).
"""

from __future__ import annotations

from math import gcd

from thinsync_virt.errors import Code
from thinsync_virt.model.extents import Announcement
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.states import PoolReport
from thinsync_virt.model.volumes import PoolMode
from thinsync_virt.planning.pool_time import Pace
from thinsync_virt.units import MIB, align_up, format_size

APART_HINT = (
    "run: thinsync-vm recover. If it stays, see 'transaction ids' in"
    " /usr/share/doc/thinsync-virt/lvm-thin.md.gz"
)
"""Where LVM and the kernel name different transactions of a pool."""
END_OF_TIME = 1 << 24
TIME_RESERVE = 16
TIME_WARNING = 1 << 20
TEXT_PER_VOLUME = 700
"""What LVM writes for a tagged volume whose names are of usual length."""
LV_TEXT = 400
"""What LVM writes for a thin snapshot with short names and no tag, and the message to the pool that it queues."""
LV_NAMES = 4 * 127
"""The longest names in that: its own, its origin's, its pool's and the host's."""
METADATA_BLOCK = 4096
# A leaf holds 126 to 252 mappings; shadowing on the way to it and the space maps double that at worst.
METADATA_PER_MAPPING = 64
WARN_PERCENT = 80
WARN_YEARS = 1.0
# A burst of an hour, such as a first test, says nothing about a year.
_SURE_DAYS = 1.0
_FOR_EVER = 1000


def judge_pool(
    report: PoolReport,
    *,
    where: str,
    snapshots: int = 0,
    volumes: int = 0,
    data: int = 0,
    volume_text: int = TEXT_PER_VOLUME,
    pace: Pace | None = None,
) -> tuple[Finding, ...]:
    """Health and head room of one pool: health, data, metadata, text area, time, in this order.

    For ``snapshots`` more snapshots, ``volumes`` more LVs in all and ``data`` more bytes; ``where`` names the host.
    Each of those LVs takes ``volume_text`` bytes of LVM's text at most (:func:`volume_text`).
    ``pace`` is how fast snapshots were made in the last days, where that is known.
    """
    subject = f"{where}: pool {report.pool.name}"
    findings = [
        *_judge_health(report, subject),
        _judge_data(report, subject, data),
        _judge_metadata(report, subject, data),
        _judge_text(report, f"{where}: volume group {report.group.name}", volumes, volume_text),
        _judge_time(report, subject, snapshots, pace),
    ]
    return tuple(findings)


def repair_hint(pool: VolumeName) -> str:
    """How a pool is repaired: LVM refuses that while it, or a volume in it, is active."""
    return (
        f"stop what uses it; then: lvchange -an -S pool_lv={pool.lv} {pool.vg}; lvchange -an {pool};"
        f" lvconvert --repair {pool}"
    )


def _judge_health(report: PoolReport, subject: str) -> list[Finding]:
    status, pool = report.status, report.pool
    if status.mode is not PoolMode.RW or status.needs_check:
        state = "needs a check" if status.needs_check else f"is in mode {status.mode.value}"
        hint = (
            f"give it room: lvextend -L +SIZE {pool.name}"
            if status.mode is PoolMode.OUT_OF_DATA_SPACE
            else f"{repair_hint(pool.name)} (see lvmthin(7))"
        )
        return [Finding(Severity.REFUSAL, subject, f"the pool {state}", hint, Code.POOL)]
    if pool.transaction_id != status.transaction_id:
        return [
            Finding(
                Severity.REFUSAL,
                subject,
                f"LVM's transaction id is {pool.transaction_id}, the kernel's {status.transaction_id}:"
                " a command was killed half-way, or the pool was changed behind LVM's back",
                APART_HINT,
                Code.POOL,
            )
        ]
    return [Finding(Severity.OK, subject, f"healthy, in chunks of {format_size(pool.chunk_size)}")]


def _judge_data(report: PoolReport, subject: str, data: int) -> Finding:
    chunk = report.pool.chunk_size
    total = report.status.total_data * chunk
    used = report.status.used_data * chunk
    percent = 100 * used / total if total else 100.0
    text = f"data {percent:.1f} % used, {format_size(total - used)} of {format_size(total)} free"
    grow = f"lvextend -L +SIZE {report.pool.name}"
    limit = total * report.threshold // 100
    if used >= limit:
        reason = f"{text}: LVM refuses snapshots above {report.threshold} %"
        return Finding(Severity.REFUSAL, subject, reason, grow, Code.SPACE)
    if used + data > limit:
        return Finding(Severity.REFUSAL, subject, f"{text}; {format_size(data)} are needed", grow, Code.SPACE)
    if percent >= WARN_PERCENT:
        return Finding(Severity.WARNING, subject, text, grow)
    return Finding(Severity.OK, subject, text)


def _judge_metadata(report: PoolReport, subject: str, data: int) -> Finding:
    total = report.status.total_metadata * METADATA_BLOCK
    free = total - report.status.used_metadata * METADATA_BLOCK
    text = f"metadata {100 - 100 * free / total if total else 100:.1f} % used, {format_size(free)} free"
    grow = f"lvextend --poolmetadatasize +SIZE {report.pool.name}"
    # LVM makes snapshots while more than that is free, and its threshold holds for metadata too (thin_manip.c).
    kept = max(min(total // 4, 4 * MIB), total * (100 - report.threshold) // 100)
    needed = kept + -(-data // report.pool.chunk_size) * METADATA_PER_MAPPING
    if free <= needed:
        return Finding(
            Severity.REFUSAL,
            subject,
            f"{text}; more than {format_size(needed)} are needed (LVM keeps {format_size(kept)} back)",
            grow,
            Code.SPACE,
        )
    if total and free * 100 < total * (100 - WARN_PERCENT):
        return Finding(Severity.WARNING, subject, text, grow)
    return Finding(Severity.OK, subject, text)


def room_needed(coming: Announcement, *, source_chunk: int, target_chunk: int, size: int) -> int:
    """How many bytes of its pool a disk of ``size`` bytes takes at most for what is coming.

    A pool gives whole chunks. Where the source's are made of whole chunks of the target's, what comes is what is
    taken. Else each extent may touch, at its ends, chunks that it does not fill (and an unmapped part of one is
    written as zeroes); how many at most follows from where extents can begin: at multiples of the source's chunk.
    Never more than the whole disk. This is a bound, not an estimate: a pool that is not refused may still fill up
    by others, so the receiver watches it.
    """
    whole = align_up(size, target_chunk)
    if source_chunk % target_chunk == 0:
        return min(whole, align_up(coming.data, target_chunk))
    step = gcd(source_chunk, target_chunk)
    # A range of L bytes from a multiple of the step touches at most (L + target - 2 step) // target + 1 chunks.
    ends = target_chunk - 2 * step
    by_extent = (align_up(coming.changed, step) + coming.extents * ends) // target_chunk + coming.extents
    by_chunk = -(-coming.changed // source_chunk) * ((source_chunk + ends) // target_chunk + 1)
    return min(whole, min(by_extent, by_chunk) * target_chunk)


def volume_text(tags: int) -> int:
    """How many bytes of LVM's text one volume of ours takes at most, with ``tags`` characters of tags."""
    return LV_TEXT + LV_NAMES + tags


def _judge_text(report: PoolReport, subject: str, volumes: int, per_volume: int) -> Finding:
    group = report.group
    left = group.text_free // TEXT_PER_VOLUME
    text = f"room for about {left} more volumes in LVM's metadata area of {format_size(group.text_size)}"
    hint = "remove snapshots that nobody needs; a new group gets room with: vgcreate --metadatasize 16m"
    needed = volumes * per_volume
    if group.text_free < needed:
        reason = f"{text}; {volumes} are needed, with up to {per_volume} bytes of text each"
        return Finding(Severity.REFUSAL, subject, reason, hint, Code.SPACE)
    if left < 100:
        return Finding(Severity.WARNING, subject, text, hint)
    return Finding(Severity.OK, subject, text)


def _judge_time(report: PoolReport, subject: str, snapshots: int, pace: Pace | None) -> Finding:
    left = END_OF_TIME - 1 - report.time
    text = f"{report.time} snapshots in its life, {max(left, 0)} to go{format_pace(pace, left)}"
    hint = "move its volumes to a new pool: past 2^24 snapshots the kernel mixes up chunks silently"
    if left < snapshots + TIME_RESERVE:
        return Finding(Severity.REFUSAL, subject, text, hint, Code.POOL)
    years = pace.years(left) if pace is not None and pace.days >= _SURE_DAYS else None
    if left < TIME_WARNING or (years is not None and years < WARN_YEARS):
        return Finding(Severity.WARNING, subject, text, hint)
    return Finding(Severity.OK, subject, text)


def format_pace(pace: Pace | None, left: int) -> str:
    """``: at 2880 a day for another 15.9 years``, to follow a number of snapshots; "" where it is not known."""
    if pace is None:
        return ""
    years = pace.years(left)
    if years is None:
        return ": at present none are made"
    lasts = f"{years:.1f} years" if years < _FOR_EVER else f"more than {_FOR_EVER} years"
    return f": at {pace.per_day:.0f} a day for another {lasts}"
