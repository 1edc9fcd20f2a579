"""The crash matrix: power cuts and kills at every moment that differs. Whatever happens, the next run ends well.

A sample of each group runs by default (the seed is printed), all of it in the soak.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest
from product import Hosts, wait_for
from thinlab import Lab
from thinlab.records import consistent

MOMENTS = range(1, 11)
TARGET_STEPS = (
    "staging made",
    "data synced",
    "staging inactive",
    "staging read-only",
    "definition written",
    "sealed",
    "volumes made",
    "about to define",
    "defined",
)
SOURCE_STEPS = ("snapshots made", "source sealed", "about to confirm", "confirmed")
STOP, STOPPED = "/run/thinsync/stop-at", "/run/thinsync/stopped-at"


@pytest.fixture(scope="module")
def shared(lab: Lab) -> Iterator[tuple[Hosts, str]]:
    """One guest for the whole matrix, with a point at both ends."""
    hosts = Hosts(lab)
    hosts.restore()
    name = hosts.guest(disks=2, size="128M", pace=5)
    hosts.replicate(name)
    yield hosts, name
    hosts.restore()
    hosts.remove_guests()


@pytest.fixture
def crash(shared: tuple[Hosts, str]) -> Iterator[tuple[Hosts, str]]:
    """The guest runs and writes, both hosts are up; afterwards nothing stops at a step any more."""
    hosts, name = shared
    hosts.restore()
    wake(hosts, name)
    yield shared
    hosts.restore()
    for node in ("alpha", "beta"):
        hosts.sh(node, f"rm -f {STOP} {STOPPED}")


def wake(hosts: Hosts, name: str) -> None:
    """After a power cut the guest is off."""
    if hosts.sh("alpha", f"virsh domstate {name}").strip() != "running":
        hosts.lab.guests.start("alpha", name)
    hosts.lab.guests.wait_agent("alpha", name)


def change(hosts: Hosts, name: str, mebibytes: int) -> None:
    """Something for the transfer to carry."""
    hosts.lab.guests.fill("alpha", name, "/mnt/vda/data", mebibytes)


def stop_at(hosts: Hosts, node: str, step: str) -> None:
    """The process that reaches this step waits there."""
    hosts.sh(node, f"rm -f {STOPPED}; mkdir -p -m 700 /run/thinsync; echo {shlex.quote(step)} > {STOP}")


def wait_stopped(hosts: Hosts, node: str) -> None:
    wait_for(
        lambda: hosts.sh(node, f"cat {STOPPED}", check=False) != "", limit=120, what="stopped at the step"
    )


def bootable(hosts: Hosts, name: str) -> None:
    """What a plain ``virsh start`` would start from is one whole point; a reboot does not change that."""
    volumes = hosts.disks("beta", name)
    assert len(volumes) == 2
    hosts.sh("beta", f"ls {' '.join('/dev/' + volume for volume in volumes)}")
    found = hosts.records("beta", name)
    assert consistent(found), found


def goes_on(hosts: Hosts, name: str) -> None:
    """The next replication succeeds, both ends agree, and nothing is left behind."""
    hosts.restore()
    wake(hosts, name)
    report = hosts.replicate(name)
    assert report["outcome"] == "replicated"
    hosts.verify(name)
    bootable(hosts, name)
    for node in ("alpha", "beta"):
        assert hosts.unsealed(node, name) == []
        status = hosts.sh(node, "dmsetup status --noflush vg0-pool-tpool")
        assert status.split()[6] == "-", status
        assert "SUSPENDED" not in hosts.sh(node, "dmsetup info -c --noheadings -o name,suspended,attr")
        active = hosts.sh(
            node, f"""lvs --noheadings -o lv_name -S 'lv_name=~"^ts-{name}-" && lv_active=active'"""
        )
        assert all("-r" in volume for volume in active.split()), active


def replicate_beside(hosts: Hosts, name: str) -> None:
    """A replication that goes on by itself at alpha."""
    words = f"thinsync-vm replicate {name} --to beta --pool vg0/pool"
    hosts.sh("alpha", f"setsid {words} >/run/replicate.log 2>&1 </dev/null &")


def wait_ended(hosts: Hosts) -> None:
    wait_for(
        lambda: not hosts.sh("alpha", "pgrep -f '[t]hinsync-vm replicate'", check=False),
        limit=120,
        what="the replication ends",
    )


def in_transfer(hosts: Hosts, name: str, moment: int) -> None:
    """A replication is under way, and this far into its transfer when this returns."""
    size = 24
    change(hosts, name, size)
    before = int(hosts.sh("beta", "awk '{print $7}' /sys/block/ubda/stat"))
    replicate_beside(hosts, name)
    wanted = before + moment * (size << 20) // 512 // 12

    def far_enough() -> bool:
        return int(hosts.sh("beta", "awk '{print $7}' /sys/block/ubda/stat")) >= wanted

    wait_for(far_enough, limit=120, what="the transfer")


@pytest.mark.matrix(sample=1)
@pytest.mark.parametrize("moment", MOMENTS)
def test_sender_killed_in_a_transfer(crash: tuple[Hosts, str], moment: int) -> None:
    hosts, name = crash
    in_transfer(hosts, name, moment)
    hosts.sh("alpha", "pkill -9 -f '[t]hinsync-vm replicate'", check=False)
    bootable(hosts, name)
    goes_on(hosts, name)


@pytest.mark.matrix(sample=1)
@pytest.mark.parametrize("moment", MOMENTS)
def test_receiver_killed_in_a_transfer(crash: tuple[Hosts, str], moment: int) -> None:
    hosts, name = crash
    in_transfer(hosts, name, moment)
    hosts.sh("beta", "pkill -9 -f '[t]hinsync-vm server'", check=False)
    bootable(hosts, name)
    wait_for(
        lambda: not hosts.sh("alpha", "pgrep -f 'thinsync-vm replicate'", check=False), what="the sender ends"
    )
    goes_on(hosts, name)


@pytest.mark.matrix(sample=1)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_power_cut_in_a_transfer(crash: tuple[Hosts, str], node: str, moment: int) -> None:
    hosts, name = crash
    in_transfer(hosts, name, moment)
    hosts.lab.cut(node)
    hosts.restore()
    bootable(hosts, name)
    goes_on(hosts, name)


@pytest.mark.matrix(sample=1)
@pytest.mark.parametrize("step", TARGET_STEPS)
def test_power_cut_of_the_target_between_two_steps(crash: tuple[Hosts, str], step: str) -> None:
    hosts, name = crash
    change(hosts, name, 1)
    stop_at(hosts, "beta", step)
    replicate_beside(hosts, name)
    wait_stopped(hosts, "beta")
    bootable(hosts, name)
    hosts.lab.cut("beta")
    hosts.restore()
    bootable(hosts, name)
    goes_on(hosts, name)


@pytest.mark.matrix(sample=1)
@pytest.mark.parametrize("step", TARGET_STEPS)
def test_a_start_after_a_power_cut_of_the_target(crash: tuple[Hosts, str], step: str) -> None:
    """The copy is really started from what the cut left, and afterwards given up as the README tells."""
    hosts, name = crash
    change(hosts, name, 1)
    stop_at(hosts, "beta", step)
    replicate_beside(hosts, name)
    wait_stopped(hosts, "beta")
    hosts.lab.cut("beta")
    hosts.restore()
    boot = hosts.boot_replica(name)
    assert (boot.torn, boot.missing) == (0, 0)
    assert max(boot.per_disk) - min(boot.per_disk) <= 1
    wait_ended(hosts)
    assert "running at the target" in hosts.refused(name, code="conflict")["message"]
    hosts.sh("beta", f"virsh -q destroy {name}")
    assert "written to" in hosts.refused(name, code="conflict")["message"]
    hosts.sh("beta", f"virsh -q undefine {name} --keep-nvram")
    goes_on(hosts, name)


@pytest.mark.matrix(sample=1)
@pytest.mark.parametrize("step", ["unsealed", "point removed", "old volumes removed"])
def test_power_cut_of_the_target_while_it_deletes(crash: tuple[Hosts, str], step: str) -> None:
    hosts, name = crash
    count = 1 if step == "old volumes removed" else 7
    while len([row for row in hosts.points(name) if row["there"]]) < min(count, 6):
        change(hosts, name, 1)
        hosts.replicate(name)
    change(hosts, name, 1)
    stop_at(hosts, "beta", step)
    replicate_beside(hosts, name)
    wait_stopped(hosts, "beta")
    hosts.lab.cut("beta")
    hosts.restore()
    bootable(hosts, name)
    goes_on(hosts, name)


@pytest.mark.matrix(sample=1)
@pytest.mark.parametrize("step", SOURCE_STEPS)
@pytest.mark.parametrize("how", ["killed", "power cut"])
def test_source_ends_between_two_steps(crash: tuple[Hosts, str], how: str, step: str) -> None:
    hosts, name = crash
    change(hosts, name, 1)
    stop_at(hosts, "alpha", step)
    replicate_beside(hosts, name)
    wait_stopped(hosts, "alpha")
    if how == "killed":
        hosts.sh("alpha", f"pkill -9 -f '[t]hinsync-vm replicate'; rm -f {STOP}", check=False)
    else:
        hosts.lab.cut("alpha")
        hosts.restore()
    bootable(hosts, name)
    goes_on(hosts, name)


@pytest.mark.matrix(sample=1)
@pytest.mark.parametrize("step", ["volumes made", "about to define", "defined"])
def test_start_while_a_switch_is_going_on(hosts: Hosts, step: str) -> None:
    name = hosts.guest(disks=2, size="64M")
    hosts.replicate(name)
    hosts.wait_writing(name)
    stop_at(hosts, "beta", step)
    try:
        replicate_beside(hosts, name)
        wait_stopped(hosts, "beta")
        boot = hosts.boot_replica(name)
    finally:
        hosts.sh("beta", f"rm -f {STOP} {STOPPED}")
    wait_ended(hosts)
    assert (boot.torn, boot.missing) == (0, 0)
    hosts.wait_writing(name, node="beta")
    live = hosts.sh("beta", f"virsh domblklist {name} | awk '/vd/ {{print $2}}'")
    defined = hosts.sh("beta", f"virsh domblklist --inactive {name} | awk '/vd/ {{print $2}}'")
    assert live == defined
    assert "running at the target" in hosts.refused(name, code="conflict")["message"]
    hosts.sh("beta", f"ls {' '.join(live.split())}")
