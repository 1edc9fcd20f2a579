"""A target's server process for tests, on files: python served_target.py ROOT DIRECTORY, with ROOT the source tree.

What LVM would know when it has ended is in DIRECTORY/volumes.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import cast

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])

import pytest

from tests.unit.endpoint.devices import FileLvm
from tests.unit.endpoint.test_target import make_target
from tests.unit.values import pool_report
from thinsync_virt.endpoint.target import reception
from thinsync_virt.endpoint.target.journal import TransferJournal
from thinsync_virt.remote.greeting import our_greeting
from thinsync_virt.remote.server import serve
from thinsync_virt.remote.target_server import ServedProver, target_handlers


def main(directory: Path) -> int:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reception, "RECORD_LEAST", 1)
        lvm = FileLvm.installed(directory, [pool_report().pool], patched)
        target = make_target(lvm, patched, journal=TransferJournal(directory / "transfers"))
        try:
            return serve(target_handlers(target, cast(ServedProver, object())), our_greeting("0.1.0", "beta"))
        finally:
            (directory / "volumes").write_bytes(pickle.dumps(lvm.stored))


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[2])))
