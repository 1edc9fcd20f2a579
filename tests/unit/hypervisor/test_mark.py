"""The mark in the metadata: ours is found, others' stay, what is not understood is never taken for absent."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.hypervisor.samples import POINT, TARGET_VG, root_of
from thinsync_virt.errors import ConflictError
from thinsync_virt.hypervisor.mark import FAMILY, plan_digest, read_mark, strip_mark, write_mark
from thinsync_virt.hypervisor.markup import parse, serialize
from thinsync_virt.model.points import MAX_SEQUENCE, ReplicaKey
from thinsync_virt.model.replicas import Mark

IDS = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)


@given(IDS, IDS, st.integers(0, 2**53), st.sampled_from(["standby", "active"]), st.integers(0, 2**40))
@example("0" * 32, "0" * 32, MAX_SEQUENCE + 1, "standby", 0)
def test_what_is_written_is_read(domain: str, point: str, sequence: int, role: str, generation: int) -> None:
    root = parse("<domain><name>a</name></domain>", "it")
    mark = Mark(ReplicaKey(domain, TARGET_VG), point, sequence, role, generation)
    write_mark(root, mark, "digest")
    again = parse(serialize(root), "it")
    assert read_mark(again) == mark
    assert plan_digest(again) == "digest"


def test_metadata_of_others_stays_and_ours_is_there_once() -> None:
    root = root_of("bios")
    before = serialize(root)
    for sequence in (1, 2):
        write_mark(root, Mark(ReplicaKey("a" * 32, TARGET_VG), POINT, sequence), "")
    assert len(root.findall("metadata/*")) == 2
    assert read_mark(root) == Mark(ReplicaKey("a" * 32, TARGET_VG), POINT, 2)
    strip_mark(root)
    assert serialize(root) == before


def test_stripping_leaves_no_empty_metadata() -> None:
    root = parse("<domain><name>a</name></domain>", "it")
    write_mark(root, Mark(ReplicaKey("a" * 32, TARGET_VG), POINT, 1), "")
    strip_mark(root)
    assert root.find("metadata") is None
    assert read_mark(root) is None


@pytest.mark.parametrize(
    "element",
    [
        f"<t:replica xmlns:t='{FAMILY}2' point='x'/>",
        f"<t:replica xmlns:t='{FAMILY}1'/>",
        f"<t:other xmlns:t='{FAMILY}1'/>",
        f"<t:replica xmlns:t='{FAMILY}1' domain='{'a' * 32}' target='{TARGET_VG}' point='{POINT}'"
        " sequence='-1' role='standby' generation='0'/>",
    ],
)
def test_a_mark_that_is_not_understood_is_an_error(element: str) -> None:
    root = parse(f"<domain><name>db</name><metadata>{element}</metadata></domain>", "it")
    with pytest.raises(ConflictError, match="db"):
        read_mark(root)
