"""The volumes beneath a guest, as a window flushes them."""

from __future__ import annotations

import pytest

from thinsync_virt.errors import ThinsyncError
from thinsync_virt.guard import origins
from thinsync_virt.guard.origins import LvmOrigins
from thinsync_virt.model.names import VolumeName
from thinsync_virt.system.dmsetup import DmSetup

VOLUMES = (VolumeName("vg0", "web-0"), VolumeName("vg0", "web-1"))


def fails(path: str) -> None:
    raise ThinsyncError(f"cannot flush {path}")


def test_a_volume_that_is_inactive_beneath_a_domain_that_is_off_needs_no_flush(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flushed: list[str] = []

    def flush(path: str) -> None:
        if path.endswith("web-0"):
            fails(path)
        flushed.append(path)

    monkeypatch.setattr(origins, "flush_host_cache", flush)
    monkeypatch.setattr(DmSetup, "suspended", lambda _, volume: None if volume.lv == "web-0" else False)
    LvmOrigins().flush(VOLUMES)
    assert flushed == [VOLUMES[1].path]


@pytest.mark.parametrize("suspended", [False, True])
def test_an_active_volume_that_cannot_be_flushed_ends_the_window(
    suspended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origins, "flush_host_cache", fails)
    monkeypatch.setattr(DmSetup, "suspended", lambda _, volume: suspended)
    with pytest.raises(ThinsyncError, match="/dev/vg0/web-"):
        LvmOrigins().flush(VOLUMES)


def test_a_flush_that_ends_in_any_other_way_ends_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread's error is nobody's: what was not flushed would count as flushed."""

    def unknown(_: DmSetup, volume: VolumeName) -> bool:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(origins, "flush_host_cache", fails)
    monkeypatch.setattr(DmSetup, "suspended", unknown)
    with pytest.raises(OSError, match="Too many"):
        LvmOrigins().flush(VOLUMES)
