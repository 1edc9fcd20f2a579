"""Standard input, output and error that are closed, full or narrow: said as such, with the status that is due."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time

import pytest

from thinsync_virt.cli.output import print_json
from thinsync_virt.errors import Code

ALL_FULL = {"full": ">/dev/full", "closed": ">&-", "readonly": "1</dev/null"}


def run(*words: str, files: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program as a process of its own, with the shell's redirections in ``files``."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {files}', "sh", sys.executable, "-m", "thinsync_virt.cli.main", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("words", [("--help",), ("points", "--help"), ("--version",)], ids=" ".join)
@pytest.mark.parametrize("where", ALL_FULL)
def test_an_output_that_cannot_be_written(words: tuple[str, ...], where: str) -> None:
    done = run(*words, files=ALL_FULL[where])
    assert done.returncode == Code.INTERNAL.exit_status
    assert done.stderr.startswith("thinsync-vm: cannot write to standard output: ")
    assert done.stderr.count("\n") == 2


@pytest.mark.parametrize("where", ALL_FULL)
def test_an_error_keeps_its_status(where: str) -> None:
    for words in (("nonsense", "--json"), ("replicate", "web01", "--to", "", "--json")):
        done = run(*words, files=ALL_FULL[where])
        assert done.returncode == Code.USAGE.exit_status
        assert "standard output" not in done.stderr


@pytest.mark.parametrize("files", ["2>&-", "<&- 2>&-"])
def test_without_standard_error(files: str) -> None:
    """What would have been said there is not said elsewhere instead."""
    done = run("nonsense", "--json", files=files)
    assert done.returncode == Code.USAGE.exit_status
    assert json.loads(done.stdout)["error"]["code"] == "usage"
    assert run("--version", files=files).returncode == 0


def test_without_standard_input() -> None:
    done = run("server", files="<&-")
    assert "should not have happened" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_the_encoding_lacks(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "h\u2744\U0001f600\udcff"
    done = run("stream", "info", name, "--json", files="", PYTHONIOENCODING=f"{encoding}:strict")
    assert done.returncode == Code.NOT_FOUND.exit_status
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding=encoding))
    print_json({"name": name})
    assert json.loads(written.getvalue().decode(encoding)) == {"name": name}


def test_an_output_that_does_not_wait() -> None:
    """A pipe that somebody who shares it has made non-blocking: all comes, when there is room."""
    script = "from thinsync_virt.cli.standard_files import make_usable; make_usable(); print('x' * 500_000)"
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        # Full by then.
        time.sleep(0.5)
        text = pipe.read()
    assert process.communicate()[1] == b"" and process.returncode == 0
    assert text == b"x" * 500_000 + b"\n"


def test_text_that_the_encoding_lacks() -> None:
    script = "from thinsync_virt.cli.standard_files import make_usable; make_usable(); print(chr(0x2744) + chr(0xe9))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1:strict"},
    )
    assert done.stdout == b"\\u2744\xe9\n"
