"""The worked example of docs/lvm-thin.md, line by line, on both releases: every command, and what it prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from product import Hosts

DOCUMENT = Path(__file__).parents[2] / "docs/lvm-thin.md"
DISK = "/dev/ubdb"
SCRIPT = "/run/lvm-thin-doc.sh"


class Step(NamedTuple):
    """A command, and the lines that the document shows below it."""

    command: str
    shown: list[str]


def steps() -> list[Step]:
    found: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("# "):
                found.append(Step(re.sub(r"^DISK=\S+", f"DISK={DISK}", line[2:]), []))
            else:
                found[-1].shown.append(line)
    return found


def pattern(line: str) -> re.Pattern[str]:
    """``...`` stands for anything, a space for any space."""
    parts = [re.escape(part) for part in " ".join(line.split()).split("...")]
    return re.compile(".*".join(parts).replace(r"\ ", " "))


def missing(shown: list[str], printed: str) -> str:
    """The first line of the document that the output does not have, in its order."""
    lines = iter(" ".join(line.split()) for line in printed.splitlines())
    for line in shown:
        if not any(pattern(line).fullmatch(found) for found in lines):
            return line
    return ""


@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_the_worked_example(hosts: Hosts, node: str) -> None:
    every = steps()
    assert len(every) > 25
    wipe = f"vgremove -qqfy demo 2>/dev/null; wipefs -qa {DISK}"
    hosts.sh(node, wipe, check=False)
    script = "".join(f"printf '\\n@@ {number}\\n'\n{one.command}\n" for number, one in enumerate(every))
    hosts.node(node).put(SCRIPT, script)
    try:
        said = hosts.node(node).run(
            f"sh {SCRIPT} </dev/null 2>/run/lvm-thin-doc.err", check=False, timeout=240
        )
        errors = hosts.sh(node, "cat /run/lvm-thin-doc.err", check=False)
        parts = re.split(r"^@@ \d+$", said.stdout, flags=re.MULTILINE)[1:]
        assert len(parts) == len(every), said.stdout + errors
        wrong = [
            f"{one.command}\n  shows: {line}\n  printed: {printed.strip()}"
            for one, printed in zip(every, parts, strict=True)
            if (line := missing(one.shown, printed))
        ]
        assert not wrong, "\n".join([*wrong, errors])
    finally:
        hosts.sh(node, "dmsetup message demo-pool-tpool 0 release_metadata_snap 2>/dev/null", check=False)
        hosts.sh(node, wipe, check=False)
        hosts.sh(node, f"rm -f {SCRIPT} /run/lvm-thin-doc.err", check=False)
