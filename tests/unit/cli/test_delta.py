"""``thinsync-vm delta`` on a copy of a pool's metadata: the whole program, as it is called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.contract.mappings.metadata import Device, write_metadata

CHUNK = 65536
BASE: Device = {0: (10, 1), 1: (11, 1), 2: (12, 1), 9: (50, 2), 400: (60, 2)}
HEAD: Device = {0: (10, 1), 1: (11, 3), 2: (70, 4), 3: (71, 4), 7: (72, 4), 400: (60, 2)}
EXPECTED = [
    {"start": 2 * CHUNK, "length": 2 * CHUNK, "kind": "data"},
    {"start": 7 * CHUNK, "length": CHUNK, "kind": "data"},
    {"start": 9 * CHUNK, "length": CHUNK, "kind": "unmapped"},
]


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("metadata") / "m"
    write_metadata(path, {1: BASE, 2: HEAD, 3: {}})
    return path


def delta(*words: str | Path, columns: int = 80) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "thinsync_virt.cli.main", "delta", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": str(columns)},
    )


def test_json(metadata: Path) -> None:
    done = delta("--metadata", metadata, "--base", "1", "--head", "2", "--json")
    found = json.loads(done.stdout)
    assert found["extents"] == EXPECTED
    assert (found["base"], found["head"], found["chunk_size"]) == (1, 2, CHUNK)
    assert (found["data"], found["unmapped"]) == (3 * CHUNK, CHUNK)


def test_nothing_differs(metadata: Path) -> None:
    done = delta("--metadata", metadata, "--base", "2", "--head", "2", "--json")
    assert json.loads(done.stdout)["extents"] == []
    assert "0 B of other data" in delta("--metadata", metadata, "--base", "2", "--head", "2").stdout


def test_all_mappings_without_a_base(metadata: Path) -> None:
    found = json.loads(delta("--metadata", metadata, "--head", "1", "--json").stdout)
    assert found["base"] is None
    assert [(e["start"] // CHUNK, e["length"] // CHUNK) for e in found["extents"]] == [
        (0, 3),
        (9, 1),
        (400, 1),
    ]


def test_the_shape_of_thin_delta(metadata: Path) -> None:
    """Ranges of data and of nothing, as a program that reads thin_delta's output takes them from both."""

    def read(text: str) -> tuple[dict[str, str], list[tuple[str, int]]]:
        root = ElementTree.fromstring(text)
        kinds = {"different": "data", "right_only": "data", "left_only": "unmapped"}
        chunks = [
            (kinds[range_.tag], chunk)
            for range_ in root[0]
            if range_.tag in kinds
            for chunk in range(
                int(range_.attrib["begin"]), int(range_.attrib["begin"]) + int(range_.attrib["length"])
            )
        ]
        return {"block": root.attrib["data_block_size"], **root[0].attrib}, chunks

    ours = delta("--metadata", metadata, "--base", "1", "--head", "2", "--format", "thin-delta").stdout
    peer = subprocess.run(
        ["thin_delta", "--snap1", "1", "--snap2", "2", str(metadata)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert read(ours) == read(peer)


def test_for_people(metadata: Path) -> None:
    done = delta("--metadata", metadata, "--base", "1", "--head", "2", "--stats", columns=60)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("192.0 KiB of other data, 64.0 KiB unmapped, in 3 ranges")
    assert len(lines[1]) == 60 and lines[1].startswith("|") and set(lines[1]) - {"|", " "}
    assert "metadata blocks read" in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("--metadata", "/nonexistent", "--head", "1"), 3, "/nonexistent"),
        (("--metadata", "METADATA", "--head", "9"), 3, "no thin device 9"),
        (("--metadata", "METADATA", "--base", "9", "--head", "1"), 3, "no thin device 9"),
        (("--metadata", "METADATA"), 2, "--head is missing"),
        (("--metadata", "METADATA", "--head", "1", "--metadata-snap"), 8, "no metadata snapshot"),
        (("--metadata", "/dev/null", "--head", "1"), 1, "/dev/null"),
        (("--metadata", "METADATA", "vg0/a", "vg0/b"), 2, "exclude each other"),
        (("--metadata", "", "--head", "1"), 2, "names no file"),
        (("vg0/a",), 2, "name two volumes"),
        (
            ("--metadata", "METADATA", "--head", "1", "--json", "--format", "thin-delta"),
            2,
            "two different shapes",
        ),
        (("--metadata", "METADATA", "--head", "-1"), 2, "-1"),
    ],
)
def test_what_is_wrong_is_said(metadata: Path, words: tuple[str, ...], status: int, says: str) -> None:
    done = delta(*(str(metadata) if word == "METADATA" else word for word in words))
    assert done.returncode == status, done
    assert says in done.stderr and "Traceback" not in done.stderr
    # click's own messages stand below its usage, and have none.
    assert "what to do: " in done.stderr or "Usage: " in done.stderr
    assert not done.stdout or "error" in json.loads(done.stdout)


def test_a_file_that_is_no_metadata(tmp_path: Path) -> None:
    for content in (b"", b"x", bytes(4096), os.urandom(40960)):
        path = tmp_path / "f"
        path.write_bytes(content)
        done = delta("--metadata", path, "--head", "1")
        assert done.returncode == 8, done
        assert "Traceback" not in done.stderr and "what to do" in done.stderr


def test_it_imports_only_what_it_needs(metadata: Path) -> None:
    code = (
        "import sys; from thinsync_virt.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print(sorted({'numpy', 'rich', 'libvirt', 'lxml', 'subprocess'} & set(sys.modules)))"
    )
    words = ["delta", "--metadata", str(metadata), "--base", "1", "--head", "2", "--json"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
