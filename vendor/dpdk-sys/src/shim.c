/* Symbols for what DPDK has only inline; see shim.h. */
#define _GNU_SOURCE
#include "shim.h"

#include <stdio.h>
#include <string.h>

#include <rte_log.h>

static iibd_log_line log_line;

/* DPDK flushes its stream after each message, so one call is one message. */
static ssize_t log_write(void *cookie, const char *text, size_t bytes)
{
	size_t left = bytes;

	(void)cookie;
	while (left > 0 && (text[left - 1] == '\n' || text[left - 1] == '\r'))
		left--;
	if (left > 0)
		log_line((uint32_t)rte_log_cur_msg_loglevel(), text, left);
	return (ssize_t)bytes;
}

int iibd_open_log(iibd_log_line line)
{
	cookie_io_functions_t functions = { .write = log_write };
	FILE *stream;

	log_line = line;
	stream = fopencookie(NULL, "w", functions);
	if (stream == NULL)
		return -1;
	return rte_openlog_stream(stream);
}

int iibd_errno(void)
{
	return rte_errno;
}

uint32_t iibd_lcore_id(void)
{
	return rte_lcore_id();
}

int iibd_link(uint16_t port, uint32_t *mbit_per_s)
{
	struct rte_eth_link link;

	memset(&link, 0, sizeof(link));
	if (rte_eth_link_get_nowait(port, &link) != 0)
		return 0;
	*mbit_per_s = link.link_speed;
	return link.link_status == RTE_ETH_LINK_UP;
}

static void describe(struct iibd_received *frame, struct rte_mbuf *mbuf)
{
	const struct rte_mbuf *segment;
	uint32_t held = 0;

	for (segment = mbuf; segment != NULL; segment = segment->next)
		held += segment->buf_len;
	frame->mbuf = mbuf;
	frame->data = rte_pktmbuf_mtod(mbuf, const uint8_t *);
	frame->flags = mbuf->ol_flags;
	frame->frame_bytes = mbuf->pkt_len;
	frame->held_bytes = held;
	frame->head_bytes = mbuf->data_len;
}

#define BURST_MAX 64

uint16_t iibd_receive(uint16_t port, uint16_t queue,
		      struct iibd_received *frames, uint16_t max)
{
	struct rte_mbuf *mbufs[BURST_MAX];
	uint16_t count, i;

	count = rte_eth_rx_burst(port, queue, mbufs, max < BURST_MAX ? max : BURST_MAX);
	for (i = 0; i < count; i++)
		rte_prefetch0(rte_pktmbuf_mtod(mbufs[i], const void *));
	for (i = 0; i < count; i++)
		describe(&frames[i], mbufs[i]);
	return count;
}

int iibd_gather(struct iibd_received *frame, uint32_t bytes)
{
	struct rte_mbuf *head = frame->mbuf;

	if (bytes > head->pkt_len)
		bytes = head->pkt_len;
	while (head->data_len < bytes && head->next != NULL) {
		struct rte_mbuf *next = head->next;
		uint16_t take = (uint16_t)RTE_MIN(bytes - head->data_len, (uint32_t)next->data_len);

		if (take > rte_pktmbuf_tailroom(head))
			return -1;
		memcpy(rte_pktmbuf_mtod_offset(head, uint8_t *, head->data_len),
		       rte_pktmbuf_mtod(next, const uint8_t *), take);
		head->data_len = (uint16_t)(head->data_len + take);
		next->data_off = (uint16_t)(next->data_off + take);
		next->data_len = (uint16_t)(next->data_len - take);
		if (next->data_len == 0) {
			head->next = next->next;
			head->nb_segs--;
			rte_pktmbuf_free_seg(next);
		}
	}
	describe(frame, head);
	return head->data_len < bytes ? -1 : 0;
}

void iibd_segment_of(const struct rte_mbuf *mbuf, struct iibd_segment *segment)
{
	segment->data = rte_pktmbuf_mtod(mbuf, const uint8_t *);
	segment->next = mbuf->next;
	segment->bytes = mbuf->data_len;
}

void iibd_free(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

struct rte_mbuf *iibd_alloc(struct rte_mempool *pool, uint8_t **data, uint32_t *room)
{
	struct rte_mbuf *mbuf = rte_pktmbuf_alloc(pool);

	if (mbuf != NULL) {
		*data = rte_pktmbuf_mtod(mbuf, uint8_t *);
		*room = rte_pktmbuf_tailroom(mbuf);
	}
	return mbuf;
}

void iibd_set_bytes(struct rte_mbuf *mbuf, uint16_t bytes)
{
	mbuf->data_len = bytes;
	mbuf->pkt_len = bytes;
}

void iibd_attach(struct rte_mbuf *mbuf, const uint8_t *data, uint16_t bytes,
		 struct rte_mbuf_ext_shared_info *shared)
{
	rte_mbuf_ext_refcnt_set(shared, 1);
	/* The address a device uses is the virtual one: nothing is lent to one
	 * that sees physical addresses. Nobody writes through the mbuf. */
	rte_pktmbuf_attach_extbuf(mbuf, (void *)(uintptr_t)data,
				  (rte_iova_t)(uintptr_t)data, bytes, shared);
	mbuf->data_len = bytes;
	mbuf->pkt_len = bytes;
}

void iibd_append(struct rte_mbuf *head, struct rte_mbuf *last, struct rte_mbuf *mbuf)
{
	last->next = mbuf;
	head->nb_segs++;
	head->pkt_len += mbuf->data_len;
}

void iibd_offload(struct rte_mbuf *head, uint64_t flags, uint8_t l2_len,
		  uint8_t l3_len, uint8_t l4_len, uint16_t segment_bytes)
{
	head->ol_flags |= flags;
	head->tx_offload = 0;
	head->l2_len = l2_len & 0x7f;
	head->l3_len = l3_len;
	head->l4_len = l4_len;
	head->tso_segsz = segment_bytes;
}

uint32_t iibd_frame_bytes(const struct rte_mbuf *mbuf)
{
	return mbuf->pkt_len;
}

void iibd_drain(struct rte_ring *ring)
{
	void *mbuf;

	while (rte_ring_dequeue(ring, &mbuf) == 0)
		rte_pktmbuf_free(mbuf);
}

uint16_t iibd_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_prepare(port, queue, mbufs, count);
}

uint16_t iibd_transmit(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, mbufs, count);
}
