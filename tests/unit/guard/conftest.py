"""What the guard's tests rely on."""

from __future__ import annotations

import pytest

from thinsync_virt.guard import recovery


@pytest.fixture(autouse=True)
def no_lvm_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard waits for an LVM that runs in its control group: here that is whoever started the tests."""
    monkeypatch.setattr(recovery, "own_group_strangers", lambda _names: ())
