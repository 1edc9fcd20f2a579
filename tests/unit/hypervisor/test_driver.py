"""What the driver says of libvirt itself and of agents, against libvirt's own test driver."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.values import domain
from thinsync_virt.errors import NotFoundError, UnreachableError
from thinsync_virt.hypervisor import driver
from thinsync_virt.hypervisor.connection import Connection, connect, libvirt_module
from thinsync_virt.hypervisor.driver import LibvirtHypervisor


def test_versions_are_those_that_libvirt_packs() -> None:
    with LibvirtHypervisor("test:///default") as hypervisor:
        library, emulator = re.fullmatch(r"libvirt (\S+), QEMU (\S+)", hypervisor.version()).groups()  # type: ignore[union-attr]
    major, minor, release = (int(part) for part in library.split("."))
    assert major * 1_000_000 + minor * 1_000 + release == libvirt_module().getVersion()
    assert emulator == "0.0.2", "the test driver's own"


def test_a_libvirt_that_is_away() -> None:
    hypervisor = LibvirtHypervisor("qemu+unix:///system?socket=/nowhere/libvirt-sock")
    with pytest.raises(UnreachableError) as caught:
        hypervisor.version()
    assert "systemctl status" in caught.value.hint


def test_a_libvirt_that_was_restarted_is_connected_to_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection outlives no restart of the daemon, and a run may last for hours."""
    opened: list[Connection] = []

    def connected(uri: str) -> Connection:
        opened.append(connect(uri))
        return opened[-1]

    monkeypatch.setattr(driver, "connect", connected)
    with LibvirtHypervisor("test:///default") as hypervisor:
        assert hypervisor.domain_names() == ("test",)
        assert hypervisor.domain_names() == ("test",)
        assert len(opened) == 1
        opened[0].raw.close()
        assert hypervisor.domain_names() == ("test",)
        assert len(opened) == 2


def test_the_agent_of_a_domain_that_is_not_there() -> None:
    with pytest.raises(NotFoundError):
        LibvirtHypervisor("test:///default").agent_status(domain(), 1.0)


def test_libvirt_that_is_not_there(tmp_path: Path) -> None:
    """The package only recommends its daemon: whoever has left it out is told how to get it."""
    with pytest.raises(UnreachableError) as caught:
        connect(f"qemu+unix:///system?socket={tmp_path}/none")
    assert "apt install libvirt-daemon-system" in caught.value.hint
