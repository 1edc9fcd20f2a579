"""What one test breaks is not the next one's: the second of these two finds a whole lab."""

from __future__ import annotations

from product import Hosts
from thinlab import health


def test_a_test_that_breaks_a_volume_group(hosts: Hosts) -> None:
    hosts.sh("beta", "dd if=/dev/zero of=/dev/ubda bs=1M count=2 oflag=direct conv=notrunc status=none")
    hosts.sh("beta", "lvs vg0/pool; pvscan --cache", check=False)
    assert health.trouble(hosts.node("beta"))


def test_the_test_after_it(hosts: Hosts) -> None:
    assert health.trouble(hosts.node("beta")) == ""
    assert hosts.sh("beta", "lvs --noheadings -o lv_name vg0/pool") == "pool"
    assert "thinsync" in hosts.thinsync("--version", node="beta").stdout
    name = hosts.guest(disks=1, size="32M", start=False)
    hosts.replicate(name)
    hosts.verify(name)
