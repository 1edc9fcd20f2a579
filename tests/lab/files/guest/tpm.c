/* tpm write TEXT | tpm read: 16 bytes of the TPM's non-volatile memory, by raw TPM 2.0 commands to /dev/tpm0.
 *
 * They stand for a guest's keys: the TPM keeps them over a power cut, and nothing on a disk does.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define INDEX 0x01500010
#define OWNER 0x40000001
#define LENGTH 16
#define ALREADY_DEFINED 0x14c

static unsigned char command[256], answer[4096];
static size_t used;

static void put(uint32_t value, int bytes)
{
	while (bytes--)
		command[used++] = value >> (8 * bytes);
}

static uint32_t get(const unsigned char *from)
{
	return (uint32_t)from[0] << 24 | from[1] << 16 | from[2] << 8 | from[3];
}

static void begin(uint32_t code)
{
	used = 0;
	put(0x8002, 2);
	put(0, 4);
	put(code, 4);
}

static void empty_password(void)
{
	put(9, 4);
	put(0x40000009, 4);
	put(0, 2);
	put(0, 1);
	put(0, 2);
}

/* The response code; 0xffffffff when there is no answer. */
static uint32_t transmit(void)
{
	int tpm = open("/dev/tpm0", O_RDWR);
	size_t length = used;

	used = 2;
	put(length, 4);
	if (tpm < 0 || write(tpm, command, length) != (ssize_t)length || read(tpm, answer, sizeof answer) < 10) {
		perror("/dev/tpm0");
		return 0xffffffff;
	}
	close(tpm);
	return get(answer + 6);
}

static uint32_t define(void)
{
	begin(0x12a);
	put(OWNER, 4);
	empty_password();
	put(0, 2);
	put(14, 2);
	put(INDEX, 4);
	put(0x000b, 2);
	put(0x02060006, 4); /* written and read by the owner or with the index's own, empty, password */
	put(0, 2);
	put(LENGTH, 2);
	return transmit();
}

static uint32_t store(const char *text)
{
	char data[LENGTH] = {0};

	strncpy(data, text, LENGTH - 1);
	begin(0x137);
	put(OWNER, 4);
	put(INDEX, 4);
	empty_password();
	put(LENGTH, 2);
	memcpy(command + used, data, LENGTH);
	used += LENGTH;
	put(0, 2);
	return transmit();
}

static uint32_t load(void)
{
	begin(0x14e);
	put(OWNER, 4);
	put(INDEX, 4);
	empty_password();
	put(LENGTH, 2);
	put(0, 2);
	return transmit();
}

int main(int argc, char **argv)
{
	uint32_t code;

	if (argc == 3 && !strcmp(argv[1], "write")) {
		code = define();
		if (!code || code == ALREADY_DEFINED)
			code = store(argv[2]);
	} else if (argc == 2 && !strcmp(argv[1], "read")) {
		code = load();
		if (!code)
			printf("%.*s\n", LENGTH, (char *)answer + 16);
	} else {
		fprintf(stderr, "usage: tpm write TEXT | tpm read\n");
		return 2;
	}
	if (code)
		fprintf(stderr, "TPM response %#x\n", code);
	return code != 0;
}
