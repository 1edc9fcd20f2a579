/* recorder DOMAIN PLACE...: the guest's writer. PLACE is fs:/mnt/vda or raw:/dev/vda, in the order of the disks.
 *
 * At its start it reads what every disk holds and prints one line:
 *   LAB-BOOT last=N per-disk=A,B,... torn=T missing=M boot=ID
 * Then it writes record n to the first disk and waits until it is on stable storage, then to the second, ..., then
 * record n + 1. At no instant may a later disk hold a record that an earlier one lacks, and the numbers of two disks
 * differ by at most one. It starts with the record after the last that every disk has.
 *
 * /run/recorder/pace: records per second, 0 to pause; read before each record.
 * /run/recorder/last: the last number that is on stable storage of every disk.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "record.h"

#define DISKS 32
#define BATCH 64

struct place {
	const char *name;
	int fd;
	off_t start;
	uint32_t slots;
	uint64_t last;
};

static struct place places[DISKS];
static int count;
static unsigned torn, missing;
static uint32_t crc_table[256];
static struct record *batch; /* BATCH records, aligned for O_DIRECT */

static void die(const char *what)
{
	fprintf(stderr, "LAB-ERROR recorder: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint32_t crc32(const void *data, size_t length)
{
	const uint8_t *byte = data;
	uint32_t crc = ~0u;

	while (length--)
		crc = crc_table[(crc ^ *byte++) & 255] ^ (crc >> 8);
	return ~crc;
}

static void make_crc_table(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;
		for (int k = 0; k < 8; k++)
			c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
		crc_table[i] = c;
	}
}

static void open_place(struct place *place, char *argument)
{
	char path[256];

	if (!strncmp(argument, "raw:", 4)) {
		place->name = argument + 4;
		place->start = RAW_START;
		place->fd = open(place->name, O_RDWR | O_DIRECT | O_DSYNC);
		if (place->fd < 0)
			die(place->name);
		off_t size = lseek(place->fd, 0, SEEK_END);
		off_t fits = (size - RAW_START) / RECORD_SIZE;
		place->slots = fits < SLOTS ? fits : SLOTS;
		if (fits < 2)
			die("disk too small");
		return;
	}
	place->name = argument + 3;
	snprintf(path, sizeof path, "%s/records", place->name);
	place->fd = open(path, O_RDWR | O_CREAT, 0644);
	if (place->fd < 0)
		die(path);
	place->slots = SLOTS;
}

/* Note the highest valid number, count broken slots and gaps. */
static void scan(struct place *place)
{
	static uint8_t present[SLOTS];
	uint64_t broken_slot[8] = { 0 };
	unsigned broken = 0;

	memset(present, 0, sizeof present);
	for (uint32_t slot = 0; slot < place->slots; slot += BATCH) {
		uint32_t want = place->slots - slot < BATCH ? place->slots - slot : BATCH;
		ssize_t got = pread(place->fd, batch, (size_t)want * RECORD_SIZE, place->start + (off_t)slot * RECORD_SIZE);
		if (got < 0)
			die(place->name);
		for (uint32_t i = 0; i < got / RECORD_SIZE; i++) {
			struct record *record = batch + i;
			static const struct record zero;
			if (!memcmp(record, &zero, RECORD_SIZE))
				continue;
			if (memcmp(record->magic, MAGIC, 8) || record->crc != crc32(record, RECORD_SIZE - 4)
			    || (record->number - 1) % place->slots != slot + i) {
				if (broken < 8)
					broken_slot[broken] = slot + i;
				broken++;
				continue;
			}
			present[slot + i] = 1;
			if (record->number > place->last)
				place->last = record->number;
		}
		if (got < (ssize_t)want * RECORD_SIZE)
			break;
	}
	/* A broken slot that the next record will take was in flight: that is no damage. */
	for (unsigned i = 0; i < broken && i < 8; i++)
		if (broken_slot[i] == place->last % place->slots) {
			broken--;
			break;
		}
	torn += broken;
	uint64_t first = place->last >= place->slots ? place->last - place->slots + 2 : 1;
	for (uint64_t n = first; n <= place->last; n++)
		missing += !present[(n - 1) % place->slots];
}

static void fill(struct record *record, uint64_t number)
{
	uint64_t x = number * 0x9e3779b97f4a7c15ull + 1;

	record->number = number;
	for (size_t i = 0; i + 8 <= sizeof record->filler; i += 8) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		memcpy(record->filler + i, &x, 8);
	}
}

static void put(struct place *place, uint32_t index, struct record *record)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	record->slots = place->slots;
	record->disk = index;
	record->time = now.tv_sec * 1000000000ull + now.tv_nsec;
	record->crc = crc32(record, RECORD_SIZE - 4);
	off_t at = place->start + (off_t)((record->number - 1) % place->slots) * RECORD_SIZE;
	if (pwrite(place->fd, record, RECORD_SIZE, at) != RECORD_SIZE)
		die(place->name);
	if (!place->start && fdatasync(place->fd))
		die(place->name);
	place->last = record->number;
}

static unsigned pace(int fd)
{
	char text[16];
	ssize_t got = pread(fd, text, sizeof text - 1, 0);

	if (got <= 0)
		return 0;
	text[got] = 0;
	return strtoul(text, NULL, 10);
}

static void parse_boot_id(uint8_t *id, char *text)
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY);
	ssize_t got = read(fd, text, 36);
	int nibble = 0;

	close(fd);
	text[got > 0 ? got : 0] = 0;
	for (char *c = text; *c && nibble < 32; c++) {
		if (*c == '-')
			continue;
		int value = *c <= '9' ? *c - '0' : *c - 'a' + 10;
		id[nibble / 2] = nibble % 2 ? id[nibble / 2] | value : value << 4;
		nibble++;
	}
}

int main(int argc, char **argv)
{
	char boot[40], text[32];
	struct record *record;
	uint64_t last = 0, common = UINT64_MAX;

	if (argc < 3 || argc - 2 > DISKS)
		die("usage");
	if (posix_memalign((void **)&batch, 4096, BATCH * RECORD_SIZE) || posix_memalign((void **)&record, 4096, 4096))
		die("memory");
	make_crc_table();
	memset(record, 0, RECORD_SIZE);
	memcpy(record->magic, MAGIC, 8);
	strncpy(record->domain, argv[1], sizeof record->domain - 1);
	parse_boot_id(record->boot, boot);
	count = argc - 2;
	for (int i = 0; i < count; i++) {
		open_place(&places[i], argv[i + 2]);
		scan(&places[i]);
		if (places[i].last > last)
			last = places[i].last;
		if (places[i].last < common)
			common = places[i].last;
	}
	printf("LAB-BOOT last=%llu per-disk=", (unsigned long long)last);
	for (int i = 0; i < count; i++)
		printf("%s%llu", i ? "," : "", (unsigned long long)places[i].last);
	printf(" torn=%u missing=%u boot=%s\n", torn, missing, boot);
	fflush(stdout);

	mkdir("/run/recorder", 0755);
	int pace_fd = open("/run/recorder/pace", O_RDONLY);
	int last_fd = open("/run/recorder/last", O_WRONLY | O_CREAT, 0644);
	for (uint64_t number = common + 1;; number++) {
		unsigned rate;
		while (!(rate = pace(pace_fd)))
			usleep(50000);
		fill(record, number);
		for (int i = 0; i < count; i++)
			put(&places[i], i, record);
		int length = snprintf(text, sizeof text, "%llu\n", (unsigned long long)number);
		if (pwrite(last_fd, text, length, 0) != length)
			die("last");
		usleep(1000000 / rate);
	}
}
