from __future__ import annotations

from pathlib import Path

import pytest

from thinsync_virt.errors import ThinsyncError
from thinsync_virt.system import host


def test_identity(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "proc/sys/kernel/random").mkdir(parents=True)
    (tmp_path / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("01234567-89ab-cdef-0123-456789abcdef\n")
    found = host.identity(root=tmp_path)
    assert found.machine_id == found.boot_id == "0123456789abcdef0123456789abcdef"
    (tmp_path / "etc/machine-id").write_text("uninitialized\n")
    with pytest.raises(ThinsyncError, match="machine id"):
        host.identity(root=tmp_path)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("  LVM version:     2.03.16(2) (2022-05-18)\n", "2.03.16"),
        ("0.9.0\n", "0.9.0"),
        ("OpenSSH_9.2p1 Debian-2+deb12u3, OpenSSL 3.0.15\n", "9.2p1"),
        ("qemu-img version 10.0.3 (Debian 1:10.0.3+ds-0+deb13u1)\n", "10.0.3"),
        ("nothing\n", ""),
    ],
)
def test_versions(said: str, version: str) -> None:
    assert host.parse_version(said) == version


def test_a_missing_tool_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "find_tool", lambda name: None)
    (tool,) = host.tools(("thin_delta",))
    assert (tool.missing, tool.package) == (True, "thin-provisioning-tools")


def test_a_tool_that_fails_is_not_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """dmsetup does, where the kernel has no device-mapper: to install it once more would help nobody."""
    fails = tmp_path / "dmsetup"
    fails.write_text("#!/bin/sh\necho no device-mapper here >&2\nexit 1\n")
    fails.chmod(0o755)
    monkeypatch.setitem(host._TOOLS, "dmsetup", (str(fails), "version"))
    (tool,) = host.tools(("dmsetup",))
    assert tool.missing and "no device-mapper here" in tool.problem and str(fails) in tool.hint
