"""What every unit test relies on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests import administrators_tools, hypothesis_profile
from thinsync_virt import flushes
from thinsync_virt.endpoint import locking
from thinsync_virt.system import steps
from thinsync_virt.system.locks import lock_path

hypothesis_profile.use()
administrators_tools.find()

# Started in the background by a shell, we would ignore SIGINT, and by nohup SIGHUP: so would every process that a
# test starts.
for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, default)

# What this program keeps on a host. Another run of the tests, or the program itself, may be at work with it.
_OF_THE_HOST = ("/run/lock/thinsync", "/run/thinsync", "/var/lib/thinsync")
_touched: list[str] = []


def _look(event: str, values: tuple[object, ...]) -> None:
    if event not in ("open", "os.mkdir", "os.remove", "os.rename") or not values:
        return
    path = values[0]
    if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(_OF_THE_HOST):
        _touched.append(f"{event} {os.fsdecode(path)}")


sys.addaudithook(_look)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """What is too long to be read is named by its length: some tests are given megabytes."""
    return f"{argname} of {len(val)}" if isinstance(val, str | bytes) and len(val) > 200 else None


@pytest.fixture(autouse=True)
def the_host_is_left_alone(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Locks lie in a directory of this run; whatever else belongs to the host fails the test that touches it."""
    monkeypatch.setattr(
        locking, "lock_path", partial(lock_path, directory=tmp_path_factory.getbasetemp() / "host-locks")
    )
    monkeypatch.setattr(steps, "STOP_AT", Path("/nonexistent"))
    monkeypatch.setattr(flushes, "LEAVE_OUT", "/nonexistent")
    _touched.clear()
    yield
    assert _touched == []
