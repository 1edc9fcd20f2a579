"""Commands are tried with fakes, by whoever runs the tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
