"""What a look at a domain finds in libvirt's words."""

from __future__ import annotations

from typing import Any

import pytest

from thinsync_virt.hypervisor import freeze
from thinsync_virt.model.domains import DomainState

XML = """<domain type='kvm' id='7'><name>web</name><devices>
<disk type='block' device='disk'><source dev='/dev/vg0/web'/>{disk}<target dev='vda' bus='virtio'/></disk>
<disk type='file' device='cdrom'><target dev='sda'/></disk>
<channel type='unix'><source mode='bind' path='/run/x/org.qemu.guest_agent.0'/>
<target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>
<channel type='unix'><source mode='bind' path='/run/x/other'/><target type='virtio' name='other'/></channel>
</devices></domain>"""


class FakeDomain:
    def __init__(self, state: int = 1, disk: str = "", block_job: object = None, job: int = 0) -> None:
        self._state, self._disk, self._block_job, self._job = state, disk, block_job, job

    def name(self) -> str:
        return "no-such-domain-here"

    def ID(self) -> int:
        return 7

    def state(self) -> list[int]:
        return [self._state, 0]

    def XMLDesc(self, _flags: int) -> str:
        return XML.format(disk=self._disk)

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


@pytest.mark.parametrize(
    "domain",
    [
        FakeDomain(block_job={"type": 2}),
        FakeDomain(disk="<mirror type='block' job='copy'/>"),
        FakeDomain(job=2),
    ],
    ids=["block job", "mirror", "job"],
)
def test_who_writes_on(domain: FakeDomain) -> None:
    assert len(freeze._look(domain).blockers) == 1


def test_what_is_shared() -> None:
    assert freeze._look(FakeDomain()).shareable == ()
    assert freeze._look(FakeDomain(disk="<shareable/>")).shareable == (("vda", "/dev/vg0/web"),)


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
