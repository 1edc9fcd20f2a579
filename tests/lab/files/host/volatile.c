/*
 * Loaded into a node's kernel (user-mode Linux) with LD_PRELOAD: remembers what lay on its disks before each write since
 * the last flush, so that a power cut can take back what a disk's volatile cache had not written out.
 *
 * THINLAB_VOLATILE names the images, with ':' between them. Beside each lies IMAGE.undo (made here): a header, and two
 * halves with records. A write first appends where it goes and what was there, then goes to the image as ever: killed
 * at any moment, the image is what the node's kernel wrote, and volatile.py alone takes back what it wants. A flush
 * empties both halves. Where a half is full, the other one is emptied and used: the older writes count as written
 * out, as in a disk whose cache is full.
 *
 * Nothing of user-mode Linux (up to 7.2) turns a flush request into an fsync: its I/O thread takes requests from a
 * pipe, as pointers, and does nothing for one without data. That is how a flush is recognised here: a request whose count
 * of pieces is zero, at the moment it is read. Every write that the flush must cover was completed before it was
 * sent. There is no FUA: the kernel sends a flush after such a write. An fsync of the image counts as a flush too.
 *
 * The header's rate makes a disk of so many bytes a second of each image: volatile.py sets it while the node runs.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define HALF (32u << 20)
#define DATA 4096u /* where the first half begins */
#define IMAGES 8
#define DESCRIPTORS 1024
#define SECOND 1000000000ull
#define LATE 1000000ull /* ns that a disk may be ahead: a sleep for each small request would take longer than it */

struct header {
	char magic[8];
	uint64_t half;    /* bytes of each half */
	uint64_t used[2]; /* bytes with whole records */
	uint64_t current; /* 0 or 1: the half with the younger records */
	uint64_t flushes;
	uint64_t rate; /* bytes a second; 0: as fast as it goes */
};

struct record {
	uint64_t offset;
	uint64_t length; /* bytes that follow */
};

/* The beginning of ubd_kern.c's request, the same from Linux 5.0 on. */
struct request {
	void *block_request;
	int descriptors[2];
	unsigned long offsets[2];
	unsigned long long offset;
	int sector_size;
	int error;
	int pieces;
};

static struct { char path[PATH_MAX]; struct header *log; uint64_t free_at; } images[IMAGES];
static int count;
static signed char image_of[DESCRIPTORS]; /* 1 + index; 0: none of ours */
static long first_thread;

static int (*real_open64)(const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_read)(int, void *, size_t);
static ssize_t (*real_pread64)(int, void *, size_t, off64_t);
static ssize_t (*real_pwrite64)(int, const void *, size_t, off64_t);
static int (*real_fallocate64)(int, int, off64_t, off64_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);

static void fail(const char *what)
{
	dprintf(2, "volatile: %s: %s\n", what, strerror(errno));
	_exit(70);
}

static struct header *map_log(const char *image)
{
	char path[PATH_MAX + 8];
	size_t size = DATA + 2 * (size_t)HALF;
	snprintf(path, sizeof path, "%s.undo", image);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, size))
		fail(path);
	struct header *log = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (log == MAP_FAILED)
		fail(path);
	close(fd);
	log->half = HALF;
	memcpy(log->magic, "TLUNDO2", 8);
	return log;
}

static void resolve(void)
{
	real_open64 = dlsym(RTLD_NEXT, "open64");
	real_read = dlsym(RTLD_NEXT, "read");
	real_pread64 = dlsym(RTLD_NEXT, "pread64");
	real_pwrite64 = dlsym(RTLD_NEXT, "pwrite64");
	real_fallocate64 = dlsym(RTLD_NEXT, "fallocate64");
	real_fsync = dlsym(RTLD_NEXT, "fsync");
	real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
	real_close = dlsym(RTLD_NEXT, "close");
}

__attribute__((constructor)) static void start(void)
{
	if (!real_close)
		resolve();
	first_thread = syscall(SYS_gettid);
	const char *rest = getenv("THINLAB_VOLATILE");
	while (rest && *rest && count < IMAGES) {
		const char *end = strchrnul(rest, ':');
		if (end - rest >= PATH_MAX)
			fail("a path is too long");
		memcpy(images[count].path, rest, end - rest);
		images[count].log = map_log(images[count].path);
		count++;
		rest = *end ? end + 1 : end;
	}
}

static struct header *log_of(int fd)
{
	int index = fd >= 0 && fd < DESCRIPTORS ? image_of[fd] : 0;
	return index ? images[index - 1].log : NULL;
}

static uint64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * SECOND + time.tv_nsec;
}

/* A request of so many bytes ends when all before it and it itself have had their time. */
static void take_time(int fd, size_t size)
{
	struct header *log = log_of(fd);
	uint64_t rate = log ? __atomic_load_n(&log->rate, __ATOMIC_RELAXED) : 0;
	if (!rate)
		return;
	uint64_t begun = now(), *free_at = &images[image_of[fd] - 1].free_at;
	*free_at = (*free_at > begun ? *free_at : begun) + size * SECOND / rate;
	struct timespec until = { *free_at / SECOND, *free_at % SECOND };
	while (*free_at > begun + LATE && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		continue;
}

static void flushed(struct header *log)
{
	__atomic_store_n(&log->used[0], 0, __ATOMIC_RELEASE);
	__atomic_store_n(&log->used[1], 0, __ATOMIC_RELEASE);
	log->flushes++;
}

/* What lies at this place now; called before it changes. */
static void remember(struct header *log, int fd, uint64_t offset, uint64_t length)
{
	uint64_t needed = sizeof(struct record) + ((length + 7) & ~7ull);
	uint64_t half = log->current;
	if (needed > HALF) { /* no cache holds that */
		flushed(log);
		return;
	}
	if (log->used[half] + needed > HALF) {
		half ^= 1;
		__atomic_store_n(&log->used[half], 0, __ATOMIC_RELEASE);
		__atomic_store_n(&log->current, half, __ATOMIC_RELEASE);
	}
	char *place = (char *)log + DATA + half * HALF + log->used[half];
	struct record record = { offset, length };
	memcpy(place, &record, sizeof record);
	char *data = place + sizeof record;
	for (uint64_t done = 0; done < length;) {
		ssize_t got = pread(fd, data + done, length - done, offset + done);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			fail("reading what a write replaces");
		if (got == 0) { /* beyond the end */
			memset(data + done, 0, length - done);
			break;
		}
		done += got;
	}
	__atomic_store_n(&log->used[half], log->used[half] + needed, __ATOMIC_RELEASE);
}

int open64(const char *path, int flags, ...)
{
	va_list list;
	va_start(list, flags);
	int mode = va_arg(list, int);
	va_end(list);
	if (!real_close)
		resolve();
	int fd = real_open64(path, flags, mode);
	if (fd >= 0 && fd < DESCRIPTORS) {
		image_of[fd] = 0;
		for (int index = 0; index < count; index++)
			if (!strcmp(path, images[index].path))
				image_of[fd] = index + 1;
	}
	return fd;
}

int close(int fd)
{
	if (!real_close)
		resolve();
	if (fd >= 0 && fd < DESCRIPTORS)
		image_of[fd] = 0;
	return real_close(fd);
}

ssize_t read(int fd, void *buffer, size_t size)
{
	if (!real_close)
		resolve();
	ssize_t got = real_read(fd, buffer, size);
	/* Answers go back to the first thread, through a pipe of the same shape. */
	if (!count || got <= 0 || got % sizeof(void *) || size < 64 * sizeof(void *) || size % sizeof(void *) ||
	    syscall(SYS_gettid) == first_thread)
		return got;
	struct request **requests = buffer;
	for (size_t index = 0; index < got / sizeof(void *); index++) {
		struct header *log = log_of(requests[index]->descriptors[0]);
		if (log && requests[index]->pieces == 0)
			flushed(log);
	}
	return got;
}

ssize_t pread64(int fd, void *buffer, size_t size, off64_t offset)
{
	if (!real_close)
		resolve();
	take_time(fd, size);
	return real_pread64(fd, buffer, size, offset);
}

ssize_t pwrite64(int fd, const void *buffer, size_t size, off64_t offset)
{
	struct header *log = log_of(fd);
	if (!real_close)
		resolve();
	if (log)
		remember(log, fd, offset, size);
	take_time(fd, size);
	return real_pwrite64(fd, buffer, size, offset);
}

/* Discard and write-zeroes: only what holds data has something to be remembered. */
static int change_space(int fd, int mode, off64_t offset, off64_t length)
{
	struct header *log = log_of(fd);
	if (!real_close)
		resolve();
	off64_t end = offset + length;
	for (off64_t from = log ? offset : end; from < end;) {
		off64_t data = lseek64(fd, from, SEEK_DATA);
		if (data < 0 || data >= end)
			break;
		off64_t hole = lseek64(fd, data, SEEK_HOLE);
		if (hole < 0 || hole > end)
			hole = end;
		for (from = data; from < hole; from += 1 << 20)
			remember(log, fd, from, hole - from < 1 << 20 ? hole - from : 1 << 20);
		from = hole;
	}
	return real_fallocate64(fd, mode, offset, length);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
	return change_space(fd, mode, offset, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
	return change_space(fd, mode, offset, length);
}

int fsync(int fd)
{
	struct header *log = log_of(fd);
	if (!real_close)
		resolve();
	if (!log)
		return real_fsync(fd);
	flushed(log);
	return 0;
}

int fdatasync(int fd)
{
	struct header *log = log_of(fd);
	if (!real_close)
		resolve();
	if (!log)
		return real_fdatasync(fd);
	flushed(log);
	return 0;
}
