"""The state of a TPM goes with its point, both ways; a crash never joins it with another point's disks."""

from __future__ import annotations

import json
import shlex

import pytest
from product import PEER, Hosts, wait_for
from test_crashes import STOP, STOPPED, stop_at, wait_ended, wait_stopped

STORE = "/var/tmp/tpm-store"
MACHINE = "pc-i440fx-7.2"  # known to both releases
# beta's libvirt lets the definition name a directory, alpha's fixes the place
STEPS = [
    ("beta", "TPM state written"),
    ("beta", "defined, not synced"),
    ("alpha", "TPM state written"),
    ("alpha", "TPM held"),
    ("alpha", "defined, not synced"),
    ("alpha", "TPM in place"),
]


def directory(hosts: Hosts, node: str, name: str) -> str:
    """Where libvirt of this host puts a domain's TPM state by itself."""
    return f"/var/lib/libvirt/swtpm/{hosts.sh(node, f'virsh domuuid {name}')}/tpm2"


def give(hosts: Hosts, node: str, name: str, text: str) -> None:
    """A guest that is off gets something that stands for a TPM's state."""
    place = directory(hosts, node, name)
    hosts.sh(node, f"mkdir -p {place}; printf {shlex.quote(text)} >{place}/tpm2-00.permall; sync")


def taken(hosts: Hosts, node: str, name: str) -> tuple[str, str]:
    """The state that a start of the replica would take, and its disk."""
    text = hosts.sh(node, f"virsh dumpxml --inactive {name}")
    named = text.partition("<source type='dir' path='")[2].partition("'")[0]
    place = named or directory(hosts, node, name)
    (disk,) = hosts.disks(node, name)
    return hosts.sh(node, f"ls /dev/{disk} >/dev/null && cat {place}/tpm2-00.permall"), disk


@pytest.mark.matrix(sample=1, group="tpm")
@pytest.mark.parametrize("source", ["alpha", "beta"])
def test_a_copy_starts_with_the_keys_of_its_point(hosts: Hosts, source: str) -> None:
    """A change of the TPM alone makes a new point; what came after the point is not in the copy.

    Nothing is frozen: a thaw writes, and would make a point of its own.
    """
    name = hosts.guest(node=source, disks=1, size="64M", tpm=True, machine=MACHINE)
    guests, target = hosts.lab.guests, PEER[source]
    guests.pace(source, name, 0)
    guests.run(source, name, "tpm write one && sync")
    hosts.replicate(name, "--quiesce", "off", node=source)
    assert hosts.replicate(name, "--quiesce", "off", node=source)["outcome"] == "up-to-date"
    guests.run(source, name, "tpm write two")
    assert hosts.replicate(name, "--quiesce", "off", node=source)["outcome"] == "replicated"
    hosts.verify(name, node=source)
    guests.run(source, name, "tpm write three")
    hosts.sh(source, f"virsh -q destroy {name}")
    hosts.boot_replica(name, node=target)
    assert guests.run(target, name, "tpm read").stdout.strip("\0\n") == "two"

    # The way back: the copy has written, and its keys travel like its disks.
    guests.run(target, name, "tpm write four && sync")
    guests.wait_agent(target, name)
    hosts.sh(source, f"virsh -q undefine {name}")
    hosts.replicate(name, node=target)
    hosts.sh(target, f"virsh -q destroy {name}")
    hosts.boot_replica(name, node=source)
    assert guests.run(source, name, "tpm read").stdout.strip("\0\n") == "four"


def test_what_is_no_state_and_a_target_without_an_emulator(hosts: Hosts) -> None:
    name = hosts.guest(disks=1, size="32M", tpm=True, start=False)
    place = directory(hosts, "alpha", name)
    before = hosts.everything(name)
    hosts.sh("alpha", f"mkdir -p {place}; : >{place}/tpm2-00.permall")
    assert "is empty" in hosts.refused(name, code="not-replicable")["message"]
    hosts.sh("alpha", f"truncate -s 5M {place}/tpm2-00.permall")
    assert "too large" in hosts.refused(name, code="not-replicable")["message"]
    give(hosts, "alpha", name, "keys")
    hosts.sh("beta", "mv /usr/bin/swtpm_setup /usr/bin/swtpm_setup.away")
    try:
        error = hosts.refused(name, code="not-replicable")
        assert "swtpm_setup" in error["message"] + error["hint"]
    finally:
        hosts.sh("beta", "mv /usr/bin/swtpm_setup.away /usr/bin/swtpm_setup")
    assert hosts.everything(name) == before
    # Never started, so no state: the copy's first start makes one, as the original's would.
    hosts.sh("alpha", f"rm {place}/tpm2-00.permall")
    assert hosts.replicate(name)["outcome"] == "replicated"
    give(hosts, "alpha", name, "keys")
    assert hosts.replicate(name)["outcome"] == "replicated"
    assert taken(hosts, "beta", name)[0] == "keys"


@pytest.mark.matrix(sample=1, group="tpm")
@pytest.mark.parametrize("kind", ["archive", "qcow2"])
def test_a_store_keeps_it_beside_the_disks(hosts: Hosts, kind: str) -> None:
    name = hosts.guest(disks=1, size="32M", tpm=True, start=False)
    give(hosts, "alpha", name, "keys")
    try:
        words = ("replicate", name, "--to", f"{kind}:{STORE}", "--json")
        assert json.loads(hosts.thinsync(*words).stdout)["outcome"] == "replicated"
        found = hosts.sh("alpha", f"find {STORE} -name 'tpm+tpm2-00.permall' -exec cat {{}} +")
        assert found == "keys"
        give(hosts, "alpha", name, "others")
        assert json.loads(hosts.thinsync(*words).stdout)["outcome"] == "replicated"
    finally:
        hosts.sh("alpha", f"rm -rf {STORE}")


@pytest.mark.matrix(sample=1, group="tpm")
@pytest.mark.parametrize("how", ["killed", "power cut"])
@pytest.mark.parametrize(("target", "step"), STEPS)
def test_the_target_ends_between_two_steps(hosts: Hosts, target: str, step: str, how: str) -> None:
    """What a start would take belongs to the disk that it would take, whichever definition outlives the crash."""
    source = PEER[target]
    name = hosts.guest(node=source, disks=1, size="32M", tpm=True, start=False, machine=MACHINE)
    give(hosts, source, name, "first")
    hosts.replicate(name, node=source)
    old, old_disk = taken(hosts, target, name)
    assert old == "first"
    give(hosts, source, name, "other")
    stop_at(hosts, target, step)
    hosts.settle()
    try:
        words = f"thinsync-vm replicate {name} --to {target} --pool vg0/pool"
        hosts.sh(source, f"setsid {words} >/run/replicate.log 2>&1 </dev/null &")
        wait_stopped(hosts, target)
        if how == "killed":
            hosts.sh(source, "pkill -9 -f '[t]hinsync-vm replicate'")
            hosts.sh(target, "pkill -9 -f '[t]hinsync-vm server'")
            wait_for(
                lambda: not hosts.sh(target, "pgrep -f '[t]hinsync-vm server'", check=False), what="its end"
            )
            if step in ("TPM held", "defined, not synced") and target == "alpha":
                assert taken(hosts, target, name)[0] not in ("first", "other")
            hosts.sh(target, f"rm -f {STOP} {STOPPED}; thinsync-vm recover")
        else:
            hosts.cut(target)
            hosts.sh(source, "pkill -9 -f '[t]hinsync-vm replicate'", check=False)
            hosts.restore()
    finally:
        hosts.restore()
        hosts.sh(target, f"rm -f {STOP} {STOPPED}")
    if source == "alpha":
        wait_ended(hosts)
    state, disk = taken(hosts, target, name)
    assert state == ("first" if disk == old_disk else "other")
    hosts.replicate(name, node=source)
    assert taken(hosts, target, name)[0] == "other"
    hosts.verify(name, node=source)
    # The states of points that nothing is registered from any more have gone.
    assert hosts.replicate(name, node=source)["outcome"] == "up-to-date"
    kept = hosts.sh(target, f"ls -d {directory(hosts, target, name)}/thinsync-*").split()
    assert 1 <= len(kept) <= 2, kept
