"""The four ways in which a pool is finite, each at its edge."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.values import DEFINITION, KEY, pool_report
from thinsync_virt.errors import Code
from thinsync_virt.model.extents import Announcement, Extent, ExtentKind, clip, coalesce
from thinsync_virt.model.findings import Finding, Severity, refusals
from thinsync_virt.model.points import Consistency
from thinsync_virt.model.states import PoolReport
from thinsync_virt.model.tags import Member, Role, Seal, format_tag, longest_tags
from thinsync_virt.model.volumes import PoolMode
from thinsync_virt.planning.space import (
    END_OF_TIME,
    TEXT_PER_VOLUME,
    TIME_RESERVE,
    TIME_WARNING,
    judge_pool,
    room_needed,
    volume_text,
)
from thinsync_virt.units import GIB, KIB, MIB, align_up

CHUNK = 64 * KIB


def judge(report: PoolReport, **wanted: int) -> tuple[Finding, ...]:
    return judge_pool(report, where="beta", pace=None, **wanted)


def worst(report: PoolReport, **wanted: int) -> Severity:
    order = list(Severity)
    return max((finding.severity for finding in judge(report, **wanted)), key=order.index)


def test_a_healthy_pool_is_found_good_in_all_ways() -> None:
    findings = judge(pool_report(), snapshots=4, volumes=5, data=100 * MIB)
    assert [finding.severity for finding in findings] == [Severity.OK] * 5


@given(
    st.integers(0, 1 << 25),
    st.integers(0, 20000),
    st.integers(0, 20000),
    st.integers(0, 10**6),
    st.integers(50, 100),
    st.integers(0, 4),
    st.integers(0, 2 * GIB),
)
def test_more_is_never_easier(
    time: int, used: int, metadata: int, text: int, threshold: int, count: int, data: int
) -> None:
    """A pool with room for much has room for less; and whatever stops a job says what to do."""
    report = pool_report(
        time=time,
        used_data=min(used, 16384),
        used_metadata=min(metadata, 16384),
        text_free=text,
        threshold=threshold,
    )
    much = refusals(judge(report, snapshots=count + 1, volumes=count + 1, data=2 * data))
    little = refusals(judge(report, snapshots=count, volumes=count, data=data))
    assert {(f.subject, f.code) for f in little} <= {(f.subject, f.code) for f in much}
    assert all(finding.hint for finding in much)
    assert all(finding.code in (Code.POOL, Code.SPACE) for finding in much)


@pytest.mark.parametrize(
    ("time", "snapshots", "severity"),
    [
        (0, 2, Severity.OK),
        (END_OF_TIME - 1 - TIME_WARNING, 2, Severity.OK),
        (END_OF_TIME - TIME_WARNING, 2, Severity.WARNING),
        (END_OF_TIME - 1 - TIME_RESERVE - 2, 2, Severity.WARNING),
        (END_OF_TIME - TIME_RESERVE - 2, 2, Severity.REFUSAL),
        (END_OF_TIME - 2, 1, Severity.REFUSAL),
        (END_OF_TIME - 2, 0, Severity.REFUSAL),
        (END_OF_TIME, 0, Severity.REFUSAL),
        ((1 << 32) - 1, 0, Severity.REFUSAL),
    ],
)
def test_the_end_of_time(time: int, snapshots: int, severity: Severity) -> None:
    finding = judge(pool_report(time=time), snapshots=snapshots)[-1]
    assert finding.severity is severity
    assert "-" not in finding.message  # never a negative number to go
    if severity is Severity.REFUSAL:
        assert finding.code is Code.POOL


@pytest.mark.parametrize(
    ("used", "threshold", "data", "severity"),
    [
        (0, 100, 0, Severity.OK),
        (0, 100, GIB, Severity.OK),
        (0, 100, GIB + 1, Severity.REFUSAL),
        (8192, 100, GIB // 2, Severity.OK),
        (8192, 100, GIB // 2 + CHUNK, Severity.REFUSAL),
        (13108, 100, 0, Severity.WARNING),
        (16383, 100, 0, Severity.WARNING),
        (16384, 100, 0, Severity.REFUSAL),
        (11468, 70, 0, Severity.OK),
        (11469, 70, 0, Severity.REFUSAL),
        (0, 70, GIB, Severity.REFUSAL),
    ],
)
def test_data_up_to_the_threshold(used: int, threshold: int, data: int, severity: Severity) -> None:
    finding = judge(pool_report(used_data=used, threshold=threshold), data=data)[1]
    assert finding.severity is severity, finding
    if severity is Severity.REFUSAL:
        assert finding.code is Code.SPACE
        assert "lvextend" in finding.hint


@pytest.mark.parametrize(
    ("used", "total", "data", "severity"),
    [
        # 64 MiB: LVM keeps 4 MiB back.
        (100, 16384, 0, Severity.OK),
        (13108, 16384, 0, Severity.WARNING),
        (16384 - 1025, 16384, 0, Severity.WARNING),
        (16384 - 1024, 16384, 0, Severity.REFUSAL),
        # One mapping costs up to 64 bytes: 1 GiB in 64 KiB chunks takes 1 MiB.
        (16384 - 1024 - 257, 16384, GIB, Severity.WARNING),
        (16384 - 1024 - 256, 16384, GIB, Severity.REFUSAL),
        # 4 MiB: a quarter of it.
        (767, 1024, 0, Severity.OK),
        (768, 1024, 0, Severity.REFUSAL),
    ],
)
def test_metadata(used: int, total: int, data: int, severity: Severity) -> None:
    finding = judge(pool_report(used_metadata=used, total_metadata=total), data=data)[2]
    assert finding.severity is severity, finding
    if severity is Severity.REFUSAL:
        assert finding.code is Code.SPACE
        assert "poolmetadatasize" in finding.hint


@pytest.mark.parametrize(
    ("used", "threshold", "data", "severity"),
    [
        (11468, 70, 0, Severity.OK),
        (11469, 70, 0, Severity.REFUSAL),
        (11468 - 256, 70, GIB, Severity.OK),
        (11469 - 256, 70, GIB, Severity.REFUSAL),
        (14745, 90, 0, Severity.WARNING),
        (14746, 90, 0, Severity.REFUSAL),
    ],
)
def test_metadata_up_to_the_threshold(used: int, threshold: int, data: int, severity: Severity) -> None:
    report = pool_report(used_metadata=used, total_metadata=16384, threshold=threshold)
    finding = judge(report, data=data)[2]
    assert finding.severity is severity, finding
    if severity is Severity.REFUSAL:
        assert finding.code is Code.SPACE
        assert "LVM keeps" in finding.message and "poolmetadatasize" in finding.hint


@pytest.mark.parametrize(
    ("free", "volumes", "severity"),
    [
        (100 * TEXT_PER_VOLUME, 5, Severity.OK),
        (99 * TEXT_PER_VOLUME, 5, Severity.WARNING),
        (5 * TEXT_PER_VOLUME, 5, Severity.WARNING),
        (5 * TEXT_PER_VOLUME - 1, 5, Severity.REFUSAL),
        (0, 0, Severity.WARNING),
    ],
)
def test_the_text_area_of_the_group(free: int, volumes: int, severity: Severity) -> None:
    finding = judge(pool_report(text_free=free), volumes=volumes)[3]
    assert finding.severity is severity
    assert "metadatasize" in finding.hint or severity is Severity.OK


@pytest.mark.parametrize("name", ["web01", "д" * 100, "x" * 255])
def test_the_text_of_a_volume_with_long_names_is_never_thought_too_short(name: str) -> None:
    """As LVM writes it, with the longest names that it takes; see the metadata in /etc/lvm/backup."""
    tags = [
        format_tag(
            Member(Role.REGISTERED, KEY, DEFINITION, 10**15, 256, 256, "a" * 16, 10**11, name, DEFINITION)
        ),
        format_tag(Seal(DEFINITION, Consistency.FILESYSTEM, DEFINITION)),
    ]
    longest = "n" * 127
    listed = ", ".join(f'"{tag}"' for tag in tags)
    written = f"""
{longest} {{
id = "AnDhAN-mY8T-14SF-d72E-0js8-WVCR-I4KXyp"
status = ["READ", "WRITE", "VISIBLE"]
flags = ["ACTIVATION_SKIP"]
tags = [{listed}]
creation_time = 1763942400
creation_host = "{"h" * 64}"
segment_count = 1

segment1 {{
start_extent = 0
extent_count = 268435456

type = "thin"
thin_pool = "{longest}"
transaction_id = 16777215
device_id = 16777215
origin = "{longest}"
}}
}}
message1 {{
create = "{longest}"
}}
"""
    per_volume = volume_text(longest_tags(name))
    assert len(written.encode()) <= per_volume
    report = pool_report(text_free=3 * per_volume - 1)
    assert refusals(judge(report, volumes=3, volume_text=per_volume))
    assert not refusals(judge(pool_report(text_free=3 * per_volume), volumes=3, volume_text=per_volume))


@pytest.mark.parametrize(
    ("state", "words", "hint"),
    [
        ({"mode": PoolMode.READ_ONLY}, "ro", "repair"),
        ({"mode": PoolMode.FAILED}, "fail", "repair"),
        ({"mode": PoolMode.OUT_OF_DATA_SPACE}, "out_of_data_space", "lvextend"),
        ({"needs_check": True}, "check", "repair"),
        ({"transaction_id": 8}, "LVM's transaction id is 8, the kernel's 7", "recover"),
        ({"transaction_id": 5}, "LVM's transaction id is 5, the kernel's 7", "recover"),
    ],
    ids=str,
)
def test_an_unhealthy_pool_is_refused(state: dict[str, Any], words: str, hint: str) -> None:
    report = pool_report(**state)
    finding = judge(report)[0]
    assert (finding.severity, finding.code) == (Severity.REFUSAL, Code.POOL)
    assert words in finding.message
    assert hint in finding.hint
    assert worst(report) is Severity.REFUSAL


def test_a_pool_of_no_size_divides_by_nothing() -> None:
    assert worst(pool_report(total_data=0, total_metadata=0)) is Severity.REFUSAL


@st.composite
def deltas(draw: st.DrawFn) -> tuple[tuple[Extent, ...], int, int, int]:
    """Extents in whole chunks of the source, clipped to the disk; the chunk sizes; the disk's size."""
    source, target = (64 * KIB * draw(st.integers(1, 24)) for _ in range(2))
    count = draw(st.integers(1, 40))
    size = (count - 1) * source + draw(st.integers(1, source // 512)) * 512
    kinds = draw(st.lists(st.sampled_from([*ExtentKind, None]), min_size=count, max_size=count))
    chunks = [Extent(at * source, source, kind) for at, kind in enumerate(kinds) if kind is not None]
    return tuple(clip(coalesce(chunks), size)), source, target, size


@given(deltas())
def test_no_delta_takes_more_room_than_was_said(delta: tuple[tuple[Extent, ...], int, int, int]) -> None:
    extents, source, target, size = delta
    taken: set[int] = set()
    for extent in extents:
        touched = range(extent.start // target, (extent.end - 1) // target + 1)
        for chunk in touched:
            inside = extent.start <= chunk * target and min((chunk + 1) * target, size) <= extent.end
            if extent.kind is ExtentKind.DATA or not inside:
                taken.add(chunk)
    needed = room_needed(Announcement.of(extents), source_chunk=source, target_chunk=target, size=size)
    assert len(taken) * target <= needed <= align_up(size, target)
    if source == target and all(extent.kind is ExtentKind.DATA for extent in extents):
        assert needed == len(taken) * target, "with equal chunks the bound is exact"


def test_what_lies_in_one_place_needs_hardly_more_in_larger_chunks() -> None:
    def needed(extents: int) -> int:
        coming = Announcement(GIB, 0, extents)
        return room_needed(coming, source_chunk=64 * KIB, target_chunk=MIB, size=1024 * GIB)

    assert needed(1) <= GIB + 2 * MIB
    assert needed(GIB // (64 * KIB)) == 16 * GIB, "each chunk by itself"
