"""What must be refused: a clear error with its exit status and a way out, nothing lost, nothing left behind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from product import Hosts, wait_for
from thinlab import Lab

from thinsync_virt.errors import Code

AGE = """
import sys
from thinsync_virt.system.block import BlockDevice
from thinsync_virt.system.superblock import seal_superblock
with BlockDevice("/dev/ubda", write=True) as device:
    block = device.read(int(sys.argv[1]), 4096)
    device.write(int(sys.argv[1]), seal_superblock(block[:44] + (2**24 - 2).to_bytes(4, "little") + block[48:]))
    device.sync()
"""

pytestmark = pytest.mark.matrix(sample=2, group="refusals")


@pytest.fixture(scope="module")
def site(lab: Lab) -> Iterator[Hosts]:
    """Both hosts, for the guests of this module."""
    found = Hosts(lab)
    found.restore()
    yield found
    found.guard_pauses()
    found.remove_guests()


@pytest.fixture(scope="module")
def live(site: Hosts) -> str:
    """A running guest with one point at both ends, which every test leaves as it was."""
    name = site.guest(disks=1, size="64M", pace=5)
    site.lab.guests.fill("alpha", name, "/mnt/vda/data", 24)
    site.replicate(name)
    return name


@pytest.fixture
def off(site: Hosts) -> str:
    """A guest that is off and was never replicated."""
    return site.guest(disks=1, size="32M", start=False)


@contextmanager
def pool_at(site: Hosts, node: str, name: str, size: str) -> Iterator[str]:
    """One more pool there, for as long as the context lasts."""
    site.sh(node, f"lvcreate -qy --type thin-pool -L {size} --poolmetadatasize 4M -n {name} vg0")
    try:
        yield f"vg0/{name}"
    finally:
        site.sh(node, f"lvremove -qqy vg0/{name}")


@contextmanager
def untouched(site: Hosts, name: str) -> Iterator[None]:
    """Both ends are the same afterwards, the guest runs, and nobody froze it."""
    before, windows = site.everything(name), site.windows(name)
    state = site.sh("alpha", f"virsh -q domstate {name}", check=False)
    yield
    assert site.everything(name) == before
    assert site.sh("alpha", f"virsh -q domstate {name}", check=False) == state
    assert site.windows(name) == windows


@pytest.mark.parametrize(
    ("to", "why"),
    [("nowhere.invalid", "name"), ("10.77.0.99", "network|answer"), ("alpha", "same|this machine")],
    ids=["no such name", "nobody there", "itself"],
)
def test_wrong_host(site: Hosts, live: str, to: str, why: str) -> None:
    with untouched(site, live):
        done = site.thinsync("replicate", live, "--to", to, "--json", check=False, timeout=60)
    error = json.loads(done.stdout)["error"]
    assert done.returncode == Code(error["code"]).exit_status and error["code"] in ("unreachable", "usage")
    assert re.search(why, error["message"]) and error["hint"], error


def test_refused_key(site: Hosts, live: str) -> None:
    site.sh(
        "alpha",
        "mv /root/.ssh/id_ed25519 /root/.ssh/kept; ssh-keygen -q -N '' -t ed25519 -f /root/.ssh/id_ed25519",
    )
    try:
        with untouched(site, live):
            error = site.refused(live, code="unreachable")
    finally:
        site.sh(
            "alpha",
            "cd /root/.ssh; mv kept id_ed25519; ssh-keygen -y -f id_ed25519 >id_ed25519.pub",
        )
    assert "refuses our key" in error["message"] and "ssh-copy-id" in error["hint"]


def test_what_is_not_there(site: Hosts, live: str) -> None:
    with untouched(site, live):
        error = site.refused(live, "--pool", "vg0/nothing", code="not-found")
        assert "vg0/nothing" in error["message"] and "vg0/pool" in error["hint"]
        error = site.refused(live, "--map", "vdz=vg0/pool", code="usage")
        assert "vdz" in error["message"]
    error = site.refused("no-such-guest", code="not-found")
    assert "no-such-guest" in error["message"]


def test_two_runs_at_once(site: Hosts, live: str) -> None:
    site.guard_pauses("frozen:4")
    try:
        first = site.start_replicating(live, "--json")
        windows = f'virsh -q qemu-agent-command {live} \'{{"execute":"guest-fsfreeze-status"}}\''
        wait_for(lambda: "frozen" in site.sh("alpha", windows, check=False), what="the freeze")
        error = site.refused(live, code="busy")
        found = re.search(r"already running, pid (\d+)", error["message"])
        assert found, error
        assert "replicate" in site.sh("alpha", f"tr '\\0' ' ' </proc/{found[1]}/cmdline", check=False)
        out, _ = first.communicate(timeout=120)
    finally:
        site.guard_pauses()
    assert json.loads(out)["point"]["consistency"] == "filesystem"


def test_a_full_pool_at_the_target(site: Hosts, live: str) -> None:
    with pool_at(site, "beta", "tiny", "16M") as pool:
        # Too small for what would come: known from what is mapped, before anything is touched.
        for words in ((), ("--dry-run",)):
            with untouched(site, live):
                error = site.refused(live, "--pool", pool, *words, code="space")
            assert pool in error["message"] and "are needed" in error["message"], error
            assert "lvextend" in error["hint"], error
        site.wait_writing(live, at_least=2)
        # Full already: nothing is frozen to find out.
        site.sh(
            "beta",
            "lvcreate -qy -V 16M -T vg0/tiny -n tiny-x;"
            " dd if=/dev/zero of=/dev/vg0/tiny-x bs=1M count=16 oflag=direct status=none",
        )
        with untouched(site, live):
            error = site.refused(live, "--pool", pool, code="space")
            assert pool in error["message"] and "lvextend" in error["hint"], error


def test_a_full_pool_at_the_source(site: Hosts) -> None:
    with pool_at(site, "alpha", "brink", "48M") as pool:
        name = site.guest(disks=1, size="32M", start=False, pool=pool)
        site.sh(
            "alpha",
            f"lvcreate -qy -V 48M -T {pool} -n brink-x;"
            " dd if=/dev/zero of=/dev/vg0/brink-x bs=64k oflag=direct status=none",
            check=False,
        )
        for words in ((), ("--dry-run",)):
            with untouched(site, name):
                error = site.refused(name, *words, code="pool")
            assert f"pool {pool}" in error["message"] and "lvextend" in error["hint"], error
        # With room again it goes, without more ado.
        site.sh("alpha", "lvremove -qqy vg0/brink-x")
        site.replicate(name)
        site.verify(name)
        site.remove_guest(name)


def test_without_a_guard_nothing_is_begun(site: Hosts, live: str) -> None:
    units = "thinsync-guard.socket thinsync-guard.path"
    # The socket's file stays: it proves nothing.
    site.sh("alpha", f"systemctl stop {units} thinsync-guard.service; test -S /run/thinsync/guard.sock")
    try:
        for words in ((), ("--dry-run",)):
            with untouched(site, live):
                error = site.refused(live, *words, code="unreachable")
            assert "guard" in error["message"] and "systemctl" in error["hint"], error
        assert stops(site, "alpha") == ["alpha: guard"]
    finally:
        site.sh("alpha", f"systemctl start {units}")
    assert stops(site, "alpha") == []
    site.replicate(live)


def stops(site: Hosts, node: str, *words: str) -> list[str]:
    """What ``check`` says would stop a replication; its exit status goes with it."""
    done = site.thinsync("check", *words, "--json", node=node, check=False)
    report = json.loads(done.stdout)
    found = [one["subject"] for one in report["findings"] if one["severity"] == "refusal"]
    assert report["ready"] is (done.returncode == 0) is (not found), report
    return found


def test_check_asks_libvirt_at_both_ends(site: Hosts) -> None:
    units = "libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd.service virtqemud.socket"
    units += " virtqemud-ro.socket virtqemud-admin.socket virtqemud.service"
    running = site.sh(
        "beta", f"for one in {units}; do systemctl -q is-active $one && echo $one; done; true"
    ).split()
    assert running
    site.sh("beta", f"systemctl stop {' '.join(running)}")
    try:
        assert stops(site, "beta") == ["beta: libvirt"]
        assert stops(site, "alpha", "--to", "beta") == ["beta: libvirt"]
    finally:
        site.sh("beta", f"systemctl start {' '.join(running)}")
    assert stops(site, "alpha", "--to", "beta") == stops(site, "beta") == []


def test_a_full_pool_stops_only_who_uses_it(site: Hosts, live: str) -> None:
    with pool_at(site, "beta", "brim", "16M") as pool:
        site.sh(
            "beta",
            f"lvcreate -qy -V 16M -T {pool} -n brim-x;"
            " dd if=/dev/zero of=/dev/vg0/brim-x bs=1M count=16 oflag=direct status=none",
        )
        assert stops(site, "beta") == stops(site, "alpha", live, "--to", "beta", "--pool", "vg0/pool") == []
        assert f"beta: pool {pool}" in stops(site, "alpha", live, "--to", "beta", "--pool", pool)


@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_full_metadata_of_the_volume_group(site: Hosts, node: str) -> None:
    site.sh(
        node,
        "pvcreate -qqy --metadatasize 60k --dataalignment 64k /dev/ubdb && vgcreate -q small /dev/ubdb"
        " && lvcreate -qy --type thin-pool -L 64M --poolmetadatasize 4M -n pool small"
        " && lvcreate -qy -L 4M -n ballast small",
    )
    try:
        pool = {"pool": "small/pool"} if node == "alpha" else {}
        name = site.guest(disks=1, size="32M", start=False, **pool)
        site.sh(
            node,
            "tag=$(printf 'x%.0s' $(seq 900)); n=0;"
            " while [ $(vgs --noheadings --units b --nosuffix -o vg_mda_free small) -gt 2048 ] && [ $n -lt 60 ]; do"
            " n=$((n+1)); lvchange -qq --addtag $n$tag small/ballast || break; done",
        )
        with untouched(site, name):
            error = site.refused(name, *(("--pool", "small/pool") if node == "beta" else ()), code="space")
            assert "volume group small" in error["message"] and "metadata" in error["message"], error
            assert error["hint"], error
    finally:
        site.sh(node, "vgremove -qq -f -y small; pvremove -qq -y /dev/ubdb; wipefs -qa /dev/ubdb")


@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_a_metadata_snapshot_of_somebody_else(site: Hosts, live: str, node: str) -> None:
    site.sh(node, "dmsetup message vg0-pool-tpool 0 reserve_metadata_snap")
    try:
        with untouched(site, live):
            error = site.refused(live, code="busy")
        assert "vg0/pool" in error["message"] and "pool release vg0/pool" in error["hint"], error
        # It is theirs: neither we nor a recovery of ours takes it away.
        site.thinsync("recover", node=node)
        assert "metadata snapshot" in site.thinsync("check", node=node, check=False).stdout
        released = site.thinsync("pool", "release", "vg0/pool", "--yes", "--json", node=node)
        assert json.loads(released.stdout)["released"]
    finally:
        site.sh(node, "dmsetup message vg0-pool-tpool 0 release_metadata_snap", check=False)
    site.replicate(live)


def test_a_pool_at_the_end_of_its_time(site: Hosts, off: str) -> None:
    with pool_at(site, "beta", "aged", "64M") as pool:
        site.sh(
            "beta", f"lvcreate -qy -V 4M -T {pool} -n aged-x; lvremove -qy vg0/aged-x; lvchange -an {pool}"
        )
        extent = site.sh("beta", "lvs -a --noheadings -o devices vg0/aged_tmeta")
        start = int(extent.partition("(")[2].rstrip(")")) * (4 << 20)
        start += int(site.sh("beta", "pvs --noheadings --units b --nosuffix -o pe_start /dev/ubda"))
        site.node("beta").put("/run/age.py", AGE)
        site.sh("beta", f"python3 /run/age.py {start}; lvchange -ay {pool}")
        with untouched(site, off):
            error = site.refused(off, "--pool", pool, code="pool")
        assert "16777214 snapshots in its life" in error["message"] and "new pool" in error["hint"], error


def test_a_managed_save_image(site: Hosts, off: str) -> None:
    save = f"virsh -q start --paused {off} && virsh -q managedsave {off}"
    site.sh("alpha", save)
    with untouched(site, off):
        error = site.refused(off, code="not-replicable")
        assert f"managedsave-remove {off}" in error["message"] + error["hint"]
    site.sh("alpha", f"virsh -q managedsave-remove {off}")
    site.replicate(off)
    site.sh("beta", save)
    site.sh(
        "alpha", f"dd if=/dev/urandom of=/dev/vg0/{off}-vda bs=4k count=1 seek=4000 oflag=direct status=none"
    )
    with untouched(site, off):
        error = site.refused(off, code="conflict")
        assert f"managedsave-remove {off}" in error["hint"]
    site.sh("beta", f"virsh -q managedsave-remove {off}")
    site.replicate(off)
    site.verify(off)


@pytest.mark.parametrize("kind", ["i440fx", "q35"])
def test_a_machine_type_that_the_target_does_not_know(site: Hosts, kind: str) -> None:
    known = site.sh(
        "beta", f"qemu-system-x86_64 -machine help | grep -oE '^pc-{kind}-[0-9.]+' | sort -V | tail -1"
    )
    name = site.guest(node="beta", disks=1, size="32M", machine=known, start=False)
    before = site.everything(name)
    error = site.refused(name, node="beta", code="not-replicable")
    assert known in error["message"], error
    assert site.everything(name) == before
    assert site.volumes("alpha", name) == site.volumes("beta", name) == {}


@pytest.mark.parametrize("same", ["name", "UUID"])
def test_somebody_elses_domain_at_the_target(site: Hosts, off: str, same: str) -> None:
    xml = site.sh("alpha", f"virsh dumpxml --inactive {off}")
    if same == "name":
        xml = re.sub(r"<uuid>.*</uuid>", "", xml)
        other = off
    else:
        other = f"{off}-other"
        xml = xml.replace(f"<name>{off}</name>", f"<name>{other}</name>")
    xml = re.sub(r"(?s)<disk .*?</disk>", "", xml).replace("pc-i440fx-7.2", "pc")
    site.node("beta").put("/run/other.xml", xml)
    site.sh("beta", "virsh -q define /run/other.xml")
    try:
        with untouched(site, off):
            error = site.refused(off, code="conflict")
        assert f"same {same}" in error["message"] or f"the {same} of" in error["message"], error
        assert other in error["message"]
    finally:
        site.sh("beta", f"virsh -q undefine {other}")
    assert site.volumes("beta", off) == {}


def test_nothing_secret_is_said(site: Hosts, off: str) -> None:
    secret = "S3cr3tVn"  # VNC takes eight characters at most
    xml = site.sh("alpha", f"virsh dumpxml --inactive --security-info {off}")
    graphics = f"<graphics type='vnc' port='-1' autoport='yes' passwd='{secret}'/>"
    site.node("alpha").put("/run/secret.xml", xml.replace("</devices>", f"{graphics}</devices>"), 0o600)
    site.sh("alpha", "virsh -q define /run/secret.xml && rm /run/secret.xml")
    began = site.sh("alpha", "date +%s")
    said = []
    for words in (
        ("replicate", off, "--to", "beta", "--pool", "vg0/pool"),
        ("replicate", off, "--to", "beta", "--json"),
        ("check", off, "--to", "beta"),
        ("list", "--json"),
        ("points", off, "--to", "beta", "--json"),
        ("verify", off, "--to", "beta", "--json"),
    ):
        done = site.thinsync(*words, env="THINSYNC_DEBUG=1")
        said.append(done.stdout + done.stderr)
    failed = site.thinsync("replicate", off, "--to", "beta", "--map", "vdq=vg0/pool", check=False)
    said.append(failed.stdout + failed.stderr)
    # It did travel.
    assert secret in site.sh("beta", f"virsh dumpxml --inactive --security-info {off}")
    for node in ("alpha", "beta"):
        said.append(
            site.sh(
                node,
                f"journalctl -q --no-pager -o export --since @{began} | grep -a '^MESSAGE='",
                check=False,
            )
        )
        kept = f"grep -rlIsE '{secret}|PRIVATE KEY' /var/log /var/lib/thinsync /run/thinsync /tmp /var/tmp"
        assert not site.sh(node, kept, check=False)
    for text in said:
        assert secret not in text and "PRIVATE KEY" not in text
