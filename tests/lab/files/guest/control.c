/* control PORT: run what the lab asks for over a virtio-serial port, agent or no agent; and heed the power button.
 *
 * Request:  "REQ <id> <seconds> <length>\n" and <length> bytes of shell.
 * Answer:   "\001RES <id> <status> <length>\n" and <length> bytes, the command's output (both streams).
 * A command that is not done in time is killed and answered with status 124; one that cannot be killed
 * (it waits for a frozen file system) is left behind, so that the port never falls silent.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LIMIT (1 << 20)

static int port;

static int read_byte(void)
{
	unsigned char byte;

	for (;;) {
		ssize_t got = read(port, &byte, 1);
		if (got == 1)
			return byte;
		if (got < 0 && errno != EINTR && errno != EAGAIN)
			exit(1);
		usleep(20000); /* end of file: nobody is connected at the other end */
	}
}

static void write_all(const char *data, size_t length)
{
	while (length) {
		ssize_t put = write(port, data, length);
		if (put > 0) {
			data += put;
			length -= put;
		} else {
			usleep(20000);
		}
	}
}

static int execute(const char *script, unsigned seconds, const char *output)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		int out = open(output, O_WRONLY | O_CREAT | O_TRUNC, 0600), null = open("/dev/null", O_RDONLY);
		setsid();
		dup2(null, 0);
		dup2(out, 1);
		dup2(out, 2);
		for (int fd = 3; fd < 64; fd++)
			close(fd);
		execl("/bin/sh", "sh", "-c", script, NULL);
		_exit(127);
	}
	for (time_t end = time(NULL) + seconds; time(NULL) <= end; usleep(10000))
		if (waitpid(pid, &status, WNOHANG) == pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	kill(-pid, SIGKILL);
	return 124;
}

static void serve(void)
{
	static char script[LIMIT], output[LIMIT];

	for (;;) {
		char line[128], id[64], head[128];
		unsigned seconds, length;
		size_t used = 0;
		int byte;

		while ((byte = read_byte()) != '\n')
			if (used < sizeof line - 1)
				line[used++] = byte;
		line[used] = 0;
		char *request = strstr(line, "REQ ");
		if (!request || sscanf(request, "REQ %63s %u %u", id, &seconds, &length) != 3 || length >= LIMIT)
			continue;
		for (unsigned i = 0; i < length; i++)
			script[i] = read_byte();
		script[length] = 0;

		int status = execute(script, seconds, "/run/control.out");
		int file = open("/run/control.out", O_RDONLY);
		ssize_t got = read(file, output, sizeof output);
		close(file);
		if (got < 0)
			got = 0;
		write_all(head, snprintf(head, sizeof head, "\001RES %s %d %zd\n", id, status, got));
		write_all(output, got);
	}
}

static void heed_power_button(void)
{
	char path[64];

	for (int i = 0; i < 8; i++) {
		snprintf(path, sizeof path, "/dev/input/event%d", i);
		int fd = open(path, O_RDONLY);
		if (fd < 0)
			continue;
		if (fork()) {
			close(fd);
			continue;
		}
		struct input_event event;
		while (read(fd, &event, sizeof event) == sizeof event)
			if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1)
				execl("/sbin/shutdown", "shutdown", NULL);
		exit(0);
	}
}

int main(int argc, char **argv)
{
	if (argc != 2 || (port = open(argv[1], O_RDWR)) < 0)
		return 1;
	heed_power_button();
	serve();
}
