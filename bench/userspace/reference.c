// SPDX-License-Identifier: Apache-2.0
/*
 * The reference: what a good forwarder in C does without gathering. One recvmmsg, each datagram to the next downstream,
 * one sendmmsg. Usage: reference PORT IP:PORT...
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define BATCH 64
#define LARGEST 9000
#define RECEIVE_BUFFER (256 << 20)
#define MAX_DOWNSTREAMS 64

static char payloads[BATCH][LARGEST];
static struct iovec vectors[BATCH];
static struct mmsghdr messages[BATCH];
static struct sockaddr_in downstreams[MAX_DOWNSTREAMS];

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int open_listener(int port)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0), size = RECEIVE_BUFFER;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
		fail("socket");
	if (bind(fd, (void *)&any, sizeof(any)))
		fail("bind");
	return fd;
}

static struct sockaddr_in parse(char *text)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	char *colon = strrchr(text, ':');

	if (!colon)
		fail(text);
	*colon = '\0';
	address.sin_port = htons(atoi(colon + 1));
	if (inet_pton(AF_INET, text, &address.sin_addr) != 1)
		fail(text);
	return address;
}

int main(int argc, char **argv)
{
	int in = open_listener(atoi(argv[1])), out = socket(AF_INET, SOCK_DGRAM, 0);
	int count = argc - 2, next = 0, received, sent, i;

	for (i = 0; i < count; i++)
		downstreams[i] = parse(argv[2 + i]);
	for (i = 0; i < BATCH; i++) {
		vectors[i].iov_base = payloads[i];
		messages[i].msg_hdr.msg_iov = &vectors[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	puts("ready");
	fflush(stdout);
	for (;;) {
		for (i = 0; i < BATCH; i++) {
			vectors[i].iov_len = LARGEST;
			messages[i].msg_hdr.msg_name = NULL;
			messages[i].msg_hdr.msg_namelen = 0;
		}
		received = recvmmsg(in, messages, BATCH, MSG_WAITFORONE, NULL);
		if (received < 0)
			fail("recvmmsg");
		for (i = 0; i < received; i++) {
			vectors[i].iov_len = messages[i].msg_len;
			messages[i].msg_hdr.msg_name = &downstreams[next];
			messages[i].msg_hdr.msg_namelen = sizeof(downstreams[next]);
			if (++next == count)
				next = 0;
		}
		for (i = 0; i < received; i += sent > 0 ? sent : 1)
			sent = sendmmsg(out, &messages[i], received - i, 0);
	}
}
