// SPDX-License-Identifier: Apache-2.0
/*
 * How long datagrams are under way: the sender writes the time into them, the receiver's kernel notes when they came
 * (SO_TIMESTAMPNS), so that nobody's waking up is measured but the forwarder's. Usage:
 * latency send IP PORT SECONDS RATE; latency receive PORT, which prints microseconds, p50 and p99, when its input ends.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST 1000000
#define SIZE 200
#define RECEIVE_BUFFER (64 << 20)

static long times[MOST];

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_REALTIME, &time);
	return time.tv_sec * 1000000000L + time.tv_nsec;
}

static int in_order(const void *a, const void *b)
{
	long left = *(const long *)a, right = *(const long *)b;

	return (left > right) - (left < right);
}

static int send_all(char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[3])) };
	long payload[SIZE / sizeof(long)] = { 0 }, start = now(), end = start + atof(argv[4]) * 1e9, due = start;
	double pause = 1e9 / atof(argv[5]);
	int fd = socket(AF_INET, SOCK_DGRAM, 0), sent = 0;

	if (fd < 0 || inet_pton(AF_INET, argv[2], &to.sin_addr) != 1)
		fail("socket");
	while (due < end) {
		long left = due - now();

		/* A sleep is late by its slack, so the last of it is spent waiting. */
		if (left > 200000)
			usleep((left - 100000) / 1000);
		while (now() < due)
			;
		payload[0] = now();
		sendto(fd, payload, SIZE, 0, (void *)&to, sizeof(to));
		due = start + ++sent * pause;
	}
	return 0;
}

static long age(int fd)
{
	char control[CMSG_SPACE(sizeof(struct timespec))];
	long payload[SIZE / sizeof(long)];
	struct iovec vector = { payload, sizeof(payload) };
	struct msghdr message = {
		.msg_iov = &vector,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct timespec came;

	if (recvmsg(fd, &message, MSG_DONTWAIT) != SIZE || !CMSG_FIRSTHDR(&message))
		return -1;
	memcpy(&came, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(came));
	return came.tv_sec * 1000000000L + came.tv_nsec - payload[0];
}

static int receive_all(int port)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0), on = 1, size = RECEIVE_BUFFER, count = 0;
	struct pollfd wait[2] = { { .fd = fd, .events = POLLIN }, { .fd = 0, .events = POLLIN } };

	if (setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on)) || bind(fd, (void *)&any, sizeof(any)))
		fail("bind");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	puts("ready");
	fflush(stdout);
	while (poll(wait, 2, -1) > 0 && !wait[1].revents) {
		long each;

		while (count < MOST && (each = age(fd)) >= 0)
			times[count++] = each;
	}
	qsort(times, count, sizeof(*times), in_order);
	printf("%d %.1f %.1f\n", count, times[count / 2] / 1e3, times[count * 99L / 100] / 1e3);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 6 && !strcmp(argv[1], "send"))
		return send_all(argv);
	if (argc == 3 && !strcmp(argv[1], "receive"))
		return receive_all(atoi(argv[2]));
	return 2;
}
