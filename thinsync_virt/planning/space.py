"""Is there room? A thin pool is finite in four ways, and each is looked at before anything is made.

Data and metadata blocks; the volume group's text area (LVM keeps its metadata as text, some 620 bytes for a
tagged snapshot); and the pool's time, which counts snapshots and must stay below 2^24, since beyond it the kernel
packs it over the block numbers (``dm-thin-metadata.c``, ``pack_block_time``).
"""

from __future__ import annotations

from thinsync_virt.errors import Code
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.states import PoolReport
from thinsync_virt.model.volumes import PoolMode
from thinsync_virt.units import MIB, format_size

END_OF_TIME = 1 << 24
TIME_RESERVE = 16
TIME_WARNING = 1 << 20
TEXT_PER_VOLUME = 700
METADATA_BLOCK = 4096
# A leaf holds 126 to 252 mappings; shadowing on the way to it and the space maps double that at worst.
METADATA_PER_MAPPING = 64
WARN_PERCENT = 80


def judge_pool(
    report: PoolReport, *, where: str, snapshots: int = 0, volumes: int = 0, data: int = 0
) -> tuple[Finding, ...]:
    """Health and head room of one pool.

    For ``snapshots`` more snapshots, ``volumes`` more LVs in all and ``data`` more bytes; ``where`` names the host.
    """
    subject = f"{where}: pool {report.pool.name}"
    findings = [
        *_judge_health(report, subject),
        _judge_data(report, subject, data),
        _judge_metadata(report, subject, data),
        _judge_text(report, f"{where}: volume group {report.group.name}", volumes),
        _judge_time(report, subject, snapshots),
    ]
    return tuple(findings)


def _judge_health(report: PoolReport, subject: str) -> list[Finding]:
    status, pool = report.status, report.pool
    if status.mode is not PoolMode.RW or status.needs_check:
        state = "needs a check" if status.needs_check else f"is in mode {status.mode.value}"
        hint = (
            f"give it room: lvextend -L +SIZE {pool.name}"
            if status.mode is PoolMode.OUT_OF_DATA_SPACE
            else f"stop what uses it and repair it: lvconvert --repair {pool.name} (see lvmthin(7))"
        )
        return [Finding(Severity.REFUSAL, subject, f"the pool {state}", hint, Code.POOL)]
    if pool.transaction_id != status.transaction_id:
        return [
            Finding(
                Severity.REFUSAL,
                subject,
                f"LVM's transaction id is {pool.transaction_id}, the kernel's {status.transaction_id}:"
                " a command was killed half-way, or the pool was changed behind LVM's back",
                "run: thinsync-vm recover. If it stays, see 'transaction ids' in docs/lvm-thin.md",
                Code.POOL,
            )
        ]
    return [Finding(Severity.OK, subject, "healthy")]


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
    reserve = min(total // 4, 4 * MIB)
    needed = -(-data // report.pool.chunk_size) * METADATA_PER_MAPPING
    if free < reserve + needed:
        return Finding(
            Severity.REFUSAL,
            subject,
            f"{text}; {format_size(reserve + needed)} are needed (LVM keeps {format_size(reserve)} back)",
            grow,
            Code.SPACE,
        )
    if total and free * 100 < total * (100 - WARN_PERCENT):
        return Finding(Severity.WARNING, subject, text, grow)
    return Finding(Severity.OK, subject, text)


def _judge_text(report: PoolReport, subject: str, volumes: int) -> Finding:
    group = report.group
    left = group.text_free // TEXT_PER_VOLUME
    text = f"room for about {left} more volumes in LVM's metadata area of {format_size(group.text_size)}"
    hint = "remove snapshots that nobody needs; a new group gets room with: vgcreate --metadatasize 16m"
    if volumes and left < volumes:
        return Finding(Severity.REFUSAL, subject, f"{text}; {volumes} are needed", hint, Code.SPACE)
    if left < 100:
        return Finding(Severity.WARNING, subject, text, hint)
    return Finding(Severity.OK, subject, text)


def _judge_time(report: PoolReport, subject: str, snapshots: int) -> Finding:
    left = END_OF_TIME - 1 - report.time
    text = f"{report.time} snapshots in its life, {max(left, 0)} to go"
    hint = "move its volumes to a new pool: past 2^24 snapshots the kernel mixes up chunks silently"
    if left < snapshots + TIME_RESERVE:
        return Finding(Severity.REFUSAL, subject, text, hint, Code.POOL)
    if left < TIME_WARNING:
        return Finding(Severity.WARNING, subject, text, hint)
    return Finding(Severity.OK, subject, text)
