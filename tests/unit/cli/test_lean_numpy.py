"""numpy's core alone compares and writes as all of numpy does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.metadata_maker import make
from thinsync_virt.cli import lean_numpy
from thinsync_virt.system.metadata_reader import MetadataReader
from thinsync_virt.thin.blocks import CheckedReader
from thinsync_virt.thin.superblock import read_trees
from thinsync_virt.thin.tree import device_root, parse_node

ROOT = Path(__file__).parents[3]
# In a process of its own all is compared by numpy, and which of its modules are there is told at the end.
CODE = """
import sys
sys.path.insert(0, {root!r})
from thinsync_virt.cli import lean_numpy
{before}
from thinsync_virt.thin import delta
for name in [name for name in vars(delta) if name.startswith("_FEW_") and name != "_FEW_PARENTS"]:
    setattr(delta, name, -1)
from thinsync_virt.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    loaded = [name for name in sys.modules if name.startswith("numpy")]
    print("status", end.code, *loaded, file=sys.stderr)
"""
LEAN = "lean_numpy.leave_out()"
WITHOUT_CORE = f"{LEAN}; lean_numpy._PLACES = ('gone',)"
WRONG_CORE = f"{LEAN}; lean_numpy._works = lambda np: False"


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("metadata") / "m"
    make(path, 254_016, 0.1, clustered=False)
    return path


def run(metadata: Path, *shape: str, before: str) -> tuple[str, str, list[str]]:
    """Output, what is said on standard error, status and numpy's modules."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            CODE.format(root=str(ROOT), before=before),
            *("delta", "--metadata", str(metadata), "--base", "1", "--head", "2", *shape),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    *said, last = done.stderr.splitlines()
    return done.stdout, "\n".join(said), last.split()[1:]


@pytest.mark.parametrize("shape", [("--json",), ("--format", "thin-delta"), ()], ids=" ".join)
def test_the_same_answer(shape: tuple[str, ...], metadata: Path) -> None:
    lean, _, (status, *_) = run(metadata, *shape, before=LEAN)
    whole, _, _ = run(metadata, *shape, before="import numpy")
    assert status == "0" and lean == whole and lean


def test_what_is_not_loaded(metadata: Path) -> None:
    """numpy 1 needs its core only; numpy 2's core imports a few small modules by itself."""
    lean = run(metadata, "--json", before=LEAN)[2]
    whole = run(metadata, "--json", before="import numpy")[2]
    assert any(name.endswith("._multiarray_umath") for name in lean)
    assert not {"numpy.lib", "numpy.linalg", "numpy.core.multiarray", "numpy._core.multiarray"} & {*lean}
    assert len(lean) < len(whole) / 4


@pytest.mark.parametrize("before", [WITHOUT_CORE, WRONG_CORE], ids=["without", "wrong"])
def test_all_of_numpy_where_its_core_alone_is_of_no_use(before: str, metadata: Path) -> None:
    found, said, (status, *modules) = run(metadata, "--json", before=before)
    assert status == "0" and not said and "numpy.lib" in modules
    assert found == run(metadata, "--json", before="import numpy")[0]


@pytest.mark.parametrize("before", [LEAN, "import numpy"], ids=["lean", "whole"])
def test_damage_is_named(before: str, metadata: Path, tmp_path: Path) -> None:
    """In what a forked process reads: a leaf that both devices do not share."""
    content = bytearray(metadata.read_bytes())
    with MetadataReader(str(metadata)) as reader:
        wanted = CheckedReader(reader)
        trees = read_trees(wanted, metadata_snapshot=False)
        number = device_root(wanted, trees.mapping_root, 2)
        for place in (5, 7):
            node = parse_node(wanted, number, bytes_of(content, number))
            number = int.from_bytes(bytes_of(content, number)[node.values_at + 8 * place :][:8], "little")
    content[number * 4096 + 100] ^= 1
    damaged = tmp_path / "m"
    damaged.write_bytes(content)
    _, said, (status, *_) = run(damaged, "--json", before=before)
    assert status not in ("0", "None") and f"metadata block {number} has a wrong checksum" in said


def bytes_of(content: bytearray, number: int) -> memoryview:
    return memoryview(content)[number * 4096 : (number + 1) * 4096]


def test_it_is_left_alone_where_it_is_already() -> None:
    import numpy as np

    lean_numpy.leave_out()
    assert sys.modules["numpy"] is np and np.arange(3).sum() == 3


def test_what_is_not_in_it_is_told() -> None:
    with pytest.raises(AttributeError, match="has no linalg"):
        lean_numpy._Core("numpy").linalg  # noqa: B018
