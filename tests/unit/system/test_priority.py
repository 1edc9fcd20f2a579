"""Priorities as the kernel has them, of this very thread."""

from __future__ import annotations

import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from thinsync_virt.errors import UsageError
from thinsync_virt.system.priority import Priority


def present() -> tuple[int, str]:
    thread = threading.get_native_id()
    said = subprocess.run(["ionice", "-p", str(thread)], capture_output=True, text=True, check=True).stdout
    return os.getpriority(os.PRIO_PROCESS, thread), said.strip()


def in_thread(priority: Priority) -> tuple[tuple[int, str], tuple[int, str], tuple[int, str]]:
    """In a thread of its own: within, in a thread started within, and afterwards."""
    with priority.applied():
        inside = present()
        with ThreadPoolExecutor(1) as pool:
            started = pool.submit(present).result()
    return inside, started, present()


def measured(priority: Priority) -> tuple[tuple[int, str], tuple[int, str], tuple[int, str]]:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(in_thread, priority).result()


def test_it_holds_for_the_thread_and_those_it_starts_and_ends() -> None:
    before = present()
    inside, started, after = measured(Priority.parse(19, "idle"))
    assert inside == started == (19, "idle")
    assert after[0] == before[0]
    assert after[1] != "idle"
    assert present() == before, "other threads of the process are left alone"


def test_a_level() -> None:
    inside, _, _ = measured(Priority.parse(None, "best-effort:6"))
    assert inside == (present()[0], "best-effort: prio 6")


def test_nothing_asked_nothing_done() -> None:
    assert measured(Priority()) == (present(),) * 3


def test_it_ends_after_a_failure_too() -> None:
    def fail() -> tuple[int, str]:
        with pytest.raises(ZeroDivisionError), Priority.parse(19, None).applied():
            raise ZeroDivisionError
        return present()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(fail).result() == present()


@pytest.mark.parametrize("text", ["fast", "realtime", "idle:3", "best-effort:8", "best-effort:", "2", ":3"])
def test_no_such_class(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Priority.parse(None, text)
    assert "best-effort" in caught.value.hint
