from __future__ import annotations

import threading

import pytest

from thinsync_virt.errors import UnreachableError
from thinsync_virt.system.patience import give_up_after


def test_what_comes_back() -> None:
    assert give_up_after(60, lambda: 7, "/srv") == 7
    assert give_up_after(60, lambda: None, "/srv") is None


def test_what_is_raised() -> None:
    def fail() -> None:
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError, match="gone"):
        give_up_after(60, fail, "/srv")


def test_what_never_comes_back() -> None:
    never = threading.Event()
    try:
        with pytest.raises(UnreachableError, match="/srv does not answer") as error:
            give_up_after(0.01, never.wait, "/srv")
        assert "findmnt" in error.value.hint
    finally:
        never.set()
