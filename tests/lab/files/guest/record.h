/* One record of the lab's writer; files/remote/records.py reads the same layout.
 *
 *   offset size
 *        0    8  magic "TSLABREC"
 *        8    4  slots in this disk's ring
 *       12    4  index of the disk in its domain (0 = vda)
 *       16    8  number, from 1
 *       24    8  time, nanoseconds since 1970
 *       32   16  boot id
 *       48   32  domain name, NUL-padded
 *       80  940  filler derived from the number
 *     1020    4  CRC-32 (zlib's) of everything before
 *
 * Record n lies in slot (n - 1) % slots: in the file "records" of a file system, or from RAW_START on a raw disk
 * whose first eight bytes are "TSLABRAW". All integers are little-endian.
 */
#include <stdint.h>

#define RECORD_SIZE 1024
#define SLOTS 16384
#define RAW_START (1 << 20)
#define MAGIC "TSLABREC"
#define RAW_LABEL "TSLABRAW"

struct record {
	char magic[8];
	uint32_t slots, disk;
	uint64_t number, time;
	uint8_t boot[16];
	char domain[32];
	uint8_t filler[940];
	uint32_t crc;
} __attribute__((packed));

_Static_assert(sizeof(struct record) == RECORD_SIZE, "layout");
