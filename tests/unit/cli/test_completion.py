"""The shell's completion: names of domains and volumes; nothing, and no noise, where they cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
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


def test_the_script_in_a_shell(tools: Path) -> None:
    """As bash calls it, with names that it would split."""
    write_tool(tools, "virsh", r"printf '%s\n' 'web 01' web02 'a,b'")
    write_tool(
        tools,
        "thinsync-vm",
        f'PYTHONPATH={ROOT} exec {sys.executable} -c "from thinsync_virt.cli.main import main; main()" "$@"',
    )

    def completes(*words: str) -> list[str]:
        asked = f"""
            source {SCRIPT}
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            _thinsync_vm thinsync-vm
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(
            ["bash", "-c", asked, "bash", *words], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stderr == ""
        return done.stdout.splitlines()

    assert completes("thinsync-vm", "rep") == ["replicate"]
    assert completes("thinsync-vm", "verify", "web") == [r"web\ 01", "web02"]
    assert completes("thinsync-vm", "verify", "") == [r"web\ 01", "web02", r"a\,b"]
    assert "--dry-run" in completes("thinsync-vm", "replicate", "--d")
