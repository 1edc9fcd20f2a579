"""What the driver says of libvirt itself and of agents, against libvirt's own test driver."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.hypervisor.samples import definition_of, text_of
from tests.unit.values import domain
from thinsync_virt.errors import NotFoundError, UnreachableError
from thinsync_virt.hypervisor import bounded, driver
from thinsync_virt.hypervisor.connection import Connection, connect, libvirt_module
from thinsync_virt.hypervisor.driver import LibvirtHypervisor


def test_a_host_without_some_of_libvirts_drivers_is_looked_at_all_the_same() -> None:
    """The test driver has neither secrets nor network filters; Debian 13 has each driver in a package of its own."""
    with LibvirtHypervisor("test:///default") as hypervisor:
        facts = hypervisor.host_facts(definition_of(text_of("bios")))
    assert facts.networks == {"default": True}
    assert facts.secrets == frozenset() and facts.filters == frozenset()


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


# A daemon that hangs.


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[str]:
    """The URI of a daemon that takes connections and says nothing."""
    path = tmp_path / "libvirt-sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield f"qemu+unix:///system?socket={path}"


def test_a_libvirt_that_says_nothing_is_given_up(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "CALL_SECONDS", 0.3)
    began = time.monotonic()
    with LibvirtHypervisor(silent) as hypervisor, pytest.raises(UnreachableError) as caught:
        hypervisor.domain_names()
    assert time.monotonic() - began < 5
    assert silent in caught.value.message and "has not answered" in caught.value.message
    assert "systemctl status libvirtd virtqemud" in caught.value.hint


def test_a_process_ends_though_a_call_of_it_does_not(silent: str) -> None:
    """Neither what was left behind nor the end of the connection holds it up."""
    program = (
        "import sys; from thinsync_virt.hypervisor import bounded, driver; bounded.CALL_SECONDS = 0.3\n"
        "with driver.LibvirtHypervisor(sys.argv[1]) as one: one.domain_names()"
    )
    command = [sys.executable, "-c", program, silent]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "UnreachableError" in done.stderr


@pytest.mark.parametrize("kind", ["virConnect", "virDomain"])
def test_every_call_has_its_limit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of the objects that libvirt gives, and the end of a connection on which one hangs."""
    answer = threading.Event()
    monkeypatch.setattr(bounded, "CALL_SECONDS", 0.3)
    monkeypatch.setattr(bounded, "CLOSE_SECONDS", 0.3)
    names = {"virConnect": ("listAllDomains", "close"), "virDomain": ("name",)}[kind]
    with LibvirtHypervisor("test:///default") as hypervisor:
        assert hypervisor.domain_names() == ("test",)
        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(getattr(libvirt_module(), kind), name, lambda *_: answer.wait())
            with pytest.raises(UnreachableError, match=re.escape(f"asked: {names[0]}")):
                hypervisor.domain_names()
            hypervisor.close()
            answer.set()
        assert hypervisor.domain_names() == ("test",), "the next use connects again"


def test_what_libvirt_refuses_is_told_in_its_words() -> None:
    with LibvirtHypervisor("test:///default") as hypervisor, pytest.raises(NotFoundError, match="no-such"):
        hypervisor.nvram_path("no-such")
