"""``thinsync-vm delta VG/LV1 VG/LV2``: what is read of a live pool, and when it is let go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.mappings.metadata import write_metadata
from tests.unit.values import pool_report, volume
from thinsync_virt.cli import bulk_output, delta_volumes
from thinsync_virt.cli.main import main
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.volumes import ThinVolume
from thinsync_virt.system.lvm import Inventory
from thinsync_virt.system.metadata_reader import MetadataReader
from thinsync_virt.thin.metadata import ThinMetadata

CHUNK = 65536
SIZE = 9 * CHUNK + 512
TRANSACTION = 7
"""Of the metadata that ``write_metadata`` writes."""


class Host:
    """Two volumes, one in a pool that the test says; whether the pool's metadata is held."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.base = volume("monday", thin_id=1, size=SIZE)
        self.head = volume("tuesday", thin_id=2, size=SIZE)
        self.transactions = [TRANSACTION]
        self.held = False
        self.written: list[bool] = []

    def inventory(self, vg: str | None = None) -> Inventory:
        transaction = self.transactions.pop(0) if len(self.transactions) > 1 else self.transactions[0]
        pools = [pool_report(one.pool, transaction_id=transaction).pool for one in self.volumes]
        return Inventory(self.volumes, tuple(pools), (), ())

    @property
    def volumes(self) -> tuple[ThinVolume, ThinVolume]:
        return self.base, self.head

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
    found = Host(path)
    monkeypatch.setattr(delta_volumes, "Lvm", lambda: found)
    monkeypatch.setattr(delta_volumes, "OwnOpener", lambda: found)
    monkeypatch.setattr(delta_volumes, "_PAUSE_SECONDS", 0)
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
    host.head = replace(host.head, pool=VolumeName("vg0", "other"))
    assert run() == 2
    said = capfd.readouterr()
    assert "vg0/tuesday in vg0/other" in said.err and not said.out and not host.written


def test_past_the_end_of_a_smaller_base_all_is_taken_of_the_head(
    host: Host, capfd: pytest.CaptureFixture[str]
) -> None:
    """A mapping past the end of a volume that was shrunk comes back when it grows: what had the base there?"""
    shared = {1: (11, 1), 6: (50, 1)}
    write_metadata(host.path, {1: shared, 2: shared | {9: (71, 4), 20: (72, 4)}}, held=True)
    host.base = replace(host.base, size=4 * CHUNK + 512)
    assert run("--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert [(e["start"], e["length"], e["kind"]) for e in found["extents"]] == [
        (4 * CHUNK, 2 * CHUNK, "unmapped"),
        (6 * CHUNK, CHUNK, "data"),
        (7 * CHUNK, 2 * CHUNK, "unmapped"),
        (9 * CHUNK, 512, "data"),
    ]
    assert (found["data"], found["unmapped"]) == (CHUNK + 512, 4 * CHUNK)


@pytest.mark.parametrize("side", ["base", "head"])
def test_an_external_origin_is_refused(host: Host, side: str, capfd: pytest.CaptureFixture[str]) -> None:
    setattr(host, side, replace(getattr(host, side), external_origin="golden"))
    assert run("--json") != 0
    said = capfd.readouterr()
    assert json.loads(said.out)["error"]["code"] == "not-replicable" and "golden" in said.out


def test_ids_count_at_one_transaction_only(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    """LVM is half-way through a command at first; then its ids are not the pool's."""
    host.transactions = [TRANSACTION + 1, TRANSACTION - 1, TRANSACTION]
    assert run("--json") == 0
    assert json.loads(capfd.readouterr().out)["extents"] and not host.held
    # Somebody makes one snapshot after another.
    host.transactions = [*range(TRANSACTION + 1, TRANSACTION + 9), TRANSACTION]
    assert run("--json") == 0
    assert json.loads(capfd.readouterr().out)["extents"] and not host.held
    host.transactions = [TRANSACTION + 1]
    assert run() == 8
    said = capfd.readouterr()
    assert "transaction id is 8, the kernel's 7" in said.err and "thinsync-vm recover" in said.err
    assert not said.out and not host.held
