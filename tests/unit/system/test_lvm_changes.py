"""LVM's answers to changes, as its two releases word them, by commands that say and do no more than that."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.unit.values import GROUP, LVM_UUID
from thinsync_virt.errors import BusyError, CommandError, NotFoundError
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
        self.rows(values)

    def rows(self, *all_values: dict[str, str]) -> None:
        """What ``lvs`` reports: thin volumes, but for the values that are given."""
        rows = [self._row(**values) for values in all_values]
        self.put("lvs", f"cat <<'END'\n{json.dumps({'report': [{'lv': rows}]})}\nEND")

    @staticmethod
    def _row(**values: str) -> dict[str, str]:
        return {
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
            "lv_role": "public",
            "lv_layout": "thin,sparse",
            "vg_extent_size": "4194304",
            "vg_size": "1073741824",
            "vg_free": "0",
            "vg_mda_size": "1044480",
            "vg_mda_free": "520000",
            "vg_mda_used_count": "1",
            "lv_count": "4",
            "vg_seqno": "9",
            "vg_lock_type": "",
            "vg_permissions": "writeable",
            **values,
        }

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


def test_what_lvm_would_remove_with_a_volume_stays_and_so_does_that(commands: Commands) -> None:
    """``lvremove --yes`` of these removed ``cow`` and ``ext`` too (2.03.16, 2.03.31): the rows are what it reported."""
    point, other, plain = (f"ts-web01-vda-{letter * 8}" for letter in "abc")
    uuids = iter(f"{LVM_UUID[:-1]}{number}" for number in range(9))
    commands.put("lvremove", "")
    commands.rows(
        *(
            {"lv_uuid": next(uuids), "lv_name": name, **values}
            for name, values in {
                "live": {"lv_role": "public,origin,thinorigin,multithinorigin"},
                "cow": {
                    "origin": other,
                    "pool_lv": "",
                    "segtype": "linear",
                    "lv_role": "public,snapshot,thicksnapshot",
                },
                "ext": {"origin": point, "pool_lv": "slow", "lv_role": "public,snapshot,thinsnapshot"},
                "again": {"origin": plain, "lv_role": "public,snapshot,thinsnapshot"},
                point: {"origin": "live", "lv_role": "public,snapshot,thinsnapshot,origin,extthinorigin"},
                other: {"origin": "live", "lv_role": "public,snapshot,thinsnapshot,origin,thickorigin"},
                plain: {"origin": "live", "lv_role": "public,snapshot,thinsnapshot,origin,thinorigin"},
            }.items()
        )
    )
    names = [VolumeName("vg0", name) for name in (point, other, plain)]
    with pytest.raises(BusyError, match=f"{point}: vg0/ext would go with it") as refusal:
        Lvm().remove(names)
    assert refusal.value.hint.endswith("lvremove vg0/ext")
    removed = [call for call in commands.calls if "--yes" in call]
    assert len(removed) == 1
    assert plain in removed[0] and point not in removed[0] and other not in removed[0]
    Lvm().remove([names[2]])
    with pytest.raises(BusyError, match="vg0/cow"):
        Lvm().remove([names[1]])
    Lvm().remove([names[1], VolumeName("vg0", "cow")])


def test_what_is_no_device_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VolumeName, "path", property(lambda name: str(tmp_path / name.lv)))
    assert Lvm().active_uuid(NAME) == ""
    (tmp_path / NAME.lv).touch()
    assert Lvm().active_uuid(NAME) == ""
