from __future__ import annotations

import shlex

import pytest

from thinsync_virt.errors import UsageError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.system.lvm_commands import SnapshotRequest, snapshot_batch


def request(index: int = 1, **changes: object) -> SnapshotRequest:
    values: dict[str, object] = {
        "name": f"p{index}",
        "tags": ("ts:1=x", "b#c"),
        "read_only": True,
        "skip": True,
    }
    return SnapshotRequest(VolumeName("vg-a", f"web-{index}"), **(values | changes))  # type: ignore[arg-type]


def test_each_request_is_one_line_that_names_it() -> None:
    batch = snapshot_batch([request(1), request(2)])
    lines = batch.stdin.splitlines()
    assert len(lines) == 2
    for index, line in enumerate(lines, start=1):
        words = shlex.split(line, comments=False)
        assert words[-1] == f"vg-a/web-{index}"
        assert {f"p{index}", "ts:1=x", "b#c"} <= set(words)


def test_only_a_batch_in_a_freeze_waits_for_no_lock() -> None:
    assert "wait_for_locks=0" in snapshot_batch([request()]).stdin
    assert "wait_for_locks" not in snapshot_batch([request()], in_freeze=False).stdin


def test_nothing_to_do_is_an_error() -> None:
    with pytest.raises(UsageError):
        snapshot_batch([])


@pytest.mark.parametrize(
    "changes", [{"name": "a b"}, {"name": "x\nlvremove"}, {"tags": ('a"b',)}, {"tags": ("a\nb",)}]
)
def test_nothing_that_could_be_another_word_or_line_gets_in(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        request(1, **changes)
