"""What the small process that starts the others tells of them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.bench import phases
from tests.bench.measure import FailedError, Spawner, in_turn
from tests.bench.programs import PYTHON, Program

_MIB = 1 << 20


def test_memory_of_all_processes_together(tmp_path: Path) -> None:
    """Two children with 60 MiB each, one after the other forked, at the same time: until they were looked at."""
    script = tmp_path / "many.py"
    script.write_text(
        "import os, re, time\n"
        "def looks():\n"
        "    # Whoever measures us sleeps between two looks.\n"
        "    with open(f'/proc/{os.getppid()}/status') as file:\n"
        "        return int(re.search(r'^voluntary_ctxt_switches:\\s*(\\d+)', file.read(), re.M)[1])\n"
        "go_on = os.pipe()\n"
        "for _ in range(2):\n"
        "    ready = os.pipe()\n"
        "    if not os.fork():\n"
        f"        held = bytearray(os.urandom(1)) * (60 * {_MIB})\n"
        "        os.write(ready[1], b'x')\n"
        "        os.close(go_on[1])\n"
        "        os.read(go_on[0], 1)\n"
        "        os._exit(0)\n"
        "    os.read(ready[0], 1)\n"
        "end = time.monotonic() + 0.3\n"
        "upto = looks() + 20\n"
        "while looks() < upto or time.monotonic() < end: time.sleep(0.01)\n"
        "os.close(go_on[1])\n"
        "for _ in range(2): os.wait()\n"
    )
    ballast = bytearray(os.urandom(1)) * (200 * _MIB)
    with Spawner() as spawner:
        alone = spawner.run([PYTHON, "-IS", "-c", "pass"], stderr=tmp_path / "e")
        cost = spawner.run([PYTHON, "-IS", str(script)], stderr=tmp_path / "e", sample=True)
    assert 120 * 1024 <= cost.memory < 170 * 1024
    # What this process holds is not counted for those that it has measured.
    assert len(ballast) > 100 * _MIB > 1024 * alone.memory
    assert cost.wall >= 0.3 and cost.cpu > 0


def test_failures_are_told(tmp_path: Path) -> None:
    with Spawner() as spawner:
        with pytest.raises(FailedError, match=r"ended with status 3: oh\?$"):
            spawner.run(["/bin/sh", "-c", "echo 'oh?' >&2; exit 3"], stderr=tmp_path / "e")
        with pytest.raises(FailedError, match="status -9"):
            spawner.run(["/bin/sh", "-c", "kill -9 $$"], stderr=tmp_path / "e")
        assert (
            spawner.run(["/bin/sh", "-c", "echo $0"], stdout=tmp_path / "o", stderr=tmp_path / "e").wall > 0
        )
        assert (tmp_path / "o").read_text() == "/bin/sh\n"
        with pytest.raises(FailedError, match="/nowhere/at/all"):
            spawner.run(["/nowhere/at/all"], stderr=tmp_path / "e")


def test_in_turn(tmp_path: Path) -> None:
    log = tmp_path / "log"
    echo = shutil.which("sh") or "/bin/sh"
    programs = [
        Program(name, (1,), (echo, "-c", f"echo {name} >> {log}; : # $@", "sh")) for name in ("a", "b", "c")
    ]
    with Spawner() as spawner:
        costs = in_turn(spawner, programs, tmp_path / "m", [1, 2, 3], rounds=3, cold=False, scratch=tmp_path)
    assert log.read_text().split() == [*"abc", *"cba", *"abc"]
    assert [len(cost.walls) for cost in costs] == [3, 3, 3]
    assert [cost.memory for cost in costs] == [1, 2, 3]
    assert all(cost.wall == sorted(cost.walls)[1] for cost in costs)


def test_phases(tmp_path: Path) -> None:
    """Time is put down to what was done in it, also in a forked worker that ends at once.

    Each spends 0.05 s of the processor, or what the machine makes of it: a moment stolen by others counts too.
    """
    package = tmp_path / "thinsync_virt"
    spend = (
        "import time\n"
        "def spend():\n"
        "    begun = now = time.process_time()\n"
        "    while now < begun + 0.05: now = time.process_time()\n"
        "    with open(__file__ + '.spent', 'w') as file: file.write(str(now - begun))\n"
    )
    modules = {
        "read": "system/metadata_reader",
        "check": "thin/blocks",
        "compare": "thin/vectors",
        "text": "cli/delta_rows",
    }
    for name in modules.values():
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(spend)
    (package / "__init__.py").touch()
    counters = tmp_path / "counters"
    counters.write_bytes(bytes(phases.SIZE))
    root = Path(phases.__file__).resolve().parents[2]
    script = tmp_path / "main.py"
    script.write_text(
        f"import os, sys\nsys.path[:0] = [{str(tmp_path)!r}, {str(root)!r}]\n"
        f"from tests.bench.phases import begin\nbegin({str(counters)!r}, {str(tmp_path)!r})\n"
        "from thinsync_virt.thin import blocks, vectors\n"
        "from thinsync_virt.system import metadata_reader\n"
        "from thinsync_virt.cli import delta_rows\n"
        "blocks.spend()\n"
        "metadata_reader.spend()\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    vectors.spend(); delta_rows.spend(); os._exit(0)\n"
        "os.waitpid(pid, 0)\n"
    )
    with Spawner() as spawner:
        spawner.run([PYTHON, "-IS", str(script)], stderr=tmp_path / "e")
    found = phases.read_sums(counters.read_bytes())
    assert found["start"] > 0
    for phase, name in modules.items():
        spent = float((package / f"{name}.py.spent").read_text())
        assert found[phase] == pytest.approx(spent, abs=0.025), phase


def test_spawner_is_lean() -> None:
    """What it holds is the least that it can report of others."""
    assert sys.modules.get("tests.bench.spawner") is None
    with Spawner() as spawner:
        status = Path(f"/proc/{spawner.pid}/status").read_text()
    (peak,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    assert peak < 16 * 1024
