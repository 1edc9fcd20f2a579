"""``send``, ``receive`` and ``stream`` on the command line, between the pools of two hosts that are files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.endpoint.between import (
    COPY,
    DEFINITION,
    FIRST,
    LIVE,
    SECOND,
    SIZE,
    World,
    changed,
    make_world,
    noise,
)
from tests.unit.endpoint.devices import FileMappings
from tests.unit.endpoint.running import VDA, VDB, Running, make_running
from tests.unit.endpoint.stored import definition_volume, set_volumes
from tests.unit.stream.samples import header
from tests.unit.values import KEY, NAME, bad_disk
from thinsync_virt.cli import build_streams, failures, receive_command, send_command
from thinsync_virt.cli.main import main
from thinsync_virt.endpoint.source.tuning import Tuning
from thinsync_virt.endpoint.volumes import points as points_module
from thinsync_virt.endpoint.volumes.points import PointFinder
from thinsync_virt.endpoint.volumes.send import VolumeSender
from thinsync_virt.errors import Code, SpaceError
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.reports import Quiesce
from thinsync_virt.model.sources import volume_id
from thinsync_virt.stream.frames import MAGIC
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.units import KIB

POINT = f"{7:032x}"


class Shell:
    """Runs commands; standard input and output are files."""

    def __init__(self, world: World, directory: Path, patch: pytest.MonkeyPatch, capsys: Any) -> None:
        self.world, self.directory, self._patch, self._capsys = world, directory, patch, capsys

    def __call__(self, *words: str, stdin: bytes = b"") -> tuple[int, str, str]:
        """Status, standard output without streams, and standard error."""
        (self.directory / "in").write_bytes(stdin)
        descriptor = os.open(self.directory / "in", os.O_RDONLY)
        self._patch.setattr(receive_command, "_STDIN", descriptor)
        try:
            with pytest.raises(SystemExit) as end:
                main(list(words))
        finally:
            os.close(descriptor)
        said = self._capsys.readouterr()
        code = end.value.code
        return (code if isinstance(code, int) else 0), said.out, said.err

    def stream(self, *words: str) -> bytes:
        """What ``send`` writes to standard output."""
        descriptor = os.open(self.directory / "out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._patch.setattr(send_command, "_STDOUT", descriptor)
        try:
            status, _, said = self("send", *words)
        finally:
            os.close(descriptor)
        assert status == 0, said
        return (self.directory / "out").read_bytes()

    def error(self, *words: str, stdin: bytes = b"", code: Code) -> str:
        status, _, said = self(*words, stdin=stdin)
        assert status == code.exit_status, said
        assert "what to do: " in said
        return said


def stream_with(packed: bytes) -> bytes:
    """A small stream with a definition, of which its header says that it is DEFINITION."""
    named = replace(header(sizes=(SIZE,)), definition=DEFINITION.id, definition_size=len(packed))
    writer = StreamWriter()
    pieces = [*writer.begin(named), *writer.definition(packed), *writer.data(0, 0, b"\x01" * 512)]
    pieces += [*writer.zero(0, 4096, 4096), *writer.checkpoint(), *writer.end()]
    return b"".join(bytes(piece) for piece in pieces)


def whole_stream() -> bytes:
    return stream_with(DEFINITION.pack())


def sender_of(world: World) -> Callable[[Tuning], VolumeSender]:
    def make(tuning: Tuning) -> VolumeSender:
        return VolumeSender(world.lvm, FileMappings(world.lvm), world.report, "alpha", tuning)

    return make


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    world = make_world(tmp_path, monkeypatch)
    first = changed(noise(1), 2)
    world.put(FIRST, first)
    world.put(SECOND, changed(first, 3, hole=5))
    monkeypatch.setattr(build_streams, "local_sender", sender_of(world))
    monkeypatch.setattr(build_streams, "local_receiver", lambda: world.receiver)
    monkeypatch.setattr(build_streams, "local_point_finder", lambda: PointFinder(world.lvm))
    monkeypatch.setattr(points_module, "read_definition", lambda lvm, entry: DEFINITION)
    for one in set_volumes(POINT, 7, definition=DEFINITION.id):
        world.lvm.put(replace(one, read_only=True), noise(len(one.name.lv)))
    world.lvm.put(definition_volume(DEFINITION.id), bytes(4096))
    return Shell(world, tmp_path, monkeypatch, capsys)


def test_a_pair_of_snapshots(shell: Shell) -> None:
    status, out, _ = shell("receive", "vg1/copy", stdin=shell.stream("vg0/snap1"))
    assert status == 0 and "vg1/copy: 512.0 KiB, holds" in out and "lvchange -ay -K vg1/copy" in out
    assert shell.world.content() == shell.world.content(FIRST)
    increment = shell.stream("/dev/vg0/snap2", "--base", "vg0/snap1")
    status, out, _ = shell("receive", "vg1/copy", "--json", stdin=increment)
    found = json.loads(out)
    held = volume_id(shell.world.lvm.stored[SECOND].uuid)
    assert (status, found["changed"], found["volumes"]) == (
        0,
        True,
        [{"volume": "vg1/copy", "held": held, "size": SIZE}],
    )
    assert shell.world.content() == shell.world.content(SECOND)
    status, out, _ = shell("receive", "vg1/copy", stdin=increment)
    assert status == 0 and "here already" in out


def test_a_point_into_a_file_and_out_of_it(shell: Shell) -> None:
    file, xml = shell.directory / "web.tsv", shell.directory / "web.xml"
    status, out, _ = shell("send", f"{NAME}@{POINT}", "--output", str(file), "--json")
    found = json.loads(out)
    assert (status, found["id"], found["base_id"], found["snapshot"]) == (0, POINT, None, None)
    assert found["stream_bytes"] == file.stat().st_size
    status, out, _ = shell("stream", "info", str(file))
    assert status == 0
    for text in (POINT, NAME, "none: it is full", "vda", "vdb", "512.0 KiB, full"):
        assert text in out
    assert f"thinsync-vm stream verify {file}" in out
    status, out, _ = shell("stream", "verify", str(file))
    assert status == 0 and "whole: every checksum" in out
    words = ("receive", "vg1/web", "--definition", str(xml))
    status, out, _ = shell(*words, stdin=file.read_bytes())
    assert status == 0 and "vg1/web-vda" in out and "vg1/web-vdb" in out
    assert xml.read_bytes() == b"<domain/>"
    assert shell.error("send", f"{NAME}@ffff", "--output", "x", code=Code.NOT_FOUND)


def test_a_dash_is_standard_output(shell: Shell) -> None:
    plain, dashed = (shell.stream(f"{NAME}@{POINT}", *words) for words in ((), ("--output", "-")))
    assert dashed == plain and not Path("-").exists()
    shell.error("send", f"{NAME}@{POINT}", "--output", "-", "--json", code=Code.USAGE)


def test_where_the_definition_goes_is_looked_at_before_anything_is_received(shell: Shell) -> None:
    stream = shell.stream(f"{NAME}@{POINT}")
    before = shell.world.names()
    (shell.directory / "file").write_bytes(b"")
    os.mkfifo(shell.directory / "pipe")
    (shell.directory / "link").symlink_to(shell.directory / "pipe")
    for wrong in ("none/web.xml", "file/web.xml", ".", "pipe", "link"):
        path = str(shell.directory / wrong)
        said = shell.error("receive", "vg1/web", "--definition", path, stdin=stream, code=Code.USAGE)
        assert "no file can be made there" in said
    assert shell.world.names() == before


def test_a_definition_behind_a_link(shell: Shell) -> None:
    """The link stays: /dev/stdout is one."""
    file, link = shell.directory / "web.xml", shell.directory / "link"
    file.write_bytes(b"before")
    link.symlink_to(file)
    status, _, _ = shell(
        "receive", "vg1/web", "--definition", str(link), stdin=shell.stream(f"{NAME}@{POINT}")
    )
    assert status == 0 and link.is_symlink() and file.read_bytes() == b"<domain/>"


def test_as_json_for_programs(shell: Shell) -> None:
    file = shell.directory / "web.tsv"
    shell("send", f"{NAME}@{POINT[:30]}", "--output", str(file))
    status, out, _ = shell("stream", "info", str(file), "--json")
    header = json.loads(out)
    assert (status, header["format"], header["version"], header["point"]) == (0, "native", 1, POINT)
    assert [disk["target"] for disk in header["disks"]] == ["vda", "vdb"]
    assert header["replica"] is None and header["domain"]["name"] == NAME
    status, out, _ = shell("stream", "verify", str(file), "--json")
    found = json.loads(out)
    assert found["whole"] is True and found["size"] == file.stat().st_size
    assert found["totals"]["data"] == 2 * SIZE and len(found["totals"]["digest"]) == 32


def test_thin_send_recv_both_ways(shell: Shell) -> None:
    full = shell.stream("vg0/snap1", "--format", "thin-send-recv")
    status, out, said = shell("receive", "vg1/copy", "--size", "512K", "--json", stdin=full)
    assert status == 0 and "thin-send-recv 1.1" in said
    (made,) = json.loads(out)["volumes"]
    increment = shell.stream("vg0/snap2", "--base", "vg0/snap1", "--format", "thin-send-recv")
    status, _, _ = shell("receive", "vg1/copy", "--base-id", made["held"], stdin=increment)
    assert status == 0
    assert shell.world.content() == shell.world.content(SECOND)
    file = shell.directory / "theirs"
    file.write_bytes(increment)
    status, out, _ = shell("stream", "info", str(file))
    assert status == 0 and "thin-send-recv 1.1" in out
    status, out, _ = shell("stream", "verify", str(file))
    assert status == 0 and "no checksums to check" in out
    assert json.loads(shell("stream", "verify", str(file), "--json")[1])["totals"]["ended"] is True
    file.write_bytes(bytes.fromhex("ca7f00d5de7ec7ed") + bytes(16) + (1).to_bytes(4, "big"))
    status, out, _ = shell("stream", "verify", str(file))
    assert status == 0 and "does not tell" in out and "1.0" in out


def test_every_cut_and_every_flipped_byte_is_found_in_a_file(shell: Shell) -> None:
    stream, file = whole_stream(), shell.directory / "damaged"
    for at in range(0, len(stream), 7):
        file.write_bytes(stream[:at])
        said = shell.error("stream", "verify", str(file), code=Code.DIFFERS)
        assert "not a whole stream" in said
        damaged = bytearray(stream)
        damaged[at] ^= 1
        file.write_bytes(damaged)
        status, out, said = shell("stream", "verify", str(file))
        assert status == Code.DIFFERS.exit_status and out == "", said


@pytest.mark.parametrize(
    "packed", [Definition({"domain.xml": b"<other/>"}).pack(), DEFINITION.pack()[:-1], b"x"]
)
def test_a_definition_that_is_not_the_one_named_is_found(packed: bytes, shell: Shell) -> None:
    """Frames and digest are right: whoever wrote the stream had another definition, or half of it."""
    file = shell.directory / "other"
    for inside, status in ((DEFINITION.pack(), 0), (packed, Code.DIFFERS.exit_status)):
        file.write_bytes(stream_with(inside))
        found, out, said = shell("stream", "verify", str(file))
        assert found == status, said
        assert ("definition" in said, "whole: every checksum" in out) == (bool(status), not status)
        assert shell("stream", "info", str(file))[0] == 0


def test_the_rest_of_an_interrupted_transfer_is_told_from_a_whole_one(shell: Shell) -> None:
    whole = header(sizes=(SIZE,))
    rest = replace(whole, disks=(replace(whole.disks[0], start=4096),))
    file = shell.directory / "rest"
    for one, noted in ((whole, False), (rest, True)):
        writer = StreamWriter()
        file.write_bytes(b"".join(bytes(piece) for piece in [*writer.begin(one), *writer.end()]))
        status, out, _ = shell("stream", "verify", str(file))
        assert status == 0 and ("interrupted" in out) is noted
        assert ("from byte 4096" in shell("stream", "info", str(file))[1]) is noted
    said = shell.error("receive", "vg1/copy", stdin=file.read_bytes(), code=Code.STREAM)
    assert "is not whole" in said and "send all of the point" in said
    seeded = replace(whole, disks=(replace(whole.disks[0], mode=Mode.SEEDED),))
    writer = StreamWriter()
    file.write_bytes(b"".join(bytes(piece) for piece in [*writer.begin(seeded), *writer.end()]))
    said = shell.error("receive", "vg1/copy", stdin=file.read_bytes(), code=Code.STREAM)
    assert "from a seed" in said and "send all of the point" in said


def test_the_senders_error_is_told(shell: Shell) -> None:
    file = shell.directory / "failed"
    writer = StreamWriter()
    file.write_bytes(
        b"".join(bytes(piece) for piece in writer.error(SpaceError("no room there", hint="make some")))
    )
    said = shell.error("stream", "verify", str(file), code=Code.SPACE)
    assert "the sender: no room there" in said


def test_a_sender_that_fails_says_so_in_the_stream(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(device: object, start: int, length: int) -> bytes:
        raise SpaceError("the disk is broken", hint="replace it")

    read, write = os.pipe()
    with monkeypatch.context() as patch:
        patch.setattr("thinsync_virt.system.block.BlockDevice.read", damaged)
        patch.setattr(send_command, "_STDOUT", write)
        shell.error("send", "vg0/snap1", code=Code.SPACE)
    os.close(write)
    stream = os.read(read, 1 << 20)
    os.close(read)
    said = shell.error("receive", "vg1/copy", stdin=stream, code=Code.SPACE)
    assert "the sender: the disk is broken" in said
    assert COPY not in shell.world.lvm.stored


def test_wrong_usage(shell: Shell) -> None:
    stream = shell.stream("vg0/snap1")
    plain = shell.stream("vg0/snap1", "--format", "thin-send-recv")
    usage = Code.USAGE
    assert "--output" in shell.error("send", "vg0/snap1", "--json", code=usage)
    assert "its base is a volume" in shell.error("send", "vg0/snap1", "--base", f"{NAME}@{POINT}", code=usage)
    assert "is a point of it" in shell.error("send", NAME, "--base", "vg0/snap1", "--output", "x", code=usage)
    assert "name TARGET" in shell.error("receive", stdin=stream, code=usage)
    assert "is not DISK=VG/LV" in shell.error("receive", "--map", "vda", stdin=stream, code=usage)
    twice = ("--map", "a=vg1/a", "--map", "a=vg1/b")
    assert "twice" in shell.error("receive", *twice, stdin=stream, code=usage)
    assert "no definition" in shell.error(
        "receive", "vg1/copy", "--definition", "x", stdin=stream, code=usage
    )
    assert "no definition" in shell.error("receive", "vg1/copy", "--definition", "x", stdin=plain, code=usage)
    assert "without a name" in shell.error("receive", "--map", "a=vg1/a", stdin=plain, code=usage)
    assert "not an id" in shell.error("receive", "vg1/copy", "--base-id", "7", stdin=plain, code=usage)
    assert "nothing in the stream" in shell.error("receive", "vg1/copy", code=Code.STREAM)
    said = shell.error("receive", "vg1/copy", stdin=b"x" * 99, code=Code.STREAM)
    assert "standard input is not a thinsync stream" in said
    assert shell.error("stream", "info", str(shell.directory / "none"), code=Code.NOT_FOUND)


def test_a_stream_that_needs_no_base_is_full_although_its_point_has_one(shell: Shell) -> None:
    """As after all disks have moved to another pool."""
    file = shell.directory / "full.tsv"
    file.write_bytes(whole_stream())
    assert header().base is not None
    for words, line in (
        ("info", "base        none: it is full"),
        ("verify", f"point {header().point}, full"),
    ):
        status, out, _ = shell("stream", words, str(file))
        assert status == 0 and line in out


def test_a_file_that_is_no_stream_is_named_and_not_tried_again(shell: Shell) -> None:
    """Another file is a mistake of whoever named it; a stream that was cut off is one that does not get whole."""
    other = shell.directory / "my notes.txt"
    other.write_bytes(b"to do: " * 9)
    said = shell.error("stream", "info", str(other), code=Code.USAGE)
    assert f"{other} is not a thinsync stream" in said and "thinsync-vm send" in said
    assert f"{other} is not a whole stream" in shell.error("stream", "verify", str(other), code=Code.DIFFERS)
    other.write_bytes(shell.stream("vg0/snap1")[:60])
    assert f"{other}: " in shell.error("stream", "info", str(other), code=Code.STREAM)
    for content, code in ((b"x" * 60, Code.USAGE), (other.read_bytes(), Code.STREAM)):
        other.write_bytes(content)
        status, out, _ = shell("stream", "info", str(other), "--json")
        error = json.loads(out)["error"]
        assert (status, error["code"], error["retry"]) == (code.exit_status, code.value, False)


@pytest.mark.parametrize("words", ["info", "verify"])
def test_a_stream_of_another_version_says_which_way_out(words: str, shell: Shell) -> None:
    """Sending it again would not help, nor was it badly kept."""
    file = shell.directory / "newer"
    for version, way_out in ((2, "upgrade thinsync-virt here"), (0, "write the stream again with")):
        file.write_bytes(MAGIC + version.to_bytes(2, "little") + bytes(6) + b"x" * 99)
        status, _, said = shell("stream", words, str(file))
        assert status == (Code.STREAM if words == "info" else Code.DIFFERS).exit_status
        assert f"stream format {version}" in said and way_out in said and str(file) in said


@pytest.fixture
def running(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Running:
    """Its points are those of ``shell``."""
    running = make_running(shell.world, monkeypatch)
    monkeypatch.setattr(build_streams, "local_domains", lambda: nullcontext(running.snapshots()))
    monkeypatch.setattr("time.sleep", lambda _: None)
    return running


def test_a_domain_as_it_is_now(shell: Shell, running: Running) -> None:
    file, xml = shell.directory / "web.tsv", shell.directory / "web.xml"
    status, out, said = shell("send", NAME, "--output", str(file), "--json")
    found = json.loads(out)
    assert status == 0 and found["base_id"] is None and found["stream_bytes"] == file.stat().st_size
    assert (found["snapshot"]["consistency"], found["snapshot"]["frozen_filesystems"]) == ("filesystem", 2)
    assert (
        f"{NAME} as it is now, filesystem: 2 file systems frozen for 150 ms, vCPUs paused for 90 ms" in said
    )
    assert "no later --base" in said
    assert running.left() == []
    status, _, _ = shell("receive", "vg1/web", "--definition", str(xml), stdin=file.read_bytes())
    assert status == 0 and xml.read_bytes() == b"<domain/>"
    for copy, disk in ((VolumeName("vg1", "web-vda"), VDA), (VolumeName("vg1", "web-vdb"), VDB)):
        assert shell.world.content(copy) == shell.world.content(disk)


@pytest.mark.parametrize("base", [f"{NAME}@{POINT[:30]}", NAME], ids=["named", "newest"])
def test_a_domain_since_a_point(base: str, shell: Shell, running: Running) -> None:
    shell("receive", "vg1/web", stdin=shell.stream(f"{NAME}@{POINT}"))
    status, out, _ = shell(
        "receive", "vg1/web", "--json", stdin=shell.stream(NAME, "--base", base, "--quiesce", "off")
    )
    assert status == 0 and json.loads(out)["changed"] is True
    assert shell.world.content(VolumeName("vg1", "web-vdb")) == shell.world.content(VDB)
    (window,) = running.windows
    assert (window.quiesce, window.freeze_timeout) == (Quiesce.OFF, 8.0)


def test_a_busy_lvm_is_tried_again(shell: Shell, running: Running) -> None:
    running.missing = 1
    status, _, said = shell("send", NAME, "--freeze-timeout", "3", "--output", str(shell.directory / "x"))
    assert status == 0 and "trying again (2 of 5)" in said
    assert [window.freeze_timeout for window in running.windows] == [3.0, 3.0]
    assert running.left() == []


def test_a_domain_in_the_format_of_thin_send_recv(shell: Shell, running: Running) -> None:
    words = ("send", NAME, "--format", "thin-send-recv", "--output", str(shell.directory / "x"))
    assert "--exclude" in shell.error(*words, code=Code.USAGE)
    assert running.windows == []
    stream = shell.stream(NAME, "--format", "thin-send-recv", "--exclude", "vdb")
    assert shell("receive", "vg1/copy", "--size", "512K", stdin=stream)[0] == 0
    assert shell.world.content() == shell.world.content(VDA)


@pytest.mark.parametrize("source", ["vg0/snap1", f"{NAME}@{POINT}"])
@pytest.mark.parametrize("words", [("--quiesce", "off"), ("--freeze-timeout", "8"), ("--exclude", "vda")])
def test_how_a_domain_is_taken_says_nothing_of_other_sources(
    source: str, words: tuple[str, str], shell: Shell
) -> None:
    said = shell.error("send", source, *words, "--output", "x", code=Code.USAGE)
    assert f"{words[0]} is for a domain" in said


def test_what_keeps_a_domain_from_being_sent_is_said_before_the_window(
    shell: Shell, running: Running
) -> None:
    output = ("--output", str(shell.directory / "x"))
    said = shell.error("send", KEY.domain, *output, code=Code.NOT_FOUND)
    assert "there is no domain" in said and f"can be sent: {KEY.domain}@{POINT[:8]}" in said
    assert "can be sent" not in shell.error("send", "other", *output, code=Code.NOT_FOUND)
    shell.error("send", NAME, "--base", f"{NAME}@ffff", *output, code=Code.NOT_FOUND)
    running.more = (bad_disk("vdc"),)
    assert "--exclude vdc" in shell.error("send", NAME, *output, code=Code.NOT_REPLICABLE)
    assert running.windows == [] and running.left() == []


@pytest.fixture
def terminal() -> Iterator[int]:
    leader, follower = os.openpty()
    yield follower
    os.close(leader)
    os.close(follower)


def test_no_stream_goes_to_a_terminal_or_comes_from_one(
    shell: Shell, terminal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_command, "_STDOUT", terminal)
    before = shell.world.state()
    shell.world.put(LIVE, noise(1), read_only=False, active=True)
    assert "not for a terminal" in shell.error("send", "vg0/live", code=Code.USAGE)
    del shell.world.lvm.stored[LIVE]
    assert shell.world.state() == before

    def from_terminal(descriptor: int, name: str) -> Any:
        return real(terminal, name)

    from thinsync_virt.system import pipes

    real: Callable[[int, str], Any] = pipes.StreamInput
    monkeypatch.setattr(pipes, "StreamInput", from_terminal)
    assert "does not come from a terminal" in shell.error("receive", "vg1/copy", code=Code.USAGE)
    assert "give it a file (< FILE), or a pipe" in shell.error("stream", "verify", "-", code=Code.USAGE)


def test_how_data_travels_can_be_chosen(shell: Shell) -> None:
    """The blocks that differ, or the whole chunk; packed or not; and nothing else changes."""
    shell.world.put(LIVE, b"squeeze me" * 3276 + bytes(8), read_only=True)
    packed, plain = (shell.stream("vg0/live", "--compress", how) for how in ("19", "off"))
    assert len(packed) < 2000 and len(plain) > 32 * KIB
    blocks, chunk = (
        shell.stream("vg0/snap2", "--base", "vg0/snap1", "--compress", "off", "--grain", grain)
        for grain in ("4k", "chunk")
    )
    assert len(blocks) < 16 * KIB and len(chunk) > 64 * KIB
    slow = shell.stream("vg0/snap2", "--base", "vg0/snap1", "--bwlimit", "1G", "--nice", "19")
    for stream in (blocks, chunk, slow):
        shell.world.lvm.remove((COPY,))
        shell("receive", "vg1/copy", stdin=shell.stream("vg0/snap1"))
        assert shell("receive", "vg1/copy", stdin=stream)[0] == 0
        assert shell.world.content() == shell.world.content(SECOND)
    words = ("send", "vg0/snap1", "--format", "thin-send-recv", "--compress", "3")
    assert "knows no compression" in shell.error(*words, code=Code.USAGE)


def test_nobody_reads_any_more(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quiet, with the status that a shell gives a command that died of it; nothing is left behind."""
    monkeypatch.setattr(failures, "silence_stdout", lambda: None)
    shell.world.put(LIVE, noise(1), read_only=False, active=True)
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(send_command, "_STDOUT", write)
    before = shell.world.state()
    status, out, said = shell("send", "vg0/live")
    os.close(write)
    assert (status, out) == (141, "")
    assert [line for line in said.splitlines() if "can be written to" not in line] == []
    assert shell.world.state() == before
    assert COPY not in shell.world.lvm.stored


@pytest.mark.parametrize(("words", "unbuffered"), [(("info",), ""), (("verify", "--json"), "1")])
def test_outputs_that_are_full_or_closed(words: tuple[str, ...], unbuffered: str, tmp_path: Path) -> None:
    file = tmp_path / "stream"
    file.write_bytes(whole_stream())
    command = [sys.executable, "-m", "thinsync_virt.cli.main", "stream", *words, str(file)]

    def run(redirection: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", f'exec "$@" {redirection}', "sh", *command],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )

    for lost in (">/dev/full", ">&-"):
        done = run(lost)
        assert done.returncode == 1
        assert "cannot write to standard output" in done.stderr and "what to do" in done.stderr
        assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    unheard = run("2>&-")
    assert unheard.returncode == 0 and unheard.stdout


def test_standard_input_is_called_by_its_name(tmp_path: Path) -> None:
    whole = whole_stream()
    for content, verdict in ((whole, "standard input: whole"), (whole[:60], "standard input is not a whole")):
        done = subprocess.run(
            [sys.executable, "-m", "thinsync_virt.cli.main", "stream", "verify", "-"],
            input=content,
            capture_output=True,
            check=False,
        )
        assert verdict in (done.stdout + done.stderr).decode()
