"""``thinsync-vm delta --metadata`` of what is neither a file nor a block device."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from thinsync_virt.cli.main import main


@pytest.mark.parametrize("kind", ["pipe", "socket", "directory", "terminal"])
def test_it_is_refused_and_not_waited_for(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "m")
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            listener.bind(path)
        elif kind == "directory":
            os.mkdir(path)
        else:
            path = "/dev/ptmx"
        with pytest.raises(SystemExit) as end:
            main(["delta", "--metadata", path, "--head", "1"])
    said = capfd.readouterr()
    assert end.value.code == 1
    assert path in said.err and "should not have happened" not in said.err and not said.out
