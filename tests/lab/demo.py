"""``make demo``: the main job, shown on two hosts. Ends with a verdict, and a non-zero status if anything was wrong."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from seeds import seed
from thinlab import Guest, Lab
from thinlab.errors import LabError

from thinsync_virt.units import format_size, parse_size

GUEST = "web01"


class Show:
    """Prints the steps, and keeps what was wrong."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.started = time.monotonic()
        self.wrong: list[str] = []

    def step(self, text: str) -> None:
        print(f"\n\033[1m[{time.monotonic() - self.started:5.0f}s] {text}\033[0m", flush=True)

    def expect(self, holds: bool, text: str) -> None:
        print(f"  {'ok   ' if holds else 'WRONG'}  {text}", flush=True)
        if not holds:
            self.wrong.append(text)

    def command(self, node: str, line: str) -> str:
        """Run one command on a host, show it and what it prints."""
        print(f"\n  {node}# {line}", flush=True)
        process = self.lab.node(node).popen(f"{line} 2>&1")
        assert process.stdout is not None
        said = []
        for raw in process.stdout:
            text = raw.decode(errors="replace").rstrip()
            said.append(text)
            print(f"    {text}", flush=True)
        self.expect(process.wait(timeout=600) == 0, f"{line.split()[0]} {line.split()[1]} ended well")
        return "\n".join(said)


def main() -> int:
    lab = Lab()
    show = Show(lab)
    print("Two hypervisors, alpha (Debian 12) and beta (Debian 13), as processes of this machine.")
    show.step("Starting both hosts (the first time they are built: some minutes)")
    lab.up()
    for node in ("alpha", "beta"):
        clean(lab, node)
    show.step(f"A guest with two disks on alpha; it writes numbered records to both, all the time: {GUEST}")
    lab.guests.create("alpha", Guest(GUEST, disks=2))
    lab.guests.fill("alpha", GUEST, "/mnt/vda/data", 48)
    show.command("alpha", "thinsync-vm list")
    show.step("The first replication: everything that is mapped")
    full = replicate(show)
    show.step("The guest writes on; the second replication sends what changed")
    time.sleep(5)
    before = lab.guests.acknowledged("alpha", GUEST)
    incremental = replicate(show)
    after = lab.guests.acknowledged("alpha", GUEST)
    print(
        f"\n  sent: {format_size(full)} the first time, {format_size(incremental)} now, of two disks with 256 MiB each"
    )
    show.expect(0 < incremental < full, "the second replication sent less than the first")
    show.step("Verification: both ends read their copy, only digests travel")
    show.command("alpha", f"thinsync-vm verify {GUEST} --to beta")
    show.step("Power cut of alpha. beta starts its copy with a plain virsh start")
    lab.cut("alpha", volatile=True, seed=seed())
    show.command("beta", f"virsh start {GUEST}")
    boot = lab.guests.wait_boot("beta", GUEST)
    show.step("What the guest found on its disks")
    print(f"  records acknowledged before the snapshot: {before}, after it: {after}")
    print(f"  last record on each disk of the copy: {', '.join(str(last) for last in boot.per_disk)}")
    show.expect(before <= boot.last <= after, "every record up to the recovery point is there")
    show.expect(boot.missing == 0, "no record is missing")
    show.expect(boot.torn == 0, "no record is torn")
    show.expect(max(boot.per_disk) - min(boot.per_disk) <= 1, "both disks are of one instant")
    now = boot.last
    deadline = time.monotonic() + 60
    while now <= boot.last and time.monotonic() < deadline:
        time.sleep(1)
        now = lab.guests.acknowledged("beta", GUEST)
    show.expect(now > boot.last, f"the guest works on at beta (record {now})")
    seconds = time.monotonic() - show.started
    if show.wrong:
        print(f"\nVERDICT: WRONG after {seconds:.0f} s:")
        for text in show.wrong:
            print(f"  {text}")
        return 1
    print(
        f"\nVERDICT: alpha is gone, {GUEST} runs on beta, nothing lost up to the recovery point. ({seconds:.0f} s)"
    )
    print(
        "Look around: tests/lab/lab status; tests/lab/lab run beta thinsync-vm points web01; tests/lab/lab down"
    )
    return 0


def replicate(show: Show) -> int:
    """Replicate as a user does; the bytes that were sent, as its last line says them."""
    said = show.command("alpha", f"thinsync-vm replicate {GUEST} --to beta")
    found = re.search(r" ([\d.]+ [KMG]?i?B) sent in ", said)
    show.expect(found is not None, "it says how much it sent")
    return parse_size(found[1]) if found else 0


def clean(lab: Lab, node: str) -> None:
    """What an earlier demo left."""
    script = f"""
    virsh destroy {GUEST} >/dev/null 2>&1
    virsh undefine {GUEST} --nvram >/dev/null 2>&1
    for pass in 1 2; do
        lvs --noheadings -o vg_name,lv_name --separator / -S 'lv_name=~"^(ts-)?{GUEST}-"' | xargs -r lvremove -qq -y
    done
    true"""
    lab.node(node).run(script, timeout=120)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (LabError, subprocess.SubprocessError) as error:
        print(f"\nVERDICT: the demo could not go on: {error}", file=sys.stderr)
        hint = getattr(error, "hint", "")
        if hint:
            print(f"  what to do: {hint}", file=sys.stderr)
        sys.exit(1)
