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


def stopped(hosts: Hosts, node: str) -> bool:
    return hosts.sh(node, f"cat {STOPPED}", check=False) != ""


def replicating(hosts: Hosts) -> bool:
    return hosts.sh("alpha", "pgrep -f '[t]hinsync-vm replicate'", check=False) != ""


def wait_stopped(hosts: Hosts, node: str) -> None:
    try:
        wait_for(lambda: stopped(hosts, node), limit=300, what="stopped at the step")
    except AssertionError as error:
        error.add_note(hosts.sh("alpha", "tail -n 50 /run/replicate.log", check=False))
        raise


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
    hosts.settle()
    words = f"thinsync-vm replicate {name} --to beta --pool vg0/pool"
    hosts.sh("alpha", f"setsid {words} >/run/replicate.log 2>&1 </dev/null &")


def wait_ended(hosts: Hosts) -> None:
    wait_for(lambda: not replicating(hosts), limit=300, what="the replication ends")


def cut_target(hosts: Hosts) -> None:
    """The power of beta goes, and so does the run that would wait for it: the next one counts."""
    hosts.cut("beta")
    hosts.sh("alpha", "pkill -9 -f '[t]hinsync-vm replicate'", check=False)


def in_transfer(hosts: Hosts, name: str, moment: int) -> None:
    """A replication is under way, and this far into its transfer when this returns."""
    size = 24
    change(hosts, name, size)
    before = int(hosts.sh("beta", "awk '{print $7}' /sys/block/ubda/stat"))
    replicate_beside(hosts, name)
    wanted = before + moment * (size << 20) // 512 // 12

    def far_enough() -> bool:
        return int(hosts.sh("beta", "awk '{print $7}' /sys/block/ubda/stat")) >= wanted

    wait_for(far_enough, limit=300, what="the transfer")


@pytest.mark.matrix(sample=3, group="crashes")
@pytest.mark.parametrize("moment", MOMENTS)
def test_sender_killed_in_a_transfer(crash: tuple[Hosts, str], moment: int) -> None:
    hosts, name = crash
    in_transfer(hosts, name, moment)
    hosts.sh("alpha", "pkill -9 -f '[t]hinsync-vm replicate'", check=False)
    bootable(hosts, name)
    goes_on(hosts, name)


@pytest.mark.matrix(sample=3, group="crashes")
@pytest.mark.parametrize("moment", MOMENTS)
def test_receiver_killed_in_a_transfer(crash: tuple[Hosts, str], moment: int) -> None:
    hosts, name = crash
    in_transfer(hosts, name, moment)
    hosts.sh("beta", "pkill -9 -f '[t]hinsync-vm server'", check=False)
    bootable(hosts, name)
    wait_ended(hosts)
    goes_on(hosts, name)


@pytest.mark.matrix(sample=3, group="crashes")
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_power_cut_in_a_transfer(crash: tuple[Hosts, str], node: str, moment: int) -> None:
    hosts, name = crash
    in_transfer(hosts, name, moment)
    if node == "beta":
        cut_target(hosts)
    else:
        hosts.cut(node)
    hosts.restore()
    bootable(hosts, name)
    goes_on(hosts, name)


@pytest.mark.matrix(sample=3, group="crashes")
@pytest.mark.parametrize("step", TARGET_STEPS)
def test_power_cut_of_the_target_between_two_steps(crash: tuple[Hosts, str], step: str) -> None:
    hosts, name = crash
    change(hosts, name, 1)
    stop_at(hosts, "beta", step)
    replicate_beside(hosts, name)
    wait_stopped(hosts, "beta")
    bootable(hosts, name)
    cut_target(hosts)
    hosts.restore()
    bootable(hosts, name)
    goes_on(hosts, name)


@pytest.mark.matrix(sample=3, group="crashes")
@pytest.mark.parametrize("step", TARGET_STEPS)
def test_a_start_after_a_power_cut_of_the_target(crash: tuple[Hosts, str], step: str) -> None:
    """The copy is really started from what the cut left, and afterwards given up as the README tells."""
    hosts, name = crash
    change(hosts, name, 1)
    stop_at(hosts, "beta", step)
    replicate_beside(hosts, name)
    wait_stopped(hosts, "beta")
    cut_target(hosts)
    hosts.restore()
    boot = hosts.boot_replica(name)
    assert (boot.torn, boot.missing) == (0, 0)
    assert max(boot.per_disk) - min(boot.per_disk) <= 1
    wait_ended(hosts)
    assert "running at beta" in hosts.refused(name, code="conflict")["message"]
    hosts.sh("beta", f"virsh -q destroy {name}")
    assert "written to" in hosts.refused(name, code="conflict")["message"]
    hosts.sh("beta", f"virsh -q undefine {name} --keep-nvram")
    goes_on(hosts, name)


@pytest.mark.matrix(sample=3, group="crashes")
@pytest.mark.parametrize("step", ["unsealed", "point removed", "old volumes removed"])
def test_power_cut_of_the_target_while_it_deletes(crash: tuple[Hosts, str], step: str) -> None:
    hosts, name = crash
    if step == "old volumes removed":
        # The copy may have been given up by the test before: only a run that switches leaves something old.
        change(hosts, name, 1)
        hosts.replicate(name)
    else:
        while len([row for row in hosts.points(name) if row["there"]]) < 6:
            change(hosts, name, 1)
            hosts.replicate(name)
    stop_at(hosts, "beta", step)
    for _ in range(4):
        # A point whose copy was started by a test before stays: then it is the next one that goes.
        change(hosts, name, 1)
        replicate_beside(hosts, name)
        wait_for(
            lambda: stopped(hosts, "beta") or not replicating(hosts), limit=300, what="stopped, or ended"
        )
        if stopped(hosts, "beta"):
            break
    wait_stopped(hosts, "beta")
    cut_target(hosts)
    hosts.restore()
    bootable(hosts, name)
    goes_on(hosts, name)


@pytest.mark.matrix(sample=3, group="crashes")
@pytest.mark.parametrize("step", ["files written", "defined, not synced"])
def test_power_cut_of_the_target_while_it_defines(hosts: Hosts, step: str) -> None:
    """A definition and its UEFI variables belong together, whichever of two libvirt reads after the cut."""
    name = hosts.guest(disks=1, size="32M", uefi=True, start=False)
    here = f"/var/lib/libvirt/qemu/nvram/{name}_VARS.fd"

    def change_variables(text: str) -> str:
        hosts.sh("alpha", f"printf {text} | dd of={here} bs=1 seek=300000 conv=notrunc,fsync status=none")
        return hosts.sh("alpha", f"sha256sum <{here}")

    def registered() -> tuple[str, str]:
        """Digest of the variables, and the disk, that a start would take; both must be there."""
        text = hosts.sh("beta", f"virsh dumpxml --inactive {name}")
        path = text.partition("_VARS.fd<")[0].rpartition(">")[2] + "_VARS.fd"
        (disk,) = hosts.disks("beta", name)
        return hosts.sh("beta", f"ls /dev/{disk} >/dev/null && sha256sum <{path}"), disk

    hosts.sh("alpha", f"cp /usr/share/OVMF/OVMF_VARS_4M.fd {here}")
    old = change_variables("first")
    hosts.replicate(name)
    assert registered()[0] == old
    old_disk = registered()[1]
    new = change_variables("other")
    stop_at(hosts, "beta", step)
    replicate_beside(hosts, name)
    wait_stopped(hosts, "beta")
    cut_target(hosts)
    hosts.restore()
    wait_ended(hosts)
    variables, disk = registered()
    assert variables == (old if disk == old_disk else new)
    hosts.replicate(name)
    assert registered()[0] == new
    hosts.verify(name)


@pytest.mark.matrix(sample=3, group="crashes")
@pytest.mark.parametrize("killed", ["sender", "LVM"])
def test_killed_in_the_freeze_of_a_replication(crash: tuple[Hosts, str], killed: str) -> None:
    """The guest runs again in time, what was begun becomes no point, and the next run succeeds."""
    hosts, name = crash
    change(hosts, name, 1)
    known = [row["id"] for row in hosts.points(name)]
    hosts.guard_pauses("frozen:30" if killed == "sender" else "snapshotting:5")
    asked = f'virsh -q qemu-agent-command {name} \'{{"execute":"guest-fsfreeze-status"}}\''
    if killed == "sender":
        inside = f"{asked} 2>/dev/null | grep -q frozen"
        kill = "pkill -9 -f '[t]hinsync-vm replicate' && echo killed"
    else:
        # It has two disks: its vCPUs are paused by then, and its agent answers nobody.
        inside = f"virsh -q domstate {name} | grep -q paused"
        group = "/sys/fs/cgroup/system.slice/thinsync-guard.service/cgroup.procs"
        kill = (
            f"for p in $(cat {group}); do [ $(cat /proc/$p/comm) = lvm ] && kill -9 $p && echo killed; done"
        )
    try:
        replicate_beside(hosts, name)
        # On the node itself, which has seconds for it: one call over ssh may take as long.
        line = f"until {inside}; do sleep 0.1; done; {kill}"
        assert hosts.sh("alpha", line, timeout=120).split() == ["killed"]
        wait_for(lambda: "thawed" in hosts.sh("alpha", asked, check=False), limit=15, what="the thaw")
        hosts.wait_writing(name)
        assert hosts.sh("alpha", f"virsh -q domstate {name}") == "running"
    finally:
        hosts.guard_pauses()
    wait_ended(hosts)
    assert [row["id"] for row in hosts.points(name)] == known
    goes_on(hosts, name)


@pytest.mark.matrix(sample=3, group="crashes")
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
        hosts.cut("alpha")
        hosts.restore()
    bootable(hosts, name)
    goes_on(hosts, name)


@pytest.mark.matrix(sample=3, group="crashes")
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
    assert "running at beta" in hosts.refused(name, code="conflict")["message"]
    hosts.sh("beta", f"ls {' '.join(live.split())}")
