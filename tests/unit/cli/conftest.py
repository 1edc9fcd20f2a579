"""Commands are tried with fakes, by whoever runs the tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)


@pytest.fixture(autouse=True)
def the_process_is_as_it_was() -> Iterator[None]:
    """The program takes over signals and the mask of new files, for good where it is a process of its own."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    mask = os.umask(0o077)
    os.umask(mask)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    os.umask(mask)
