"""numpy without some of its parts compares and writes as it does with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.metadata_maker import make

ROOT = Path(__file__).parents[3]
# In a process of its own, all is compared by numpy, and its parts are named at the end.
CODE = """
import sys
sys.path.insert(0, {root!r})
from thinsync_virt.cli import lean_numpy
if {lean}: lean_numpy.leave_out()
from thinsync_virt.thin import delta, vectors
for name in [name for name in vars(delta) if name.startswith("_FEW_") and name != "_FEW_PARENTS"]:
    setattr(delta, name, -1)
from thinsync_virt.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    import numpy
    loaded = [name for name in lean_numpy._UNUSED if hasattr(sys.modules.get("numpy." + name), "__file__")]
    print(end.code, numpy.__version__, *loaded, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("metadata") / "m"
    make(path, 254_016, 0.1, clustered=False)
    return path


def run(metadata: Path, *shape: str, lean: bool) -> tuple[str, list[str]]:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            CODE.format(root=str(ROOT), lean=lean),
            *("delta", "--metadata", str(metadata), "--base", "1", "--head", "2", *shape),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr.splitlines()[-1].split()


@pytest.mark.parametrize("shape", [("--json",), ("--format", "thin-delta"), ()], ids=" ".join)
def test_the_same_answer(shape: tuple[str, ...], metadata: Path) -> None:
    lean, (status, *_) = run(metadata, *shape, lean=True)
    whole, _ = run(metadata, *shape, lean=False)
    assert status == "0" and lean == whole and lean


def test_what_is_not_loaded(metadata: Path) -> None:
    """Debian 12's numpy has all its parts of itself, or none of these; numpy 2 none in either case."""
    _, (_, version, *lean) = run(metadata, "--json", lean=True)
    _, (_, _, *whole) = run(metadata, "--json", lean=False)
    assert lean == ([] if version.startswith("1.24.") else whole)
    assert bool(whole) == version.startswith("1.")


def test_it_is_left_alone_where_it_is_already(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from thinsync_virt.cli.lean_numpy import leave_out

    monkeypatch.delitem(sys.modules, "numpy.random", raising=False)
    leave_out()
    assert "numpy.random" not in sys.modules and np.arange(3).sum() == 3
