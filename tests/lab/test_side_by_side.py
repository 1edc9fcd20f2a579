"""Two labs at once, the second with its releases the other way round."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from product import Hosts

PROGRAM = Path(__file__).resolve().parent / "lab"
NAME = "beside"


@pytest.mark.matrix(sample=0, group="side by side")
@pytest.mark.timeout(1800)
def test_a_second_lab_with_other_releases(hosts: Hosts) -> None:
    directory = hosts.lab.state.directory.with_name(f"{hosts.lab.state.directory.name}-beside")

    def second(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, PROGRAM, "--dir", directory, *words], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    if directory.exists():  # of a run that was killed
        second("down", "--wipe")
    try:
        second("up", "--release", "alpha=13", "--release", "beta=12")
        versions = [second("run", node, ". /etc/os-release; echo $VERSION_ID") for node in ("alpha", "beta")]
        assert versions == ["13", "12"]
        # Of a type that the older one knows too.
        second("guest", "alpha", NAME, "--size", "64M", "--machine", "pc-i440fx-7.2", "--no-start")
        second("run", "alpha", f"thinsync-vm replicate {NAME} --to beta")
        second("run", "alpha", f"thinsync-vm verify {NAME} --to beta")
        assert NAME in second("run", "beta", "virsh list --all --name")
        assert NAME not in hosts.sh("beta", "virsh list --all --name")
        # A power cut here is none there.
        hosts.cut("beta")
        assert json.loads(second("status", "--json"))["beta"]["power"] == "on"
        hosts.lab.boot("beta")
    finally:
        second("down", "--wipe")
    assert not directory.exists() or not any(directory.iterdir())
    assert [row["power"] for row in hosts.lab.status().values()] == ["on", "on"]
    assert hosts.sh("alpha", "ssh beta hostname") == "beta"
