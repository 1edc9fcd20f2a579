"""What a look at a domain finds in libvirt's words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from thinsync_virt.hypervisor import freeze
from thinsync_virt.model.domains import DomainState

XML = """<domain type='kvm' id='7'><name>web</name><devices>
<disk type='{kind}' device='disk'><source {source}/>{disk}<target dev='vda' bus='virtio'/></disk>
<disk type='file' device='cdrom'><target dev='sda'/></disk>
<channel type='unix'><source mode='bind' path='/run/x/org.qemu.guest_agent.0'/>
<target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>
<channel type='unix'><source mode='bind' path='/run/x/other'/><target type='virtio' name='other'/></channel>
</devices></domain>"""


class FakePools:
    """Pool vg0, where every volume has a path; any other is stopped."""

    def storagePoolLookupByName(self, name: str) -> FakePools:
        if name != "vg0":
            raise libvirt.libvirtError("storage pool is not active")
        return self

    def storageVolLookupByName(self, name: str) -> Any:
        return SimpleNamespace(path=lambda: f"/dev/vg0/{name}")


class FakeDomain:
    def __init__(
        self,
        state: int = 1,
        disk: str = "",
        block_job: object = None,
        job: int = 0,
        kind: str = "block",
        source: str = "dev='/dev/vg0/web'",
    ) -> None:
        self._state, self._block_job, self._job = state, block_job, job
        self._xml = XML.format(disk=disk, kind=kind, source=source)

    def connect(self) -> FakePools:
        return FakePools()

    def name(self) -> str:
        return "no-such-domain-here"

    def ID(self) -> int:
        return 7

    def state(self) -> list[int]:
        return [self._state, 0]

    def XMLDesc(self, _flags: int) -> str:
        return self._xml

    def blockJobInfo(self, _disk: str) -> object:
        return self._block_job or {}

    def jobStats(self) -> dict[str, Any]:
        return {"type": self._job}


def test_a_running_domain() -> None:
    view = freeze._look(FakeDomain())
    assert (view.state, view.agent_socket, view.blockers) == (
        DomainState.RUNNING,
        "/run/x/org.qemu.guest_agent.0",
        (),
    )


def test_a_job_on_the_domain_blocks() -> None:
    view = freeze._look(FakeDomain(job=2))
    assert len(view.blockers) == 1 and view.writers == ()


@pytest.mark.parametrize(
    ("domain", "paths"),
    [
        (FakeDomain(block_job={"type": 2}), {"/dev/vg0/web"}),
        (
            FakeDomain(disk="<mirror type='block' job='copy'><source dev='/dev/vg0/new'/></mirror>"),
            {"/dev/vg0/web", "/dev/vg0/new"},
        ),
        (FakeDomain(disk="<shareable/>"), {"/dev/vg0/web"}),
        (FakeDomain(disk="<shareable/>", kind="volume", source="pool='vg0' volume='web'"), {"/dev/vg0/web"}),
        (
            FakeDomain(disk="<shareable/>", kind="volume", source="pool='gone' volume='web'"),
            {"volume web of storage pool gone"},
        ),
        (FakeDomain(disk="<shareable/>", kind="network", source="protocol='rbd' name='p/i'"), {"rbd:p/i"}),
    ],
    ids=["block job", "mirror", "shared", "shared in a pool", "in a stopped pool", "on the network"],
)
def test_who_writes_on_and_where(domain: FakeDomain, paths: set[str]) -> None:
    """A disk that is left out must not hinder the others: which it is only its path tells."""
    assert freeze._look(FakeDomain()).writers == ()
    view = freeze._look(domain)
    (writer,) = view.writers
    assert view.blockers == () and "vda" in writer.what
    assert set(writer.paths) == paths


@pytest.mark.parametrize(
    ("number", "state"),
    [
        (1, DomainState.RUNNING),
        (3, DomainState.PAUSED),
        (4, DomainState.RUNNING),
        (5, DomainState.OFF),
        (6, DomainState.PAUSED),
        (7, DomainState.PAUSED),
    ],
)
def test_states(number: int, state: DomainState) -> None:
    assert freeze._look(FakeDomain(number)).state is state
