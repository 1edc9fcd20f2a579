"""Thin-pool metadata in files, as ``thin_restore`` writes it from a model; no device-mapper is needed."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from thinsync_virt.model.extents import Extent, ExtentKind
from thinsync_virt.system.superblock import BLOCK, seal_superblock

Device = Mapping[int, tuple[int, int]]
"""Virtual chunk -> (data block, time)."""

_METADATA_BYTES = 8 << 20
# Beyond what thin_restore writes for these small pools.
_HELD_BLOCK = 2000


def write_metadata(
    path: Path, devices: Mapping[int, Device], *, chunk: int = 65536, held: bool = False
) -> None:
    """A metadata file with these devices. ``held``: with a metadata snapshot of that state, live tree the same."""
    path.write_bytes(bytes(_METADATA_BYTES))
    xml = path.with_suffix(".xml")
    xml.write_text(_xml(devices, chunk))
    subprocess.run(["thin_restore", "-q", "-i", str(xml), "-o", str(path)], check=True, capture_output=True)
    if held:
        with path.open("r+b") as file:
            block = bytearray(file.read(BLOCK))
            file.seek(_HELD_BLOCK * BLOCK)
            file.write(block)
            block[56:64] = _HELD_BLOCK.to_bytes(8, "little")
            file.seek(0)
            file.write(seal_superblock(bytes(block)))


def _xml(devices: Mapping[int, Device], chunk: int) -> str:
    lines = [
        f'<superblock uuid="" time="9" transaction="7" data_block_size="{chunk // 512}" nr_data_blocks="100000">'
    ]
    for thin_id, device in sorted(devices.items()):
        lines.append(
            f'<device dev_id="{thin_id}" mapped_blocks="{len(device)}" transaction="1" creation_time="1" snap_time="2">'
        )
        lines += [
            f'<single_mapping origin_block="{virtual}" data_block="{data}" time="{time}"/>'
            for virtual, (data, time) in sorted(device.items())
        ]
        lines.append("</device>")
    return "\n".join([*lines, "</superblock>"])


def expected_mappings(device: Device, chunk: int = 65536) -> list[Extent]:
    """All of a device, chunk by chunk."""
    return [Extent(virtual * chunk, chunk, ExtentKind.DATA) for virtual in sorted(device)]


def expected_difference(base: Device, head: Device, chunk: int = 65536) -> list[Extent]:
    """What makes head of base, chunk by chunk. An equal data block of another time is no difference."""
    found = []
    for virtual in sorted({*base, *head}):
        if virtual not in head:
            found.append(Extent(virtual * chunk, chunk, ExtentKind.UNMAPPED))
        elif virtual not in base or base[virtual][0] != head[virtual][0]:
            found.append(Extent(virtual * chunk, chunk, ExtentKind.DATA))
    return found
