"""leak_block.py DEVICE OFFSET: mark one free data block as used, in a thin pool's metadata that nobody has open.

DEVICE holds the metadata from byte OFFSET on. What a power cut leaves between a commit and a mapping; layout as in the
kernel's dm-space-map-common.h and dm-thin-metadata.c.
"""

from __future__ import annotations

import os
import struct
import sys

from thinsync_virt.system.superblock import BLOCK, crc32c

SUPERBLOCK, NODE, BITMAP = 160774, 121107, 240779
ROOT_AT = 64

device, offset = os.open(sys.argv[1], os.O_RDWR), int(sys.argv[2])


def read(block: int) -> bytearray:
    return bytearray(os.pread(device, BLOCK, offset + block * BLOCK))


def write(block: int, content: bytearray, salt: int) -> None:
    content[:4] = struct.pack("<I", crc32c(bytes(content[4:])) ^ salt)
    os.pwrite(device, content, offset + block * BLOCK)


superblock = read(0)
blocks, used, bitmap_root, _counts = struct.unpack_from("<4Q", superblock, ROOT_AT)
index = read(bitmap_root)
(max_entries,) = struct.unpack_from("<I", index, 20)
entry_at = 32 + 8 * max_entries
bitmap_block, free, first_free = struct.unpack_from("<QII", index, entry_at)
bitmap = read(bitmap_block)
for number in range(min(blocks, (BLOCK - 16) * 4) - 1, -1, -1):
    byte, shift = 16 + number // 4, number % 4 * 2
    if bitmap[byte] >> shift & 3 == 0:
        bitmap[byte] |= 2 << shift
        break
else:
    sys.exit("no free block")
write(bitmap_block, bitmap, BITMAP)
struct.pack_into("<QII", index, entry_at, bitmap_block, free - 1, first_free)
write(bitmap_root, index, NODE)
struct.pack_into("<Q", superblock, ROOT_AT + 8, used + 1)
write(0, superblock, SUPERBLOCK)
os.fsync(device)
print(f"leaked data block {number}")
