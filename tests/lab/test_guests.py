"""Guests of every kind through ``replicate``: with and without agent, frozen, paused, off, with every cache mode.

What is looked at: how consistent the point says it is and why, what the copy holds, and how the guest fares.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from product import Hosts, wait_for
from thinlab import Lab
from thinlab.records import consistent

LIMIT = 8.0
START_AGENT = (
    "for d in /sys/class/virtio-ports/*; do"
    " [ $(cat $d/name) = org.qemu.guest_agent.0 ] && port=/dev/${d##*/}; done;"
    " setsid qemu-ga -m virtio-serial -p $port -t /run/qga >/dev/console 2>&1 </dev/null & sleep 1"
)

pytestmark = pytest.mark.matrix(sample=2, group="guests")


@pytest.fixture(scope="module")
def site(lab: Lab) -> Iterator[Hosts]:
    """Both hosts, for the guests of this module."""
    found = Hosts(lab)
    found.restore()
    yield found
    found.guard_pauses()
    found.remove_guests()


@pytest.fixture(scope="module")
def shared(site: Hosts) -> str:
    """A guest with an agent and two disks, which every test leaves running."""
    return site.guest(disks=2, size="64M", pace=10)


def frozen(site: Hosts, name: str) -> bool:
    return "isfrozen" in site.lab.guests.run("alpha", name, "ls /run/qga").stdout


def replicated(site: Hosts, name: str, *words: str, writes: bool = True) -> dict[str, Any]:
    """A replication whose copy holds what the guest had acknowledged before; how its snapshot was taken."""
    before = site.wait_writing(name, at_least=2) if writes else 0
    report = site.replicate(name, *words)
    found = site.records("beta", name)
    assert consistent(found), found
    assert all(disk.last >= before for disk in found), (before, found)
    taken: dict[str, Any] = report["snapshot"]
    assert taken["consistency"] == report["point"]["consistency"]
    assert taken["frozen_seconds"] < LIMIT and taken["paused_seconds"] < LIMIT, taken
    if writes:
        site.wait_writing(name, at_least=2)
    return taken


def refused_without_a_point(site: Hosts, name: str, *words: str) -> dict[str, Any]:
    """A replication that fails because of the guest: no point and no replica is another than before.

    (What the run before had left to remove may be gone afterwards.)
    """

    def kept() -> list[Any]:
        registered = site.sh("beta", f"virsh dumpxml --inactive {name}", check=False)
        return [site.points(name), registered]

    before = kept() if site.volumes("beta", name) else site.everything(name)
    error = site.refused(name, *words, code="guest")
    assert before == (kept() if site.volumes("beta", name) else site.everything(name))
    assert site.unsealed("alpha", name) == site.unsealed("beta", name) == []
    return error


def refused_untouched(site: Hosts, name: str, *words: str) -> dict[str, Any]:
    """A replication that the guest's agent stops before anything at either host is changed; the guard is not asked."""
    before = site.everything(name), site.windows(name)
    error = site.refused(name, *words, code="guest")
    assert (site.everything(name), site.windows(name)) == before
    return error


@pytest.mark.parametrize(
    ("agent", "why"), [("no", "no guest agent channel"), ("silent", "agent")], ids=["none", "never answers"]
)
def test_without_an_agent_that_answers(site: Hosts, agent: str, why: str) -> None:
    name = site.guest(disks=2, size="64M", agent=agent)
    error = refused_untouched(site, name, "--quiesce", "require")
    assert why in error["message"] and "--quiesce auto" in error["hint"]
    site.wait_writing(name, at_least=2)
    taken = replicated(site, name)
    assert taken["consistency"] == "crash" and why in taken["reason"], taken
    assert taken["frozen_seconds"] == 0 < taken["paused_seconds"]
    site.remove_guest(name)


def test_frozen_by_us(site: Hosts, shared: str) -> None:
    taken = replicated(site, shared, "--quiesce", "require")
    assert taken["consistency"] == "filesystem" and not taken["reason"], taken
    assert taken["frozen_filesystems"] == 2
    assert 0 < taken["paused_seconds"] < taken["frozen_seconds"]


def test_quiescing_off_still_takes_all_disks_at_one_instant(site: Hosts, shared: str) -> None:
    taken = replicated(site, shared, "--quiesce", "off")
    assert taken["consistency"] == "crash" and "quiescing is off" in taken["reason"], taken
    assert taken["frozen_filesystems"] == taken["frozen_seconds"] == 0 < taken["paused_seconds"]


def test_somebody_else_has_frozen_the_guest(site: Hosts, shared: str) -> None:
    site.sh("alpha", f"virsh -q domfsfreeze {shared}")
    try:
        error = refused_untouched(site, shared, "--quiesce", "require")
        assert "somebody else" in error["message"]
        taken = replicated(site, shared, writes=False)
        assert taken["consistency"] == "crash" and "somebody else" in taken["reason"], taken
        assert frozen(site, shared)
    finally:
        site.sh("alpha", f"virsh -q domfsthaw {shared}")
    site.wait_writing(shared, at_least=2)


def test_paused_by_the_user_it_stays_paused(site: Hosts, shared: str) -> None:
    site.sh("alpha", f"virsh -q suspend {shared}")
    try:
        error = refused_untouched(site, shared, "--quiesce", "require")
        assert "paused already" in error["message"]
        taken = replicated(site, shared, writes=False)
        assert taken["consistency"] == "crash" and "paused already" in taken["reason"], taken
        assert site.sh("alpha", f"virsh -q domstate {shared}") == "paused"
    finally:
        site.sh("alpha", f"virsh -q resume {shared}")
    site.wait_writing(shared, at_least=2)


def test_a_freeze_that_takes_too_long_makes_no_point(site: Hosts, shared: str) -> None:
    before = site.points(shared)
    site.guard_pauses("frozen:4")
    try:
        error = refused_without_a_point(site, shared, "--freeze-timeout", "3")
    finally:
        site.guard_pauses()
    assert "limit of 3 s" in error["message"], error
    assert site.points(shared) == before
    assert not frozen(site, shared)
    site.wait_writing(shared, at_least=2)


def test_an_agent_that_dies_frozen(site: Hosts, shared: str) -> None:
    replicated(site, shared)
    before = site.points(shared)
    site.guard_pauses("frozen:3")
    try:
        running = site.start_replicating(shared, "--json")
        wait_for(lambda: frozen(site, shared), what="the freeze")
        site.lab.guests.run("alpha", shared, "kill -KILL $(pidof qemu-ga)")
        out, _ = running.communicate(timeout=120)
    finally:
        site.guard_pauses()
    error = json.loads(out)["error"]
    assert error["code"] == "guest" and "confirmed to run again" in error["message"], error
    assert "virsh" in error["hint"]
    assert running.returncode == 11
    assert site.points(shared) == before
    assert site.unsealed("alpha", shared) == []
    assert site.sh("alpha", f"virsh -q domstate {shared}") == "running"
    # The agent comes back: the guard, which was restarted meanwhile, thaws at once.
    site.lab.guests.run("alpha", shared, START_AGENT)
    wait_for(lambda: not frozen(site, shared), limit=30, what="the thaw")
    assert replicated(site, shared)["consistency"] == "filesystem"


@pytest.mark.parametrize("cache", ["writeback", "unsafe"])
def test_cache_modes(site: Hosts, cache: str) -> None:
    """``none`` is what all the others have."""
    name = site.guest(disks=1, size="64M", cache=cache)
    taken = replicated(site, name)
    assert taken["consistency"] == "filesystem"
    assert (taken["paused_seconds"] > 0) is (cache == "unsafe")
    taken = replicated(site, name, "--quiesce", "off")
    assert taken["consistency"] == "crash"
    assert (taken["paused_seconds"] > 0) is (cache == "unsafe")
    site.remove_guest(name)


def test_the_guest_is_off(site: Hosts, shared: str) -> None:
    site.lab.guests.shutdown("alpha", shared)
    taken = replicated(site, shared, "--quiesce", "require", writes=False)
    assert taken["consistency"] == "offline"
    assert taken["frozen_seconds"] == taken["paused_seconds"] == 0
    assert site.sh("alpha", f"virsh -q domstate {shared}") == "shut off"
    last = site.records("beta", shared)[0].last
    boot = site.boot_replica(shared)
    assert (boot.last, boot.torn, boot.missing) == (last, 0, 0)
