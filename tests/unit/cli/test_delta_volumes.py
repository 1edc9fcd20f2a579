"""``thinsync-vm delta VG/LV1 VG/LV2``: what is read of a live pool, and when it is let go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.contract.mappings.metadata import write_metadata
from thinsync_virt.cli import bulk_output
from thinsync_virt.cli.main import main
from thinsync_virt.endpoint import mappings
from thinsync_virt.system import lvm
from thinsync_virt.system.metadata_reader import MetadataReader
from thinsync_virt.thin.metadata import ThinMetadata

CHUNK = 65536
SIZE = 9 * CHUNK + 512


class Host:
    """Two volumes, one in a pool that the test says; whether the pool's metadata is held."""

    def __init__(self, path: Path, pool: str) -> None:
        self.path = path
        self.pool_of_head = pool
        self.held = False
        self.written: list[bool] = []

    def volume(self, name: object) -> SimpleNamespace:
        head = str(name).endswith("tuesday")
        return SimpleNamespace(
            name=name, pool=self.pool_of_head if head else "vg0/pool", thin_id=2 if head else 1, size=SIZE
        )

    def pool(self, name: object) -> object:
        return name

    @contextmanager
    def open(self, _: object) -> Iterator[ThinMetadata]:
        self.held = True
        with MetadataReader(str(self.path)) as reader:
            yield ThinMetadata(reader, metadata_snapshot=True)
        self.held = False


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    path = tmp_path / "m"
    # Of head, chunk 9 hangs over the volume's end and 20 lies beyond it.
    head = {1: (11, 1), 5: (70, 4), 9: (71, 4), 20: (72, 4)}
    write_metadata(path, {1: {1: (11, 1), 3: (12, 1)}, 2: head}, held=True)
    found = Host(path, "vg0/pool")
    monkeypatch.setattr(lvm, "Lvm", lambda: found)
    monkeypatch.setattr(mappings, "OwnOpener", lambda: found)
    write = bulk_output._write_all

    def written(text: memoryview) -> None:
        found.written.append(found.held)
        write(text)

    monkeypatch.setattr(bulk_output, "_write_all", written)
    return found


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["delta", "vg0/monday", "vg0/tuesday", *words])
    assert isinstance(end.value.code, int)
    return end.value.code


def test_clipped_and_let_go_before_it_is_written(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "--stats") == 0
    said = capfd.readouterr()
    found = json.loads(said.out)
    assert [(e["start"], e["length"], e["kind"]) for e in found["extents"]] == [
        (3 * CHUNK, CHUNK, "unmapped"),
        (5 * CHUNK, CHUNK, "data"),
        (9 * CHUNK, 512, "data"),
    ]
    assert (found["size"], found["data"], found["unmapped"]) == (SIZE, CHUNK + 512, CHUNK)
    assert "metadata blocks read" in said.err
    assert host.written == [False]


def test_the_shape_of_thin_delta_counts_whole_chunks(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--format", "thin-delta") == 0
    rows = [line.strip() for line in capfd.readouterr().out.splitlines() if "begin" in line]
    assert rows == [
        '<left_only begin="3" length="1"/>',
        '<different begin="5" length="1"/>',
        '<different begin="9" length="1"/>',
    ]


def test_for_people(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    first = capfd.readouterr().out.splitlines()[0]
    assert first.startswith("64.5 KiB of other data, 64.0 KiB unmapped, in 3 ranges of 576.5 KiB")


def test_of_two_pools(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    host.pool_of_head = "vg0/other"
    assert run() == 2
    said = capfd.readouterr()
    assert "vg0/tuesday in vg0/other" in said.err and not said.out and not host.written
