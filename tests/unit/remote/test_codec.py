"""Strictness of the codec: nothing is turned into something else, and errors name the field."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.unit.values import point as a_point
from tests.unit.values import unfinished
from thinsync_virt.errors import StreamError
from thinsync_virt.model.domains import CacheMode, Disk, Domain, DomainState
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import (
    Consistency,
    PointDisk,
    RecoveryPoint,
    ReplicaKey,
    StoredDisk,
    UnfinishedSet,
)
from thinsync_virt.model.volumes import ThinVolume
from thinsync_virt.remote.codec import from_wire, to_wire


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


@dataclass(frozen=True, slots=True)
class Inner:
    name: str
    colour: Colour = Colour.RED


@dataclass(frozen=True, slots=True)
class Outer:
    number: int
    text: str
    flag: bool
    ratio: float
    inner: Inner
    many: tuple[Inner, ...] = ()
    pair: tuple[int, str] = (0, "")
    maybe: str | None = None
    maybe_inner: Inner | None = None
    level: Level = Level.LOW
    table: dict[str, int] = field(default_factory=dict)
    nested: dict[str, tuple[Inner, ...]] = field(default_factory=dict)


OUTER = Outer(
    1,
    "eins",
    True,
    0.5,
    Inner("a"),
    (Inner("b"), Inner("c", Colour.BLUE)),
    (2, "zwei"),
    None,
    Inner("d"),
    Level.LOW,
    {"x": 3},
    {"y": (Inner("e"),)},
)


def travel(value: Any) -> Any:
    return json.loads(json.dumps(to_wire(value)))


def test_round_trip() -> None:
    wire = travel(OUTER)
    assert wire["many"] == [{"name": "b", "colour": "red"}, {"name": "c", "colour": "blue"}]
    assert wire["maybe"] is None
    assert from_wire(Outer, wire, "outer") == OUTER


def test_values_of_the_model() -> None:
    volume = ThinVolume(
        VolumeName("vg0", "web01"), "u", "v", VolumeName("vg0", "pool"), 3, 1 << 30, tags=("t", "s")
    )
    key = ReplicaKey("33" * 16, "abcdef-1234-5678-9abc-def0-1234-ghijkl")
    disks = (PointDisk("vda", volume), PointDisk("vdb", volume))
    point = RecoveryPoint(key, "11" * 16, 7, 1_763_942_400, Consistency.CRASH, "", disks)
    unfinished = UnfinishedSet(key, "11" * 16, 7, 2, disks[:1])
    domain = Domain(
        "web01",
        "33" * 16,
        DomainState.RUNNING,
        True,
        True,
        (
            Disk("vda", "disk", "/dev/vg0/web01", CacheMode.NONE, volume),
            Disk("hda", "cdrom", "", CacheMode.DEFAULT, None, "no medium"),
        ),
    )
    stored = replace(point, disks=(PointDisk("vda", StoredDisk("/srv/web01/vda.raw", 1 << 30)), *disks[1:]))
    for value in (point, stored, unfinished, domain):
        assert from_wire(type(value), travel(value), "value") == value


@pytest.mark.parametrize(
    "copy",
    [{}, {"size": 5}, {"path": "/a"}, {"path": "/a", "size": "5"}, {"path": "/a", "size": -1}, None, 5, []],
)
def test_a_disk_that_nothing_holds(copy: object) -> None:
    with pytest.raises(StreamError, match="disk"):
        from_wire(PointDisk, {"target": "vda", "copy": copy}, "disk")


def test_defaults_may_be_left_out() -> None:
    assert from_wire(Inner, {"name": "x"}, "inner") == Inner("x")


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("number", "1", "outer.number: not an integer"),
        ("number", True, "outer.number: not an integer"),
        ("number", 1.0, "outer.number: not an integer"),
        ("number", None, "outer.number: not an integer"),
        ("number", 1 << 63, "outer.number: an integer of more than 64 bits"),
        ("number", -(10**400), "outer.number: an integer of more than 64 bits"),
        ("text", 1, "outer.text: not a string"),
        ("text", None, "outer.text: not a string"),
        ("text", "\ud800", "outer.text: not valid text"),
        ("flag", 1, "outer.flag: not true or false"),
        ("flag", "true", "outer.flag: not true or false"),
        ("ratio", "0.5", "outer.ratio: not a number"),
        ("ratio", True, "outer.ratio: not a number"),
        ("ratio", float("nan"), "outer.ratio: not a number"),
        ("inner", [], "outer.inner: not an object"),
        ("inner", "name", "outer.inner: not an object"),
        ("inner", None, "outer.inner: not an object"),
        ("inner", {}, "outer.inner.name: missing"),
        ("inner", {"name": "x", "colour": "green"}, "outer.inner.colour: 'green' is none of red, blue"),
        ("inner", {"name": "x", "more": 1}, "outer.inner: unknown key 'more'"),
        ("many", "abc", "outer.many: not an array"),
        ("many", {}, "outer.many: not an array"),
        ("many", [{"name": "x"}, {"name": 1}], "outer.many[1].name: not a string"),
        ("pair", [1], "outer.pair: 1 elements where 2 belong"),
        ("pair", [1, "a", 2], "outer.pair: 3 elements where 2 belong"),
        ("pair", ["a", 1], "outer.pair[0]: not an integer"),
        ("maybe", 5, "outer.maybe: not a string"),
        ("maybe_inner", {"name": []}, "outer.maybe_inner.name: not a string"),
        ("level", "1", "outer.level: '1' is none of 1"),
        ("level", True, "outer.level: True is none of 1"),
        ("level", 2, "outer.level: 2 is none of 1"),
        ("table", [], "outer.table: not an object"),
        ("table", {"x": "3"}, "outer.table['x']: not an integer"),
        (
            "nested",
            {"y": [{"name": "e", "colour": 0}]},
            "outer.nested['y'][0].colour: 0 is none of red, blue",
        ),
    ],
)
def test_refusals_name_the_field(path: str, value: object, complaint: str) -> None:
    wire = to_wire(OUTER)
    wire[path] = value
    with pytest.raises(StreamError) as caught:
        from_wire(Outer, wire, "outer")
    assert caught.value.message == complaint
    assert not caught.value.retry


@pytest.mark.parametrize("value", [None, [], "x", 1])
def test_the_whole_is_an_object(value: object) -> None:
    with pytest.raises(StreamError, match="outer: not an object"):
        from_wire(Outer, value, "outer")


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(StreamError, match="outer: unknown key 'more'"):
        from_wire(Outer, {**to_wire(OUTER), "more": 1}, "outer")


def test_what_a_constructor_refuses_names_its_place() -> None:
    wire = travel(ReplicaKey("33" * 16, "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg"))
    wire["domain"] = "../../etc"
    with pytest.raises(StreamError, match=r"key: '../../etc' is not an id"):
        from_wire(ReplicaKey, wire, "key")
    with pytest.raises(StreamError, match=r"vol.name: '-h' is not a legal LVM name"):
        from_wire(
            ThinVolume,
            {
                **travel(ThinVolume(VolumeName("a", "b"), "u", "v", VolumeName("a", "p"), 1, 1)),
                "name": {"vg": "a", "lv": "-h"},
            },
            "vol",
        )


@pytest.mark.parametrize(
    ("field", "value"),
    [("sequence", -1), ("sequence", 10**15 + 1), ("time", 1 << 40), ("time", -1), ("id", "../x")],
)
def test_points_from_the_other_end_keep_to_the_bounds_of_a_stream(field: str, value: object) -> None:
    """The next sequence is one more than the greatest here or there, and has to fit a stream's header."""
    wire = travel(a_point(3))
    assert from_wire(RecoveryPoint, wire, "point") == a_point(3)
    with pytest.raises(StreamError, match=r"^point\b"):
        from_wire(RecoveryPoint, {**wire, field: value}, "point")
    if field != "time":
        with pytest.raises(StreamError, match=r"^set\b"):
            from_wire(UnfinishedSet, {**travel(unfinished(3)), field: value}, "set")
