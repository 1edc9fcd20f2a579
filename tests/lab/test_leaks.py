"""A power cut that leaks blocks: LVM alone would not activate the pool, and the replica could not be started."""

from __future__ import annotations

from product import Hosts
from thinlab.cache import FILES


def test_a_replica_boots_although_blocks_have_leaked(hosts: Hosts) -> None:
    name = hosts.guest(disks=1, size="64M")
    hosts.replicate(name)
    hosts.node("beta").put("/run/leak_block.py", (FILES / "remote/leak_block.py").read_bytes())
    # The component's table tells where the metadata lies, and it can be activated alone only.
    place = hosts.sh(
        "beta",
        "vgchange -qan vg0 >/dev/null; lvchange -qay -y vg0/pool_tmeta; dmsetup table vg0-pool_tmeta;"
        " lvchange -qan vg0/pool_tmeta",
    ).split()
    offset = int(place[-1]) * 512
    found = hosts.sh("beta", f"python3 /run/leak_block.py /dev/ubda {offset}")
    assert found.startswith("leaked data block")
    refused = hosts.node("beta").run("vgchange -aay vg0", check=False)
    assert "failed (status:64)" in refused.stderr, "the state is not the one that is meant"
    hosts.cut("beta")
    hosts.restore()
    said = hosts.sh("beta", "journalctl -q -b -o cat --no-pager -u thinsync-recover.service")
    assert "vg0/pool: activated" in said, said
    boot = hosts.boot_replica(name)
    assert (boot.torn, boot.missing) == (0, 0)
    hosts.sh("beta", f"virsh -q destroy {name}")


def test_check_warns_where_lvm_does_not_mend_leaks(hosts: Hosts) -> None:
    name = hosts.guest(disks=1, size="32M", start=False)
    said = hosts.thinsync("check", name, "--to", "beta", check=False).stdout
    assert "beta: LVM" in said and "--clear-needs-check-flag" in said
