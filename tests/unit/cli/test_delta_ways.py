"""Two ways lead to an answer of ``thinsync-vm delta``, with click and without: they must not differ in anything."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.mappings.metadata import Device, write_metadata
from tests.unit.cli.run_batches import relaxed
from thinsync_virt.cli import delta_answer, delta_request
from thinsync_virt.cli.delta_request import Request, parse_plain
from thinsync_virt.cli.main import main
from thinsync_virt.errors import Code, PoolError

BASE: Device = {at: (at, 1) for at in range(600)}
HEAD: Device = {**{at: (at + 1000 * (at % 3 == 0), 1) for at in range(500)}, 900: (700, 2)}
# 40,000 ranges: more than a MiB, and than a pipe holds.
SCATTERED: Device = {2 * at: (2000 + at, 1) for at in range(40_000)}

Ended = tuple[int, str, str]
Both = Callable[..., Ended]


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("metadata") / "m"
    write_metadata(path, {1: BASE, 2: HEAD, 3: {}, 4: SCATTERED})
    return path


@pytest.fixture
def ended(capfd: pytest.CaptureFixture[str]) -> Callable[[list[str]], Ended]:
    def run(words: list[str]) -> Ended:
        with pytest.raises(SystemExit) as end:
            main(words)
        said = capfd.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, said.out, re.sub(r"in [0-9.]+ ms", "in N ms", said.err)

    return run


@pytest.fixture
def both(ended: Callable[[list[str]], Ended], monkeypatch: pytest.MonkeyPatch) -> Both:
    """What comes of a command, which is asserted to be the same with click and without."""

    def run(*words: str) -> Ended:
        one = ended(["delta", *words])
        with monkeypatch.context() as patch:
            patch.setattr(delta_request, "parse_plain", lambda _: None)
            assert ended(["delta", *words]) == one
        return one

    return run


PLAIN = [
    "--metadata M --base 1 --head 2",
    "--metadata=M --base=1 --head=2 --json",
    "--json --head 2 --base=1 --metadata M",
    "--metadata M --base 1 --head 2 --format thin-delta",
    "--metadata M --base 1 --head 2 --format=text --stats",
    "--metadata M --base 1 --head 2 --format text --json",
    "--metadata M --head 2 --json --stats",
    "--metadata M --head 2 --format thin-delta",
    "--metadata M --head 2",
    "--metadata M --base 2 --head 2 --json",
    "--metadata M --base 2 --head 2",
    "--metadata M --base 3 --head 2 --format thin-delta --stats",
    "--metadata M --base 2 --head 3 --json",
    "--metadata M --head 3",
    "--metadata M --head 3 --json",
    "--metadata M --head 4 --json",
    "--metadata M --base 9 --head 1 --head 2 --base 1",
    "--metadata M --base 001 --head 2",
]
FAILS = [
    ("--metadata M --head 9", Code.NOT_FOUND, "no thin device 9"),
    ("--metadata M --base 9 --head 1 --json", Code.NOT_FOUND, "no thin device 9"),
    ("--metadata M --base 9 --head 9", Code.NOT_FOUND, "no thin device 9"),
    ("--metadata M --head 16777215", Code.NOT_FOUND, "no thin device 16777215"),
    ("--metadata /nonexistent --head 1 --json", Code.NOT_FOUND, "/nonexistent"),
    ("--metadata /dev/null --head 1", Code.INTERNAL, "/dev/null"),
    ("--metadata / --head 1 --json", Code.INTERNAL, "/"),
    ("--metadata M --head 1 --metadata-snap", Code.POOL, "leave out --metadata-snap"),
    ("--metadata M --head 1 --metadata-snap --json --stats", Code.POOL, "no metadata snapshot"),
]


@pytest.mark.parametrize("words", PLAIN)
def test_answers(words: str, metadata: Path, both: Both) -> None:
    argv = words.replace("M", str(metadata)).split(" ")
    assert parse_plain(argv) is not None
    status, out, errors = both(*argv)
    assert status == 0
    assert out.count("extents") == ("--json" in words)
    assert bool(errors) == ("--stats" in words) == ("metadata blocks read" in errors)


@pytest.mark.parametrize(("words", "code", "says"), FAILS)
def test_failures(words: str, code: Code, says: str, metadata: Path, both: Both) -> None:
    argv = words.replace("M", str(metadata)).split(" ")
    assert parse_plain(argv) is not None
    status, out, errors = both(*argv)
    assert status == code.exit_status
    assert says in errors and "Traceback" not in errors
    assert out.count('{"error": {"code": "' + code.value) == ("--json" in words)
    assert "<" not in out and "extents" not in out


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        ("", 2),
        ("--help", 0),
        ("--metadata M", 2),
        ("--metadata M --head", 2),
        ("--metadata M --head=", 2),
        ("--metadata M --head -1", 2),
        ("--metadata M --head 16777216", 2),
        ("--metadata M --head 1_0", 3),
        ("--metadata M --head ²", 2),
        ("--metadata M --head 1 --base one", 2),
        ("--metadata --head 1", 2),
        ("--metadata M --head 1 --format xml", 2),
        ("--metadata M --head 1 --format thin-delta --json", 2),
        ("--metadata M --head 1 --json=yes", 2),
        ("--metadata M --head 1 --jso", 2),
        ("--metadata M --head 1 vg0/a vg0/b", 2),
        ("--metadata M --head 1 --", 0),
        ("--head 1", 2),
        ("vg0/a", 2),
    ],
)
def test_what_is_left_to_click(words: str, ends: int, metadata: Path, both: Both) -> None:
    argv = words.replace("M", str(metadata)).split()
    assert parse_plain(argv) is None
    status, out, errors = both(*argv)
    assert status == ends
    assert "Traceback" not in errors and bool(out) == (ends == 0 or "--json" in words.split())


WORDS = [
    "--metadata",
    "--metadata=a",
    "--metadata=-a",
    "--metadata=",
    "a",
    "b=c",
    "--base",
    "--base=1",
    "--base=x",
    "--head",
    "--head=2",
    "--head=-2",
    "1",
    "02",
    "16777215",
    "16777216",
    "--format",
    "--format=text",
    "--format=thin-delta",
    "text",
    "thin-delta",
    "--json",
    "--stats",
    "--metadata-snap",
    "--metadata-sna",
    "--stats=1",
    "--",
    "-",
    "-h",
    "--help",
]


@relaxed
@given(
    st.lists(
        st.sampled_from(WORDS),
        max_size=9,
    ),
    st.booleans(),
)
def test_what_is_understood_without_click_click_understands_alike(words: list[str], whole: bool) -> None:
    if whole:
        words = ["--metadata=a", "--head", "2", *words]
    plain = parse_plain(words)
    if plain is None:
        return
    asked: list[Request] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delta_answer, "answer", asked.append)
        patch.setattr(delta_request, "parse_plain", lambda _: None)
        with pytest.raises(SystemExit) as end:
            main(["delta", *words])
    assert end.value.code == 0
    fields = Request.__slots__
    assert [[getattr(request, field) for field in fields] for request in asked] == [
        [getattr(plain, field) for field in fields]
    ]


class _NoMemoryError(MemoryError):
    """As numpy's, of which only the core was loaded."""

    def __str__(self) -> str:
        raise AttributeError("module 'numpy' without its other parts has no flexible")


FAILURES = [
    KeyError("odd"),
    PoolError("bad", hint="do it"),
    BrokenPipeError(errno.EPIPE, "e"),
    KeyboardInterrupt(),
    _NoMemoryError(),
]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("json", [[], ["--json"]])
def test_whatever_happens(
    failure: BaseException, json: list[str], both: Both, monkeypatch: pytest.MonkeyPatch, metadata: Path
) -> None:
    def fail(_: object) -> None:
        raise failure

    monkeypatch.delenv("THINSYNC_DEBUG", raising=False)
    monkeypatch.setattr(delta_answer, "answer", fail)
    monkeypatch.setattr("thinsync_virt.cli.failures.silence_stdout", lambda: None)
    status, out, errors = both("--metadata", "a", "--head", "1", *json)
    assert status == (1, 8, 141, 130, 1)[FAILURES.index(failure)]
    assert bool(out) == bool(json and isinstance(failure, Exception) and status < 100)
    assert (errors == "") == (status == 141)


def test_debugging_shows_it_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise KeyError("odd")

    monkeypatch.setenv("THINSYNC_DEBUG", "1")
    monkeypatch.setattr(delta_answer, "answer", fail)
    for _ in range(2):
        with pytest.raises(KeyError, match="odd"):
            main(["delta", "--metadata", "a", "--head", "1"])
        monkeypatch.setattr(delta_request, "parse_plain", lambda _: None)


def test_completion_is_clicks(ended: Callable[[list[str]], Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_THINSYNC_VM_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "thinsync-vm delta --me")
    monkeypatch.setenv("COMP_CWORD", "2")
    status, out, _ = ended(["delta", "--metadata", "a", "--head", "1"])
    assert (status, out.split()) == (0, ["plain,--metadata", "plain,--metadata-snap"])


# The program as a process. A word of nothing more than "--" before makes it click's.

PYTHON = [sys.executable, "-m", "thinsync_virt.cli.main", "delta"]
WAYS = pytest.mark.parametrize("way", [[], ["--"]], ids=["plain", "click"])


def command(metadata: Path, *words: str, way: list[str]) -> list[str]:
    return [*PYTHON, "--metadata", str(metadata), *words, *way]


@WAYS
@pytest.mark.parametrize("shape", [["--json"], ["--format", "thin-delta"]])
def test_nobody_reads_on(way: list[str], shape: list[str], metadata: Path) -> None:
    process = subprocess.Popen(
        command(metadata, "--head", "4", *shape, way=way), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 128 + signal.SIGPIPE


@WAYS
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_stopped_while_nobody_reads(
    way: list[str], number: signal.Signals, status: int, metadata: Path
) -> None:
    process = subprocess.Popen(
        command(metadata, "--head", "4", "--json", way=way), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    # It has begun to write, more than the pipe holds.
    assert process.stdout.read(10) == b'{"extents"'
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == status
    assert errors.decode().startswith("stopped") and errors.count(b"\n") == 1


@WAYS
@pytest.mark.parametrize("where", ["full", "closed", "readonly"])
def test_an_output_that_cannot_be_written(way: list[str], where: str, metadata: Path) -> None:
    argv = command(metadata, "--base", "1", "--head", "2", way=way)
    target = {"full": ">/dev/full", "closed": ">&-", "readonly": "1</dev/null"}[where]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {target}', "sh", *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "cannot write to standard output" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_limit_of_file_size(metadata: Path, tmp_path: Path, unbuffered: str) -> None:
    """The answer is cut short, so it must not end well; nor can the failure be written there."""
    argv = command(metadata, "--head", "4", "--json", way=[])
    done = subprocess.run(
        ["sh", "-c", f'ulimit -f 2048; exec "$@" >{tmp_path}/out', "sh", *argv],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    assert done.returncode == 1 and "cannot write to standard output" in done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_an_output_that_does_not_wait(metadata: Path) -> None:
    """A pipe that somebody else has made non-blocking: all of the answer comes, when there is room."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = subprocess.Popen(command(metadata, "--head", "4", "--json", way=[]), stdout=writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    assert process.wait() == 0
    assert text.count(b'"data"') == len(SCATTERED) + 1 and text.endswith(b"}\n")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_a_terminal_that_has_not_all_characters(encoding: str, metadata: Path) -> None:
    done = subprocess.run(
        command(metadata, "--base", "1", "--head", "2", way=[]),
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "30"},
    )
    lines = done.stdout.decode(encoding).splitlines()
    assert [len(line) for line in lines[1:3]] == [30, 30]
    assert not set(lines[1]) & set("?\N{REPLACEMENT CHARACTER}") and set(lines[1]) - set("| ")


@pytest.mark.parametrize(
    ("columns", "width"),
    [("100000000", 1000), ("99999999999", 80), ("9" * 5000, 80)],
    ids=["large", "larger", "no number"],
)
def test_more_columns_than_any_terminal_has(columns: str, width: int, metadata: Path) -> None:
    done = subprocess.run(
        command(metadata, "--base", "1", "--head", "2", way=[]),
        capture_output=True,
        check=True,
        env={**os.environ, "COLUMNS": columns},
    )
    assert [len(line) for line in done.stdout.decode().splitlines()[1:3]] == [width, width]


def test_a_name_that_is_not_text(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\n"
    for json in ([], ["--json"]):
        done = subprocess.run(
            [*PYTHON, "--metadata", name, "--head", "1", *json], capture_output=True, check=False
        )
        assert done.returncode == Code.NOT_FOUND.exit_status
        assert b"Traceback" not in done.stderr and bool(done.stdout) == bool(json)


def test_nothing_steers_the_terminal(both: Both, tmp_path: Path) -> None:
    status, out, errors = both("--metadata", f"{tmp_path}/\x1b[2Jm\r", "--head", "1")
    assert (status, out) == (Code.NOT_FOUND.exit_status, "")
    assert errors.startswith("thinsync-vm: ") and "\x1b" not in errors and "\r" not in errors
