"""What is not plain XML is refused, before it costs anything, and never quoted."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.hypervisor.samples import text_of
from thinsync_virt.errors import StreamError
from thinsync_virt.hypervisor.markup import absolute_paths, kibibytes, parse, serialize

LAUGHS = (
    "<!DOCTYPE d [<!ENTITY a 'ha'>"
    + "".join(f"<!ENTITY a{i} '{'&a' + (str(i - 1) if i else '') + ';'}'>" for i in range(9))
) + "]><domain><name>&a8;</name></domain>"


@pytest.mark.parametrize(
    "data",
    [
        LAUGHS.encode(),
        b"<!DOCTYPE d SYSTEM 'file:///etc/passwd'><domain/>",
        b"<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/shadow'>]><domain><name>&x;</name></domain>",
        b"<domain><name>&undefined;</name></domain>",
        b"<?xml version='1.0'?><!-- <domain> --><?pi <domain> ?>\n" + LAUGHS.encode(),
        b"\xef\xbb\xbf" + LAUGHS.encode(),
        b"<!-- a -->" * 100_000 + LAUGHS.encode(),
        LAUGHS.encode("utf-16"),
        b"<?xml version='1.0' encoding='utf-7'?>+ADwAIQ-DOCTYPE d+AD4-<domain/>",
        b"<domain>" + b"x" * (10 << 20) + b"</domain>",
        b"<a>" * 100_000 + b"</a>" * 100_000,
        b"<domain><graphics passwd='s3cret'></domain>",
        b"",
        b"\xff\xfe\x00",
        b"not xml",
    ],
    ids=lambda data: repr(data[:40]),
)
def test_hostile_text_is_refused(data: bytes) -> None:
    with pytest.raises(StreamError) as caught:
        parse(data, "the definition")
    assert "s3cret" not in str(caught.value)
    assert "the definition" in str(caught.value)
    assert not caught.value.retry


@given(st.binary(max_size=200))
def test_bytes_parse_or_are_refused(data: bytes) -> None:
    with contextlib.suppress(StreamError):
        parse(data, "it")


def test_comments_vanish_and_text_is_stable() -> None:
    root = parse("<domain><!-- note --><name>a</name><?pi x?></domain>", "it")
    assert serialize(root) == "<domain><name>a</name></domain>"
    assert serialize(parse(serialize(root), "it")) == serialize(root)


def test_what_a_comment_or_cdata_holds_is_no_document_type() -> None:
    """Any domain's metadata may hold it, and one domain that cannot be read would stop the work on all others."""
    text = "<metadata><n><![CDATA[<!DOCTYPE html>&a;<!ENTITY a>]]></n><!-- <!DOCTYPE --></metadata>"
    root = parse(text, "it")
    assert root.findtext("n") == "<!DOCTYPE html>&a;<!ENTITY a>"
    assert parse(serialize(root), "it").findtext("n") == root.findtext("n")


def test_sizes_are_kibibytes_as_libvirt_writes_them() -> None:
    assert kibibytes(parse("<memory unit='KiB'>2048</memory>", "it")) == 2048
    assert kibibytes(parse("<memory unit='GiB'>2</memory>", "it")) == 0


def test_every_absolute_path_is_found() -> None:
    paths = set(absolute_paths(parse(text_of("everything"), "it")))
    assert {
        "/dev/vg0/zoo",
        "/srv/share",
        "/dev/ttyUSB0",
        "/var/lib/ignition/zoo.ign",
        "/srv/nvdimm.img",
    } <= paths
