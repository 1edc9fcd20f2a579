"""Versions, and what is no greeting."""

from __future__ import annotations

import dataclasses
import socket

import pytest

from tests.unit.remote.loopback import OURS, THEIRS, Loopback, serving
from thinsync_virt.errors import UnreachableError
from thinsync_virt.remote.client import Client
from thinsync_virt.remote.greeting import (
    Greeting,
    encode_greeting,
    our_greeting,
    parse_greeting,
    refuse_same_machine,
)


def with_protocols(greeting: Greeting, *protocols: int) -> Greeting:
    return dataclasses.replace(greeting, protocols=protocols)


def test_the_highest_common_version_is_chosen() -> None:
    ours, theirs = with_protocols(OURS, 0, 2, 5), with_protocols(THEIRS, 7, 2, 0, 1)
    with serving({}, ours=ours, theirs=theirs) as client:
        assert client.version == 2
        assert client.peer == theirs


@pytest.mark.parametrize(
    ("ours", "theirs", "older"), [((1, 2), (0,), "on beta: it"), ((0,), (1, 2), "on this host: it")]
)
def test_without_a_common_version_the_older_side_is_named(
    ours: tuple[int, ...], theirs: tuple[int, ...], older: str
) -> None:
    with (
        pytest.raises(UnreachableError) as caught,
        serving({}, ours=with_protocols(OURS, *ours), theirs=with_protocols(THEIRS, *theirs)),
    ):
        pass
    assert "they have none in common" in caught.value.message
    assert older in caught.value.hint
    assert not caught.value.retry


def test_round_trip_and_unknown_keys() -> None:
    line = encode_greeting(THEIRS)
    assert line.endswith(b"\n")
    assert parse_greeting(line, "beta") == THEIRS
    # Here only: a later version may say more.
    assert parse_greeting(line.replace(b'{"', b'{"a_new_key":[1],"'), "beta") == THEIRS


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"Last login: Mon\n", "'Last login: Mon'"),
        (b"\x1b]0;title\x07\x1b[1mWelcome\x1b[0m\n", "'Welcome'"),
        (b"\n", "''"),
        (b"\xff\xfe\n", "no greeting"),
        (b"THINSYNC-VM", "no greeting"),
        (b"THINSYNC-VM \n", "is not JSON"),
        (b'THINSYNC-VM {"protocols": [0]}\n', "not acceptable"),
        (encode_greeting(with_protocols(THEIRS)), "names no protocols"),
        (encode_greeting(with_protocols(THEIRS, -1)), "no version number"),
        (encode_greeting(with_protocols(THEIRS, True)), "no version number"),
        (encode_greeting(with_protocols(THEIRS, *range(65))), "names no protocols"),
        (encode_greeting(dataclasses.replace(THEIRS, boot_id="x")), "not acceptable"),
        (encode_greeting(dataclasses.replace(THEIRS, hostname="a\x1b[31m")), "not acceptable"),
        (encode_greeting(dataclasses.replace(THEIRS, package="0.1\n")), "not acceptable"),
        (encode_greeting(THEIRS)[:-5] + b"\n", "is not JSON"),
    ],
)
def test_what_is_no_greeting(line: bytes, words: str) -> None:
    with pytest.raises(UnreachableError) as caught:
        parse_greeting(line, "beta")
    assert caught.value.message.startswith("beta: ")
    assert words in caught.value.message
    assert caught.value.message.isprintable()


def test_a_login_that_may_run_no_commands_is_no_shell_that_prints() -> None:
    """As root's on images for clouds, or one whose shell is nologin: nothing in .bashrc would help."""
    with pytest.raises(UnreachableError) as caught:
        parse_greeting(b'Please login as the user "debian" rather than the user "root".\n', "beta")
    assert "--to USER@HOST" in caught.value.hint


def connect_to(data: bytes, timeout: float = 60) -> None:
    near, far = socket.socketpair()
    with far:
        far.sendall(data)
        far.shutdown(socket.SHUT_WR) if data else None
        Client(Loopback(near), OURS, timeout=timeout)


def test_a_shell_that_prints_is_quoted() -> None:
    with pytest.raises(UnreachableError) as caught:
        connect_to(b"Welcome to beta\n" + encode_greeting(THEIRS))
    assert "'Welcome to beta'" in caught.value.message
    assert ".bashrc" in caught.value.hint
    with pytest.raises(UnreachableError, match="'prompt> THINSYNC-VM"):
        connect_to(b"prompt> " + encode_greeting(THEIRS))
    with pytest.raises(UnreachableError, match="no line end"):
        connect_to(b"no line end")
    with pytest.raises(UnreachableError, match="xxxx"):
        connect_to(b"x" * 100_000)


def test_silence_has_a_limit() -> None:
    with pytest.raises(UnreachableError, match=r"beta: no greeting within 0\.2 s") as caught:
        connect_to(b"", timeout=0.2)
    assert "thinsync-vm server" not in caught.value.hint, "to people it says only that it is not for them"


def test_this_machine() -> None:
    ours = our_greeting("0.1.0", "alpha")
    assert parse_greeting(encode_greeting(ours), "alpha") == ours
    with pytest.raises(UnreachableError, match="is this machine"):
        refuse_same_machine(ours, ours, "localhost")
    refuse_same_machine(OURS, THEIRS, "beta")
