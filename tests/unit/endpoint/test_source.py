"""A set at the source becomes a point only when it is whole, and the guest was seen to run again (invariant 2)."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.endpoint.stored import StoredLvm, definition_volume
from tests.unit.values import CHOICES, GROUP, KEY, NAME, POOL, disk, domain, identifier, volume
from thinsync_virt.endpoint.source import thin as source_module
from thinsync_virt.endpoint.source.thin import ThinSource
from thinsync_virt.errors import GuestError, ThinsyncError
from thinsync_virt.guard.messages import WindowReport, WindowRequest
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.plans import DiskPlan, Mode, Replicate
from thinsync_virt.model.points import Consistency, ReplicaKey
from thinsync_virt.model.reports import Quiesce
from thinsync_virt.model.tags import Role
from thinsync_virt.model.volumes import Pool
from thinsync_virt.units import GIB, KIB, MIB

DISKS = (disk("vda"), disk("vdb"))
PLAN = Replicate(KEY, identifier(7), 7, None, tuple(DiskPlan(one.target, Mode.FULL) for one in DISKS))
WHOLE = WindowReport(True, Consistency.FILESYSTEM, frozen=2, thawed=2)
A_POOL = Pool(
    POOL, "pl0000-0000-0000-0000-0000-0000-000000", GROUP, GIB, 64 * KIB, MIB, 7, True, "passdown", True
)


class Domains:
    def nvram_path(self, name: str) -> None:
        return None

    def collect_definition(self, name: str, choices: object, nvram: bytes | None = None) -> Definition:
        return Definition({"domain.xml": b"<domain/>"})


class Guard:
    """Makes what is asked for, but for the last ``missing`` volumes, and reports what it is told to."""

    def __init__(self, lvm: StoredLvm, report: WindowReport, missing: int = 0) -> None:
        self.lvm, self.report, self.missing = lvm, report, missing

    def take_set(self, request: WindowRequest) -> WindowReport:
        for wanted in request.snapshots[: len(request.snapshots) - self.missing]:
            made = volume(wanted.name, tags=wanted.tags)
            self.lvm.stored[made.name] = replace(made, origin=wanted.origin.lv, read_only=True)
        return self.report


def make(
    monkeypatch: pytest.MonkeyPatch, report: WindowReport, *, missing: int = 0, half_made: bool = False
) -> tuple[ThinSource, StoredLvm]:
    lvm = StoredLvm([one.volume for one in DISKS if one.volume is not None], [A_POOL])

    def write(
        _: object, definition: Definition, key: ReplicaKey, role: Role, *_rest: object, **_more: object
    ) -> None:
        made = definition_volume(definition.id, role=role, key=key)
        lvm.stored[made.name] = made

    monkeypatch.setattr(source_module, "write_definition", write)
    monkeypatch.setattr(source_module, "pool_lock", lambda *_, **__: nullcontext())
    monkeypatch.setattr(source_module, "wait_until_idle", lambda *_: None)
    if half_made:
        lvm.half_made = {VolumeName("vg0", f"ts-{NAME}-vdb-{PLAN.set_id[:8]}")}
    hypervisor: Any = Domains()
    mappings: Any = None
    return ThinSource(lvm, hypervisor, mappings, Guard(lvm, report, missing), str, "alpha"), lvm


def take(source: ThinSource) -> None:
    source.snapshot(domain(*DISKS), DISKS, PLAN, CHOICES, Quiesce.AUTO, 8.0, lambda _: None)


def test_a_whole_set_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = make(monkeypatch, WHOLE)
    take(source)
    (point,) = source.catalogue().points
    assert (point.id, point.consistency) == (PLAN.set_id, Consistency.FILESYSTEM)


@pytest.mark.parametrize(
    ("report", "missing", "half_made"),
    [
        (replace(WHOLE, ok=False, problem="late"), 0, False),
        (replace(WHOLE, consistency=Consistency.CRASH, still_frozen=True, hint="virsh"), 0, False),
        (WHOLE, 1, False),
        (WHOLE, 2, False),
        (WHOLE, 0, True),
    ],
    ids=["not whole", "still frozen", "one missing", "none made", "half made"],
)
def test_anything_less_is_no_point_and_leaves_nothing(
    report: WindowReport, missing: int, half_made: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, lvm = make(monkeypatch, report, missing=missing, half_made=half_made)
    with pytest.raises(ThinsyncError) as caught:
        take(source)
    assert {one.lv for one in lvm.stored} == {f"{NAME}-vda", f"{NAME}-vdb"}
    if not report.ok or report.still_frozen:
        assert isinstance(caught.value, GuestError)
