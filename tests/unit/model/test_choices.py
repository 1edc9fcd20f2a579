"""The operator's choices travel as JSON inside a definition: read back as they were, or refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.values import POOL, disk_targets
from thinsync_virt.errors import StreamError, UsageError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.replicas import Choices

volumes = st.builds(VolumeName, st.sampled_from(["vg0", "vg1"]), st.sampled_from(["pool", "fast", "a.b"]))
choices = st.builds(
    Choices,
    volumes,
    st.dictionaries(disk_targets, volumes),
    st.dictionaries(st.text(max_size=8), st.text(max_size=8)),
    st.lists(disk_targets, unique=True).map(lambda targets: tuple(sorted(targets))),
)
GOOD = {"pool": "vg0/pool", "disk_pools": {}, "networks": {}, "excluded": []}


@given(choices)
def test_round_trip(made: Choices) -> None:
    again = Choices.from_json(made.to_json())
    assert again == made
    assert again.to_json() == made.to_json()


def test_equal_choices_give_equal_bytes_whatever_the_order() -> None:
    one = Choices(POOL, {"vda": POOL, "vdb": POOL}, {"a": "b", "c": "d"}, ("vda", "vdb"))
    other = Choices(POOL, {"vdb": POOL, "vda": POOL}, {"c": "d", "a": "b"}, ("vdb", "vda"))
    assert one.to_json() == other.to_json()


def test_the_pool_of_a_disk() -> None:
    fast = VolumeName("vg1", "fast")
    made = Choices(POOL, {"vdb": fast})
    assert (made.pool_of("vda"), made.pool_of("vdb")) == (POOL, fast)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "x",
        {},
        {**GOOD, "pool": "pool"},
        {**GOOD, "pool": "vg0/-f"},
        {**GOOD, "pool": 5},
        {**GOOD, "pool": ""},
        {**GOOD, "disk_pools": {"vda": "pool"}},
        {**GOOD, "disk_pools": {"../vda": "vg0/pool"}},
        {**GOOD, "disk_pools": []},
        {**GOOD, "networks": {"br0": 7}},
        {**GOOD, "networks": {"br0": None}},
        {**GOOD, "networks": []},
        {**GOOD, "excluded": "vda"},
        {**GOOD, "excluded": {"vda": 1}},
        {**GOOD, "excluded": [5]},
        {**GOOD, "excluded": ["--all"]},
        {**GOOD, "excluded": None},
    ],
    ids=str,
)
def test_hostile_choices(value: object) -> None:
    with pytest.raises(StreamError, match="choices"):
        Choices.from_json(json.dumps(value).encode())


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b"[" * 100_000], ids=["empty", "cut", "no text", "deep"]
)
def test_what_is_no_json(data: bytes) -> None:
    with pytest.raises(StreamError, match="choices"):
        Choices.from_json(data)


def test_a_store_has_no_pool() -> None:
    choices = Choices(None, {}, {"br0": "br7"}, ("vdb",))
    assert Choices.from_json(choices.to_json()) == choices
    assert choices.place_of("vda") == ""
    with pytest.raises(UsageError, match="no pool"):
        choices.pool_of("vda")
