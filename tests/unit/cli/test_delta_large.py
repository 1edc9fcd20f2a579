"""A difference large enough to be shared out to processes: the program as it is called."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench.metadata_maker import make
from thinsync_virt.system.metadata_reader import MetadataReader
from thinsync_virt.thin.blocks import BLOCK
from thinsync_virt.thin.metadata import ThinMetadata

ARGV = [sys.executable, "-m", "thinsync_virt.cli.main", "delta", "--base", "1", "--head", "2"]


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("metadata") / "m"
    make(path, 254_016, 0.1, clustered=False)
    with MetadataReader(str(path)) as reader:
        assert len(ThinMetadata(reader, metadata_snapshot=False).parts(1, 2)) > 2
    return path


def run(path: Path, *words: str, processors: int = 2) -> subprocess.CompletedProcess[str]:
    here = sorted(os.sched_getaffinity(0))[:processors]
    return subprocess.run(
        ["taskset", "-c", ",".join(map(str, here)), *ARGV, "--metadata", str(path), *words],
        capture_output=True,
        text=True,
        check=False,
    )


def test_as_thin_delta(metadata: Path) -> None:
    peer = subprocess.run(
        ["thin_delta", "--snap1", "1", "--snap2", "2", str(metadata)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    row = re.compile(r"<different begin=\"(\d+)\" length=\"(\d+)\"/>")
    expected = row.findall(peer)
    ours = run(metadata, "--format", "thin-delta")
    assert ours.returncode == 0 and row.findall(ours.stdout) == expected
    found = json.loads(run(metadata, "--json").stdout)
    chunk = found["chunk_size"]
    assert [(str(e["start"] // chunk), str(e["length"] // chunk)) for e in found["extents"]] == expected
    assert found["data"] == sum(e["length"] for e in found["extents"])


@pytest.mark.parametrize("shape", [["--json"], ["--format", "thin-delta"]])
def test_one_processor_or_two(shape: list[str], metadata: Path) -> None:
    one, two = (run(metadata, *shape, "--stats", processors=count) for count in (1, 2))
    assert (one.returncode, two.returncode) == (0, 0)
    assert one.stdout == two.stdout
    blocks = [re.findall(r"^\d+ metadata blocks read \(\d+ bytes\)", done.stderr) for done in (one, two)]
    assert len(blocks[0]) == 1 and blocks[0] == blocks[1]


def children(process: subprocess.Popen[bytes]) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(word) for word in path.read_text().split()]


@pytest.mark.parametrize("end", ["reader goes", "SIGTERM", "SIGINT"])
def test_no_process_is_left(end: str, metadata: Path) -> None:
    process = subprocess.Popen(
        [*ARGV, "--metadata", str(metadata), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(10) == b'{"extents"'
    workers = children(process)
    if end == "reader goes":
        process.stdout.close()
    else:
        process.send_signal(getattr(signal, end))
    status = process.wait()
    assert status == {"reader goes": 141, "SIGTERM": 143, "SIGINT": 130}[end]
    for _ in range(100):
        if not any(Path(f"/proc/{worker}").exists() for worker in workers):
            break
        time.sleep(0.05)
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    process.stdout.close()
    process.stderr.close()


def test_damage_in_a_part(metadata: Path, tmp_path: Path) -> None:
    """A bit in each of many blocks; whichever process meets one, it is named, and nothing ends well."""
    content = bytearray(metadata.read_bytes())
    for number in range(200, len(content) // BLOCK, 97):
        content[number * BLOCK + 1000] ^= 4
    path = tmp_path / "m"
    path.write_bytes(content)
    done = run(path, "--json")
    assert done.returncode == 8
    assert re.search(r"metadata block \d+ .*checksum", done.stderr) and "thin_check" in done.stderr
    assert "Traceback" not in done.stderr and '"chunk_size"' not in done.stdout
