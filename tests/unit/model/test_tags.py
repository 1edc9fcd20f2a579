"""Tags: what is written is read back, and nothing else ever means anything."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.values import DEFINITION, DOMAIN, GROUP, KEY, disk_targets, hex_ids
from thinsync_virt.errors import PoolError
from thinsync_virt.model.points import MAX_SEQUENCE, MAX_TIME, Consistency, ReplicaKey
from thinsync_virt.model.tags import (
    Confirmation,
    DefinitionMember,
    Incoming,
    Member,
    Received,
    Role,
    Seal,
    Tag,
    Temporary,
    Whole,
    escape,
    format_tag,
    longest_tags,
    parse_tag,
    unescape,
)
from thinsync_virt.system.lvm_report import check_tag

SET = "5e" * 16
POINT = "b0" * 16
MEMBER = f"ts1:k=s&d={DOMAIN}&t={GROUP}&s={SET}&n=3&i=1/2&v=vda&e=1763942400&w=web01"
REGISTERED = f"{MEMBER.replace('k=s', 'k=r')}&p={POINT}"
SEAL = f"ts1:k=seal&s={SET}&c=crash&x={DEFINITION}"
BAD = f"ts1:k=bad&s={SET}"
OK = f"ts1:k=ok&s={SET}&h=backup1"
DEFINITION_TAG = f"ts1:k=d&d={DOMAIN}&t={GROUP}&x={DEFINITION}&y=t"
INCOMING = f"ts1:k=i&s={SET}&i=1/2&h={POINT}&v=vda&w=web01&u=lv0000-0000-0000-0000-0000-0000-000000"
WHOLE = f"ts1:k=whole&s={SET}&o=keep"
RECEIVED = f"ts1:k=h&h={POINT}&v="
TEMPORARY = "ts1:k=x&n=0&w=web01"
ALL = (MEMBER, REGISTERED, SEAL, OK, BAD, DEFINITION_TAG, INCOMING, WHOLE, RECEIVED, TEMPORARY)

# Any name that libvirt lets a domain have, as far as it fits a tag.
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
numbers = st.integers(0, MAX_SEQUENCE)
times = st.integers(0, MAX_TIME)
keys = st.builds(ReplicaKey, hex_ids, st.sampled_from([GROUP, "AbCdEf-0123-4567-89ab-cdef-GHIJ-KLMNOP"]))


@st.composite
def members(draw: st.DrawFn) -> Member:
    role = draw(st.sampled_from(Role))
    count = draw(st.integers(1, 1000))
    return Member(
        role,
        draw(keys),
        draw(hex_ids),
        draw(numbers),
        draw(st.integers(1, count)),
        count,
        draw(disk_targets),
        draw(times),
        draw(names),
        draw(hex_ids) if role is Role.REGISTERED else "",
    )


@st.composite
def incoming(draw: st.DrawFn) -> Incoming:
    count = draw(st.integers(1, 1000))
    disk = draw(st.one_of(st.just(""), disk_targets))
    replaces = draw(st.sampled_from(["", "AbCdEf-0123-4567-89ab-cdef-GHIJ-KLMNOP"]))
    return Incoming(
        draw(hex_ids), draw(st.integers(1, count)), count, draw(hex_ids), disk, draw(lv_names), replaces
    )


lv_names = st.from_regex(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,99}", fullmatch=True).filter(
    lambda name: name not in (".", "..")
)
tags: st.SearchStrategy[Tag] = st.one_of(
    members(),
    st.builds(Seal, hex_ids, st.sampled_from(Consistency), hex_ids),
    st.builds(Confirmation, hex_ids, names),
    st.builds(DefinitionMember, st.sampled_from([Role.SOURCE, Role.TARGET]), keys, hex_ids),
    incoming(),
    st.builds(Whole, hex_ids, st.booleans()),
    st.builds(Received, hex_ids, st.one_of(st.just(""), disk_targets)),
    st.builds(Temporary, st.integers(0, 15), lv_names),
)


@given(tags)
@example(Confirmation(SET, "Größe, #&= and ,"))
def test_round_trip_in_characters_that_lvm_takes(tag: Tag) -> None:
    text = format_tag(tag)
    assert check_tag(text) == text
    assert "," not in text  # lvs joins tags with commas
    assert parse_tag(text) == tag


@given(st.text())
def test_escaping_is_undone(text: str) -> None:
    clean = text.encode(errors="replace").decode()
    assert unescape(escape(clean)) == clean
    assert re.fullmatch(r"[A-Za-z0-9_.#-]*", escape(clean))


@pytest.mark.parametrize("text", ALL)
def test_the_spelling_stays(text: str) -> None:
    """Version 1 is on people's disks: these very texts must be read for ever."""
    tag = parse_tag(text)
    assert tag is not None
    assert format_tag(tag) == text


@given(st.text())
@example("")
@example("backup")
@example("ts")
@example("ts:k=s")
@example("xts1:k=s")
@example(" ts1:k=s")
@example("TS1:k=s")
def test_tags_of_others_are_none_of_ours(text: str) -> None:
    if re.match(r"ts\d+:", text) is None:
        assert parse_tag(text) is None


@given(st.text())
@example("k=s")
@example("")
@example("k=none")
@example("k=d&y=r")
def test_what_claims_to_be_ours_is_refused_rather_than_guessed(rest: str) -> None:
    with pytest.raises(PoolError):
        parse_tag("ts1:" + rest)


@given(st.sampled_from(ALL), st.data())
def test_a_damaged_tag_never_reads_as_something_odd(text: str, data: st.DataObject) -> None:
    """One character changed, lost or added: an error, or another tag in its one right spelling."""
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.text("0123456789abcdefgv&=#:/+-_ \t\n\u0663", max_size=2))
    damaged = text[:at] + new + text[at + 1 :]
    try:
        tag = parse_tag(damaged)
    except PoolError:
        return
    assert tag is None or format_tag(tag) == damaged
    if tag is None:
        assert not damaged.startswith("ts1:")


@pytest.mark.parametrize(
    "damaged",
    [
        MEMBER + "&k=t",
        MEMBER + "&z=1",
        MEMBER + "&n=4",
        MEMBER + "&",
        MEMBER + f"&p={POINT}",
        MEMBER.replace("n=3", "n=03"),
        MEMBER.replace("n=3", f"n={10**15 + 1}"),
        MEMBER.replace("n=3", f"n={'9' * 300}"),
        MEMBER.replace("n=3", "n=-3"),
        MEMBER.replace("n=3", "n=+3"),
        MEMBER.replace("n=3", "n=3_0"),
        MEMBER.replace("n=3", "n=\u0663"),
        MEMBER.replace("n=3", "n="),
        MEMBER.replace("&n=3", ""),
        MEMBER.replace("i=1/2", "i=0/2"),
        MEMBER.replace("i=1/2", "i=3/2"),
        MEMBER.replace("i=1/2", "i=1/1001"),
        MEMBER.replace("i=1/2", "i=1/2/2"),
        MEMBER.replace("i=1/2", "i= 1/2"),
        MEMBER.replace("i=1/2", "i=1"),
        MEMBER.replace("v=vda", "v=../vda"),
        MEMBER.replace("v=vda", "v=-a"),
        MEMBER.replace("w=web01", "w=web#2f"),
        MEMBER.replace("w=web01", "w=#FF"),
        MEMBER.replace("w=web01", "w=#41"),
        MEMBER.replace(f"s={SET}", f"s={SET.upper()}"),
        MEMBER.replace(f"s={SET}", f"s={SET[:-1]}"),
        MEMBER.replace(f"s={SET}", f"s={SET}\n"),
        MEMBER.replace(f"t={GROUP}", "t=vg0"),
        REGISTERED.removesuffix(f"&p={POINT}"),
        SEAL.replace("crash", "perfect"),
        SEAL.replace("crash", "CRASH"),
        SEAL + f"&s={POINT}",
        DEFINITION_TAG.replace("y=t", "y=r"),
        OK.removesuffix("&h=backup1"),
        "ts1:",
        "ts1:k",
        "ts1:k=s=s",
    ],
)
def test_hostile_spellings(damaged: str) -> None:
    with pytest.raises(PoolError) as refusal:
        parse_tag(damaged)
    assert refusal.value.hint


@pytest.mark.parametrize("version", ["0", "2", "10", "01"])
def test_other_versions_are_refused_with_the_way_out(version: str) -> None:
    with pytest.raises(PoolError, match="newer version") as refusal:
        parse_tag(MEMBER.replace("ts1:", f"ts{version}:"))
    assert "upgrade" in refusal.value.hint


@given(st.text(min_size=1, max_size=60), st.sampled_from(list(Role)), st.integers(1, 1000), disk_targets)
def test_no_tags_of_a_domain_are_longer_than_was_said(name: str, role: Role, count: int, target: str) -> None:
    point = POINT if role is Role.REGISTERED else ""
    member = Member(role, KEY, SET, 10**15, count, count, target, 253_402_300_799, name, point)
    tags = (member, Seal(SET, Consistency.OFFLINE, POINT), Confirmation(SET, "backup1.example.net"))
    assert sum(len(format_tag(tag)) for tag in tags) <= longest_tags(name)


def test_a_name_that_only_the_registered_volumes_could_not_carry_is_refused_at_once() -> None:
    name = "ü" * 145
    format_tag(Member(Role.SOURCE, KEY, SET, 1, 1, 1, "vda", 0, name))
    with pytest.raises(PoolError, match="too long") as refusal:
        longest_tags(name)
    assert "virsh domrename" in refusal.value.hint


def test_a_name_that_does_not_fit_is_refused_when_written() -> None:
    member = Member(Role.SOURCE, KEY, SET, 1, 1, 1, "vda", 0, "x" * 255)
    assert parse_tag(format_tag(member)) == member
    with pytest.raises(PoolError, match="too long"):
        format_tag(Member(Role.SOURCE, KEY, SET, 1, 1, 1, "vda", 0, "ü" * 255))
