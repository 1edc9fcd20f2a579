"""Definitions: packed and unpacked, and every kind of damage found."""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinsync_virt.errors import StreamError
from thinsync_virt.model.definition import (
    MAGIC,
    MAX_HEADER,
    MAX_PACKED,
    MAX_PART,
    MAX_PARTS,
    VERSION,
    Definition,
    packed_size,
    unpack,
)

part_names = st.from_regex(r"[a-z][a-z0-9._-]{0,10}(/[A-Za-z0-9._-]{1,10})?", fullmatch=True)
definitions = st.builds(Definition, st.dictionaries(part_names, st.binary(max_size=200), max_size=6))
SAMPLE = Definition({"domain.xml": b"<domain/>", "nvram": bytes(range(256)), "media/sda": b""})


def packed(header: object, content: bytes = b"", *, magic: bytes = MAGIC, version: int = VERSION) -> bytes:
    """Packed form with a header that says anything."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<8sII", magic, version, len(text)) + text + content


def entry(name: object, data: bytes, **changes: object) -> dict[str, object]:
    return {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **changes}


@given(definitions, st.binary(max_size=50))
def test_round_trip_also_from_a_larger_volume(definition: Definition, rest: bytes) -> None:
    data = definition.pack()
    again = unpack(data + rest)
    assert dict(again.parts) == dict(definition.parts)
    assert again.id == definition.id
    assert packed_size((data + rest)[: MAX_HEADER + 16]) == len(data)


@given(definitions, definitions)
def test_equal_ids_mean_equal_content(one: Definition, other: Definition) -> None:
    assert (one.id == other.id) == (dict(one.parts) == dict(other.parts))


def test_the_order_of_parts_does_not_matter() -> None:
    turned = Definition(dict(reversed(list(SAMPLE.parts.items()))))
    assert (turned.id, turned.pack()) == (SAMPLE.id, SAMPLE.pack())


def test_the_format_stays() -> None:
    """Version 1 is on people's disks."""
    digest = b"fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603"
    header = b'{"parts":[{"name":"nvram","sha256":"%s","size":2}]}' % digest
    definition = Definition({"nvram": b"ab"})
    assert definition.pack() == b"TSDEF\0\0\1\1\0\0\0\x71\0\0\0" + header + b"ab"
    assert definition.id == "9fa4fe96d45d6657f68c16c74cfbb1fd"


@given(st.integers(0, len(SAMPLE.pack()) - 1), st.integers(1, 255))
def test_a_damaged_byte_is_found(at: int, flip: int) -> None:
    data = bytearray(SAMPLE.pack())
    data[at] ^= flip
    try:
        found = unpack(bytes(data))
    except StreamError:
        return
    # A name in the header may become another legal name: then the id, which the volume's tag holds, differs.
    assert found.id != SAMPLE.id


@given(st.integers(0, len(SAMPLE.pack()) - 1))
def test_a_truncated_definition_is_found(length: int) -> None:
    with pytest.raises(StreamError) as refusal:
        unpack(SAMPLE.pack()[:length])
    assert not refusal.value.retry


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    for read in (unpack, packed_size):
        with pytest.raises(StreamError):
            read(data)
        with pytest.raises(StreamError):
            read(packed(data))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children),
    max_leaves=10,
)


@given(json_values)
def test_any_json_as_header_is_refused_or_empty(header: object) -> None:
    for value in (header, {"parts": header}, {"parts": [header]}):
        with contextlib.suppress(StreamError):
            assert not unpack(packed(value)).parts
        with contextlib.suppress(StreamError):
            assert packed_size(packed(value)) >= 16


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        packed({"parts": []}, magic=b"TSDEF\0\0\2"),
        packed({"parts": []}, version=2),
        packed({"parts": []}, version=0),
        struct.pack("<8sII", MAGIC, VERSION, MAX_HEADER + 1) + bytes(MAX_HEADER + 1),
        packed(b"[" * (MAX_HEADER - 1)),
        packed(b'{"parts":' * 5000),
        packed({"parts": [entry("nvram", b"ab", size=3)]}, b"ab"),
        packed({"parts": [entry("nvram", b"ab", size=-1)]}, b"ab"),
        packed({"parts": [entry("nvram", b"a", size=True)]}, b"a"),
        packed({"parts": [entry("nvram", b"ab", size=2.0)]}, b"ab"),
        packed({"parts": [entry("nvram", b"ab", size=MAX_PART + 1)]}, b"ab"),
        packed({"parts": [entry("nvram", b"ab", sha256="00" * 32)]}, b"ab"),
        packed({"parts": [entry("nvram", b"ab"), entry("nvram", b"ab")]}, b"abab"),
        packed({"parts": [entry("../etc/passwd", b"")]}),
        packed({"parts": [entry("media/a/b", b"")]}),
        packed({"parts": [entry("nvram\n", b"")]}),
        packed({"parts": [entry("", b"")]}),
        packed({"parts": [entry(5, b"")]}),
        packed({"parts": [entry(f"p{number}", b"") for number in range(MAX_PARTS + 1)]}),
        packed({"parts": [{"name": "nvram", "size": 0}]}),
        packed({}),
    ],
)
def test_hostile_definitions(damaged: bytes) -> None:
    with pytest.raises(StreamError) as refusal:
        unpack(damaged)
    assert not refusal.value.retry


@pytest.mark.parametrize(
    "sizes", [[-1], [MAX_PART + 1], [True], ["1"], [None], [0] * (MAX_PARTS + 1), [1.5]], ids=str
)
def test_hostile_sizes(sizes: list[object]) -> None:
    with pytest.raises(StreamError):
        packed_size(packed({"parts": [{"size": size} for size in sizes]}))


@pytest.mark.parametrize(
    "name", ["", "A", "1a", "a" * 32, "a/", "/a", "a//b", "a/b/c", "a b", "ä", "a/é", "a\n"]
)
def test_names_that_no_part_may_have(name: str) -> None:
    with pytest.raises(StreamError):
        Definition({name: b""})


def test_limits() -> None:
    with pytest.raises(StreamError, match="parts"):
        Definition({f"p{number}": b"" for number in range(MAX_PARTS + 1)})
    with pytest.raises(StreamError, match="bytes"):
        Definition({"nvram": bytes(MAX_PART + 1)})
    full = Definition({f"p{number}": b"" for number in range(MAX_PARTS)})
    assert unpack(full.pack()).id == full.id


def test_secrets_do_not_show() -> None:
    assert "passwd" not in repr(Definition({"domain.xml": b"<graphics passwd='secret'/>"}))


def test_what_may_travel_may_also_be_stored_and_asked_about() -> None:
    """One bound for all ways in: else what one of them takes is refused by the next."""
    half = bytes(MAX_PART // 2)
    parts = {f"media/sd{letter}": half for letter in "abcdefgh"}
    packed_length = 16 + len(json.dumps(dict.fromkeys(parts))) + 8 * len(half)
    assert packed_length <= MAX_PACKED
    assert Definition(parts).parts == parts
    with pytest.raises(StreamError, match="at most 268435456") as refusal:
        Definition({**parts, "nvram": b"x"})
    assert "eject" in refusal.value.hint
    header = {"parts": [entry(name, half) for name in parts]}
    assert packed_size(packed(header)) <= MAX_PACKED
    header["parts"].append(entry("nvram", b"x"))
    with pytest.raises(StreamError, match="at most"):
        packed_size(packed(header))
