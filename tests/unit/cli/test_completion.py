"""The shell's completion: names of domains and volumes; nothing, and no noise, where they cannot be had."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from tests.unit.values import volume
from thinsync_virt.cli.commands import group
from thinsync_virt.errors import PoolError
from thinsync_virt.system.lvm import Lvm

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "packaging/bash-completion/thinsync-vm"
TAKES_A_DOMAIN = ("replicate", "points", "verify", "check")


def offered(*words: str, incomplete: str = "") -> list[str]:
    completer = ShellComplete(group, {}, "thinsync-vm", "_THINSYNC_VM_COMPLETE")
    return [item.value for item in completer.get_completions(list(words), incomplete)]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in front of PATH for tools of a test's own."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def write_tool(tools: Path, name: str, *lines: str) -> None:
    path = tools / name
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)


@pytest.mark.parametrize("command", TAKES_A_DOMAIN)
def test_domains(command: str, tools: Path) -> None:
    write_tool(tools, "virsh", r"printf '%s\n' db01 web01 'web 02' ''")
    assert offered(command) == ["db01", "web01", "web 02"]
    assert offered(command, incomplete="web") == ["web01", "web 02"]


def test_every_argument_that_is_a_domain_is_completed() -> None:
    context = click.Context(group)
    with_domain = {
        name
        for name in group.list_commands(context)
        for parameter in getattr(group.get_command(context, name), "params", ())
        if isinstance(parameter, click.Argument) and parameter.name == "domain"
    }
    assert with_domain == set(TAKES_A_DOMAIN)


@pytest.mark.parametrize("lines", [("echo no libvirt >&2", "exit 1"), ("kill -9 $$",)], ids=["away", "dies"])
def test_without_libvirt_nothing_is_offered(
    lines: Sequence[str], tools: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_tool(tools, "virsh", *lines)
    assert offered("replicate") == []
    assert capfd.readouterr() == ("", "")


def test_without_virsh_nothing_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thinsync_virt.system.process.SEARCH_PATH", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    assert offered("replicate") == []


def test_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lvm, "volumes", lambda self: (volume("tuesday"), volume("monday"), volume("other")))
    assert offered("delta") == ["vg0/monday", "vg0/other", "vg0/tuesday"]
    assert offered("delta", "vg0/monday", incomplete="vg0/") == ["vg0/other", "vg0/tuesday"]
    assert offered("delta", incomplete="vg1/") == []


def test_what_can_be_sent(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tool(tools, "virsh", r"printf '%s\n' db01 web01 ''")
    monkeypatch.setattr(Lvm, "volumes", lambda self: (volume("tuesday"), volume("monday")))
    assert offered("send") == ["db01", "web01", "vg0/monday", "vg0/tuesday"]
    assert offered("send", "--base", incomplete="vg0/t") == ["vg0/tuesday"]
    assert offered("receive", incomplete="vg0/m") == ["vg0/monday"]


def test_without_lvm_nothing_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Lvm) -> None:
        raise PoolError("LVM fails")

    monkeypatch.setattr(Lvm, "volumes", fail)
    assert offered("delta") == []


def in_a_shell(tools: Path, *names: str) -> Callable[[str], list[str]]:
    """What bash's completion offers at the end of a line, on a host with domains of these names."""
    write_tool(tools, "virsh", "cat <<'END'", *names, "END")
    write_tool(
        tools,
        "thinsync-vm",
        f'PYTHONPATH={ROOT} exec {sys.executable} -c "from thinsync_virt.cli.main import main; main()" "$@"',
    )
    asked = f"""
        source {SCRIPT}
        COMP_LINE=$1; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _thinsync_vm thinsync-vm
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """

    def completes(line: str) -> list[str]:
        # As COMP_WORDBREAKS has bash cut it, quotes and all.
        pieces = re.findall(r"""[:=@]+|(?:"[^"]*"?|'[^']*'?|[^\s:=@])+|(?<=\s)$""", line)
        done = subprocess.run(
            ["bash", "-c", asked, "bash", line, *pieces],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stderr == ""
        return done.stdout.splitlines()

    return completes


def test_the_script_in_a_shell(tools: Path) -> None:
    """As bash calls it, with names that it would split."""
    completes = in_a_shell(tools, "web 01", "web02", "a,b")
    assert completes("thinsync-vm rep") == ["replicate"]
    assert completes("thinsync-vm verify web") == [r"web\ 01", "web02"]
    assert completes("thinsync-vm verify ") == [r"web\ 01", "web02", r"a\,b"]
    assert "--dry-run" in completes("thinsync-vm replicate --d")


@pytest.mark.parametrize("target", ["archive:/mnt/usb", "root@beta:22", "ssh://root@beta:file:/a"])
def test_a_word_that_bash_cuts_is_one_all_the_same(target: str, tools: Path) -> None:
    completes = in_a_shell(tools, "web01", "db:01", "db:02")
    assert completes(f"thinsync-vm replicate --to {target} we") == ["web01"]
    assert completes(f"thinsync-vm replicate --to={target} --map net:br0=br7 we") == ["web01"]
    assert completes(f"thinsync-vm replicate --to {target} d") == ["db:01", "db:02"]
    # bash has "db:" already, and replaces what is behind it.
    assert completes(f"thinsync-vm replicate --to {target} db:0") == ["01", "02"]
    assert completes(f"thinsync-vm replicate --to {target} db:") == ["01", "02"]


def test_within_quotes_nothing_is_quoted_twice(tools: Path) -> None:
    completes = in_a_shell(tools, "web 01", "it's $5")
    assert completes('thinsync-vm check "web 0') == ["web 01"]
    assert completes("thinsync-vm check 'web 0") == ["web 01"]
    assert completes("thinsync-vm check 'it") == [r"it'\''s $5"]
    assert completes('thinsync-vm check "it') == [r"it's \$5"]
