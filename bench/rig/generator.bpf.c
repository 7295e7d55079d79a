// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The load: run with BPF_F_TEST_XDP_LIVE_FRAMES, each frame leaves through a veth as if it came from a wire. The whole
 * frame is written anew, because pages are recycled and still carry what the receiver has made of them.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define FRAME_WORDS 8

/* The frame and the way out are filled by the bench before the run; `sent` counts, one CPU only. */
struct {
	__u64 frame[FRAME_WORDS];
	__u64 ifindex;
	__u64 sent;
} job;

SEC("xdp")
int generator(struct xdp_md *ctx)
{
	__u64 *data = (void *)(long)ctx->data;
	int i;

	if ((void *)(data + FRAME_WORDS) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
#pragma unroll
	for (i = 0; i < FRAME_WORDS; i++)
		data[i] = job.frame[i];
	job.sent++;
	return bpf_redirect(job.ifindex, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
