"""Receiving one set: where its definition goes, and that the seal comes last."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.endpoint.devices import FileLvm
from tests.unit.endpoint.stored import PowerCutError
from tests.unit.values import KEY, NAME, POOL, identifier, pool_report
from thinsync_virt.endpoint.catalogue import read_catalogue
from thinsync_virt.endpoint.recovery import Recovery, recover_sets
from thinsync_virt.endpoint.target.staging import Incoming, Staging
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.points import Consistency
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.tags import Role
from thinsync_virt.units import KIB

FAST = VolumeName("vg1", "fast")
SIZE = 64 * KIB
DEFINITION = Definition({"domain.xml": b"<domain/>"})
INCOMING = Incoming(
    KEY,
    NAME,
    identifier(9),
    9,
    1000,
    Consistency.CRASH,
    "",
    {"vda": SIZE, "vdb": SIZE},
    {"vda": Mode.FULL, "vdb": Mode.FULL},
    {"vda": SIZE, "vdb": SIZE},
)


@pytest.fixture
def lvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileLvm:
    return FileLvm.installed(tmp_path, [pool_report().pool], monkeypatch)


def receive(lvm: FileLvm, choices: Choices) -> None:
    staging = Staging(lvm, INCOMING, choices)
    try:
        staging.create()
        staging.seal(DEFINITION)
    finally:
        staging.close()


@pytest.mark.parametrize("commits", range(9))
def test_wherever_it_is_cut_there_is_a_whole_point_or_none(lvm: FileLvm, commits: int) -> None:
    """Two volumes, made and made read-only, the definition, the seal: six commits."""
    lvm.commits = commits
    try:
        receive(lvm, Choices(POOL))
        assert commits >= 6
    except PowerCutError:
        assert commits < 6
    lvm.commits = None
    found = read_catalogue(lvm.volumes(), Role.TARGET)
    assert found.broken == ()
    for point in found.points:
        assert all(disk.volume.read_only for disk in point.disks)
        assert found.definition(KEY, point.definition) is not None
    assert len(found.points) == (commits >= 6)


@pytest.mark.parametrize("late", ["vg0", "vg1"])
def test_the_definition_lies_beside_the_seal(lvm: FileLvm, late: str) -> None:
    """A volume group that is late at a boot takes both with it: neither is garbage to what is left."""
    receive(lvm, Choices(POOL, {"vda": FAST}))
    (point,) = read_catalogue(lvm.volumes(), Role.TARGET).points
    absent = {name: one for name, one in lvm.stored.items() if name.vg == late}
    assert absent and len(absent) < len(lvm.stored)
    for name in absent:
        del lvm.stored[name]
    recovery = Recovery()
    recovery.attempt(lambda: recover_sets(lvm, Role.TARGET, recovery))
    assert (recovery.done, recovery.failed) == ([], [])
    lvm.stored |= absent
    found = read_catalogue(lvm.volumes(), Role.TARGET)
    entry = found.definition(KEY, DEFINITION.id)
    assert [one.id for one in found.points] == [point.id]
    assert entry is not None and entry.volume.pool == point.disks[0].volume.pool == FAST
