"""What stands behind --to: every form, and every hostile one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinsync_virt.errors import UsageError
from thinsync_virt.model.targets import (
    HostTarget,
    StoreTarget,
    TargetKind,
    TargetSpec,
    is_same_target,
)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("web2", HostTarget(None, "web2")),
        ("root@web2", HostTarget("root", "web2")),
        ("root@web2:2222", HostTarget("root", "web2", 2222)),
        ("web2.example.org:22", HostTarget(None, "web2.example.org", 22)),
        ("10.0.0.7", HostTarget(None, "10.0.0.7")),
        ("under_score", HostTarget(None, "under_score")),
        ("[fe80::1]", HostTarget(None, "fe80::1")),
        ("root@[fe80::1]:22", HostTarget("root", "fe80::1", 22)),
        ("ssh://backup@web2:22", HostTarget("backup", "web2", 22)),
        ("ssh://[::1]", HostTarget(None, "::1")),
        ("ssh://file:22", HostTarget(None, "file", 22)),
        ("file", HostTarget(None, "file")),
        ("file:/srv/web01.img", StoreTarget(TargetKind.FILE, "/srv/web01.img")),
        ("qcow2:/srv/web 01", StoreTarget(TargetKind.QCOW2, "/srv/web 01")),
        ("archive:/srv//web01/", StoreTarget(TargetKind.ARCHIVE, "/srv/web01")),
        (
            "web2:archive://srv/./web01/.",
            StoreTarget(TargetKind.ARCHIVE, "/srv/web01", HostTarget(None, "web2")),
        ),
        ("archive:/", StoreTarget(TargetKind.ARCHIVE, "/")),
        ("archive:/srv/.hidden/...", StoreTarget(TargetKind.ARCHIVE, "/srv/.hidden/...")),
        ("archive:/srv/Größe", StoreTarget(TargetKind.ARCHIVE, "/srv/Größe")),
        ("web2:archive:/srv", StoreTarget(TargetKind.ARCHIVE, "/srv", HostTarget(None, "web2"))),
        ("u@web2:22:qcow2:/srv", StoreTarget(TargetKind.QCOW2, "/srv", HostTarget("u", "web2", 22))),
        ("[fe80::1]:file:/srv", StoreTarget(TargetKind.FILE, "/srv", HostTarget(None, "fe80::1"))),
        ("ssh://file:22:file:/srv", StoreTarget(TargetKind.FILE, "/srv", HostTarget(None, "file", 22))),
        ("ssh://qcow2:archive:/srv", StoreTarget(TargetKind.ARCHIVE, "/srv", HostTarget(None, "qcow2"))),
        ("web2:file:/a:qcow2:/b", StoreTarget(TargetKind.FILE, "/a:qcow2:/b", HostTarget(None, "web2"))),
        ("file:/web2:qcow2:/b", StoreTarget(TargetKind.FILE, "/web2:qcow2:/b")),
    ],
)
def test_every_form(text: str, target: object) -> None:
    assert TargetSpec.parse(text) == target
    assert TargetSpec.parse(str(target)) == target


@pytest.mark.parametrize(
    ("recorded", "typed", "same"),
    [
        ("archive:/srv/x", "archive:/srv/x", True),
        ("archive:/srv/x/", "archive:/srv/x", True),
        ("beta:archive:/srv/./x", "ssh://beta:archive:/srv//x", True),
        ("archive:/srv/x", "qcow2:/srv/x", False),
        ("archive:/srv/y/../x", "archive:/srv/x", False),  # y may be a symbolic link
        ("beta:archive:/srv/x", "archive:/srv/x", False),
        ("what nobody can read", "what nobody can read", True),
        ("what nobody can read", "archive:/srv/x", False),
        ("", "archive:/srv/x", False),
    ],
)
def test_what_was_recorded_is_known_again(recorded: str, typed: str, same: bool) -> None:
    assert is_same_target(recorded, typed) is same


def test_kinds() -> None:
    kinds = [TargetSpec.parse(text).kind for text in ("a", "file:/a", "qcow2:/a", "archive:/a")]
    assert kinds == list(TargetKind)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "@",
        "@web2",
        "root@",
        "-oProxyCommand=id",
        "root@-oProxyCommand=id",
        "-l@web2",
        "[-o::1]",
        "ssh://-oProxyCommand=id",
        "web 2",
        "web2\n",
        "web2\x00",
        "\x1b[31mweb2",
        "web%h",
        "%h",
        "web2;id",
        "$(id)",
        "`id`",
        "a@b@c",
        "web2:",
        "web2:0",
        "web2:65536",
        "web2:022",
        "web2:+22",
        "web2:٢٢",
        "web2:22:23",
        "fe80::1",
        "fe80::1:22",
        "[fe80::1%eth0]",
        "[fe80::1",
        "[fe80::1]22",
        "[fe80::1]:",
        "[web2]:22",
        "[]",
        "wéb2",
        "a" * 254,
        "u" * 65 + "@web2",
        "ssh://",
        "ssh://web2/path",
        "ssh://ssh://web2",
        "http://web2",
        "/srv/web01.img",
        "file:",
        "file:web01.img",
        "file:/srv/\x00",
        "file:/srv/a\nb",
        "qcow2:relative",
        "archive:",
        "file:/" + "a" * 200,
        ":archive:/srv",
        "@web2:archive:/srv",
        "-l:archive:/srv",
        "web2:archive:srv",
        "web2:22:23:archive:/srv",
        "fe80::1:archive:/srv",
        "web2:archive:/srv\n",
        "web2 :archive:/srv",
        "archive:file:/srv",
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        TargetSpec.parse(text)
    assert caught.value.message.isprintable()
    assert caught.value.hint
    assert len(caught.value.message) < 600


@given(st.text(max_size=60))
def test_whatever_is_taken_goes_round_and_is_no_option(text: str) -> None:
    try:
        target = TargetSpec.parse(text)
    except UsageError:
        return
    assert TargetSpec.parse(str(target)) == target
    if isinstance(target, StoreTarget):
        assert target.path.startswith("/") and target.path.isprintable()
        assert not {"", "."} & set(target.path.split("/")[1:]) or target.path == "/"
        target = target.host or HostTarget(None, "web2")
    if isinstance(target, HostTarget):
        assert not target.host.startswith("-")
        assert target.host.isascii()
        assert target.host.isprintable()
        assert not set(target.host) & set(" %/@[]'\"\\$`;&|<>*?~!#(){}")


@given(st.from_regex(r"([a-z-]{1,3}@)?(\[?[0-9a-f:%-]{1,8}\]?|[a-z.%-]{1,6})(:[0-9]{0,6})?", fullmatch=True))
def test_whatever_looks_like_a_host(text: str) -> None:
    test_whatever_is_taken_goes_round_and_is_no_option.hypothesis.inner_test(text)  # type: ignore[attr-defined]


_HOSTS = r"(ssh://)?([a-z-]{1,3}@)?(\[[0-9a-f:%]{1,6}\]|[a-z.%-]{1,6}|file|archive)(:[0-9]{0,6})?:"


@given(st.from_regex(rf"({_HOSTS})?(file|qcow2|archive):/?[a-z:/ .]{{0,12}}", fullmatch=True))
def test_whatever_looks_like_a_store(text: str) -> None:
    test_whatever_is_taken_goes_round_and_is_no_option.hypothesis.inner_test(text)  # type: ignore[attr-defined]


def test_what_is_wrong_with_a_path_is_said() -> None:
    for path, reason in (
        ("srv", "absolute"),
        ("/srv/a\nb", "cannot be shown"),
        ("/srv/" + "n" * 200, "205 bytes"),
    ):
        with pytest.raises(UsageError, match=reason) as refusal:
            TargetSpec.parse(f"archive:{path}")
        assert refusal.value.hint
        assert reason == "absolute" or "absolute" not in refusal.value.message
