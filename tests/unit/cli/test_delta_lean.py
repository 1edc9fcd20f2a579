"""What ``thinsync-vm delta`` does without when it is asked plainly: start-up is most of a small delta."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.mappings.metadata import Device, write_metadata

ROOT = Path(__file__).parents[3]
HEAVY = """
    click rich libvirt lxml numpy typing re enum dataclasses logging json inspect contextlib signal shutil subprocess
    threading pathlib site
"""
DEVICE: Device = {3 * at: (at, 1) for at in range(300)}


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("metadata") / "m"
    write_metadata(path, {1: DEVICE, 2: {**DEVICE, 5: (5000, 2)}}, held=True)
    return path


def imported(*words: str | Path) -> set[str]:
    """Modules that are there when the command has ended, without site as the package's launcher does."""
    code = (
        f"import sys; sys.path += [{str(ROOT)!r}, '/usr/lib/python3/dist-packages']\n"
        "from thinsync_virt.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: print(end.code, *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-IS", "-c", code, *map(str, words)], capture_output=True, text=True, check=True
    )
    status, *modules = done.stderr.splitlines()[-1].split()
    assert status == "0" and done.stdout
    return set(modules)


@pytest.mark.parametrize(
    "words", [[], ["--stats"], ["--json"], ["--format", "thin-delta"], ["--metadata-snap"]], ids=" ".join
)
@pytest.mark.parametrize("base", [["--base", "1"], []], ids=["delta", "all"])
def test_a_plain_request(words: list[str], base: list[str], metadata: Path) -> None:
    modules = imported("delta", "--metadata", metadata, *base, "--head", "2", *words)
    assert "thinsync_virt.cli.delta_answer" in modules
    assert modules & set(HEAVY.split()) == set()
    ours = {name for name in modules if name.startswith("thinsync_virt.")}
    assert not {
        name
        for name in ours
        if name.split(".")[1] not in ("cli", "errors", "lean", "system", "thin", "units")
    }


def test_others_have_click(metadata: Path) -> None:
    assert "click" in imported("delta", "--metadata", metadata, "--head", "2", "--")


def test_left_at_once_and_yet_whole(metadata: Path) -> None:
    """The program itself does not wait for Python's own end; all that it said has been sent."""
    argv = ["--metadata", str(metadata), "--base", "1", "--head", "2", "--json", "--stats"]
    texts = []
    for end in ([], ["--"]):
        done = subprocess.run(
            [sys.executable, "-m", "thinsync_virt.cli.main", "delta", *argv, *end],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "metadata blocks read" in done.stderr
        texts.append(done.stdout)
    assert texts[0] == texts[1] and texts[0].endswith("}\n")


def test_the_program_itself_imports_less_still(metadata: Path) -> None:
    """What only a process may do that does nothing else."""
    code = (
        f"import sys; sys.path += [{str(ROOT)!r}, '/usr/lib/python3/dist-packages']\n"
        "from thinsync_virt.cli.main import main\nmain()"
    )
    words = ["delta", "--metadata", str(metadata), "--base", "1", "--head", "2", "--json"]
    done = subprocess.run(
        ["/usr/bin/python3", "-IS", "-X", "importtime", "-c", code, *words],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.stdout.endswith("}\n") and "thinsync_virt.thin.delta" in modules
    assert not modules & {*HEAVY.split(), "collections", "ctypes"}


def test_collections_are_whole_afterwards() -> None:
    code = (
        f"import sys; sys.path.append({str(ROOT)!r})\n"
        "from thinsync_virt.cli import lean_array\n"
        "import os; before = {*sys.modules}; lean_array.load(); print(*{*sys.modules} - before)\n"
        "from array import array; import collections, collections.abc\n"
        "print(collections.Counter('aab')['a'], isinstance(array('Q'), collections.abc.MutableSequence))"
    )
    done = subprocess.run(["/usr/bin/python3", "-IS", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "array\n2 True\n"
