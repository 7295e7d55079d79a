// SPDX-License-Identifier: Apache-2.0
/*
 * The load: datagrams at a rate or as fast as they go, from one source or from many in turn. Usage:
 * flood IP PORT SECONDS RATE SOURCES SMALLEST LARGEST. Prints how many left. RATE 0 is flat out; datagrams of one size
 * and source then leave 32 at a time in one buffer (UDP_SEGMENT), so that the sender is never the narrow place.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 32
#define LARGEST 9000
#define FIRST_PORT 20000
#define MAX_SOURCES 4096
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

static char payload[BATCH * LARGEST];
static int sources[MAX_SOURCES];
static struct iovec vectors[BATCH];
static struct mmsghdr messages[BATCH];

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static int open_source(int index, struct sockaddr_in *to)
{
	struct sockaddr_in from = { .sin_family = AF_INET, .sin_port = htons(FIRST_PORT + index) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0 || bind(fd, (void *)&from, sizeof(from)) || connect(fd, (void *)to, sizeof(*to)))
		fail("source");
	return fd;
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	double seconds, rate, start, end;
	int count, smallest, largest, segment, turn = 0, sent, i;
	long total = 0;

	if (argc != 8 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1)
		return 2;
	to.sin_port = htons(atoi(argv[2]));
	seconds = atof(argv[3]);
	rate = atof(argv[4]);
	count = atoi(argv[5]);
	smallest = atoi(argv[6]);
	largest = atoi(argv[7]);
	segment = rate == 0 && count == 1 && smallest == largest;
	for (i = 0; i < count; i++)
		sources[i] = open_source(i, &to);
	if (segment && setsockopt(sources[0], SOL_UDP, UDP_SEGMENT, &smallest, sizeof(smallest)))
		fail("UDP_SEGMENT");
	for (i = 0; i < BATCH; i++) {
		vectors[i].iov_base = payload;
		messages[i].msg_hdr.msg_iov = &vectors[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	srand(1);
	for (start = now(), end = start + seconds; now() < end;) {
		struct timespec pause = { .tv_nsec = 200 * 1000 };

		if (rate && total >= rate * (now() - start)) {
			nanosleep(&pause, NULL);
			continue;
		}
		if (segment) {
			total += send(sources[0], payload, BATCH * smallest, 0) > 0 ? BATCH : 0;
			continue;
		}
		if (count > 1) {
			int size = smallest + (largest > smallest ? rand() % (largest - smallest + 1) : 0);

			total += send(sources[turn], payload, size, 0) >= 0;
			turn = (turn + 1) % count;
			continue;
		}
		for (i = 0; i < BATCH; i++)
			vectors[i].iov_len = smallest + (largest > smallest ? rand() % (largest - smallest + 1) : 0);
		sent = sendmmsg(sources[0], messages, BATCH, 0);
		total += sent > 0 ? sent : 0;
	}
	printf("%ld %.6f\n", total, now() - start);
	return 0;
}
