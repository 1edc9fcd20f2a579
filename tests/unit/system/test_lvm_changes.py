"""LVM's answers to changes, as its two releases word them, by commands that say and do no more than that."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.unit.values import GROUP, LVM_UUID
from thinsync_virt.errors import CommandError, NotFoundError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.system import lvm as lvm_module
from thinsync_virt.system.lvm import Lvm

NAME = VolumeName("vg0", "web")
ALREADY = {
    "r": 'Logical volume "vg0/web" is already read only.',
    "rw": "Logical volume vg0/web is already writable.",
}


class Commands:
    """Commands of LVM in a directory of PATH; what each was called with."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def put(self, name: str, script: str) -> None:
        path = self.directory / name
        path.write_text(f'#!/bin/sh\necho "$@" >>{self.directory}/calls\n{script}\n')
        path.chmod(0o755)

    def volume(self, **values: str) -> None:
        row = {
            "lv_uuid": LVM_UUID,
            "vg_uuid": GROUP,
            "vg_name": "vg0",
            "lv_name": "web",
            "pool_lv": "pool",
            "thin_id": "3",
            "lv_size": "4194304",
            "lv_tags": "",
            "lv_active": "",
            "lv_device_open": "",
            "lv_permissions": "writeable",
            "lv_skip_activation": "",
            "origin": "",
            "segtype": "thin",
            "lv_time": "1",
            **values,
        }
        self.put("lvs", f"cat <<'END'\n{json.dumps({'report': [{'lv': [row]}]})}\nEND")

    @property
    def calls(self) -> list[str]:
        return (self.directory / "calls").read_text().splitlines()


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(lvm_module, "_flush", lambda vg: None)
    return Commands(tmp_path)


@pytest.mark.parametrize("permission", ["r", "rw"])
def test_what_is_so_already_is_success(permission: str, commands: Commands) -> None:
    commands.put(
        "lvchange", f"echo '  WARNING: of something.' >&2; echo '  {ALREADY[permission]}' >&2; exit 5"
    )
    commands.volume(lv_permissions="read-only" if permission == "r" else "writeable")
    change = Lvm().set_read_only if permission == "r" else Lvm().set_writable
    change((NAME,))
    commands.volume(lv_permissions="writeable" if permission == "r" else "read-only")
    with pytest.raises(CommandError):
        change((NAME,))


def test_a_reload_that_failed_after_the_commit_is_told(commands: Commands) -> None:
    commands.put("lvchange", "echo '  device-mapper: resume ioctl on vg0-web failed' >&2; exit 5")
    commands.volume(lv_permissions="read-only")
    with pytest.raises(CommandError, match="resume ioctl"):
        Lvm().set_read_only((NAME,))


def test_a_volume_that_is_gone(commands: Commands) -> None:
    commands.put("lvchange", 'echo "  Failed to find logical volume \\"vg0/other\\"" >&2; exit 5')
    commands.volume()
    with pytest.raises(NotFoundError, match="vg0/other"):
        Lvm().set_read_only((VolumeName("vg0", "other"),))


def test_a_release_that_looks_at_no_file_system(commands: Commands) -> None:
    """2.03.16 knows no ``--fs``."""
    commands.put(
        "lvresize",
        'case "$*" in *--fs*) echo "lvresize: unrecognized option \'--fs\'" >&2;'
        " echo '  Error during parsing of command line.' >&2; exit 3;; esac",
    )
    commands.volume()
    Lvm().resize(NAME, 8 << 20)
    calls = [call for call in commands.calls if "--force" in call]
    assert ["--fs ignore" in call for call in calls] == [True, False]


def test_a_resize_that_fails_fails_once(commands: Commands) -> None:
    commands.put("lvresize", "echo '  Cannot resize.' >&2; exit 5")
    commands.volume()
    with pytest.raises(CommandError, match="Cannot resize"):
        Lvm().resize(NAME, 8 << 20)
    assert sum("--force" in call for call in commands.calls) == 1


def test_what_is_no_device_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VolumeName, "path", property(lambda name: str(tmp_path / name.lv)))
    assert Lvm().active_uuid(NAME) == ""
    (tmp_path / NAME.lv).touch()
    assert Lvm().active_uuid(NAME) == ""
