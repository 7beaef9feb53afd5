/* What the Rust side uses of DPDK: the headers, the constants that are made
 * with RTE_BIT64, and symbols for what is inline in the headers. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_memory.h>
#include <rte_ring.h>

static const uint64_t IIBD_RX_OFFLOAD_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t IIBD_RX_OFFLOAD_TCP_CKSUM = RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t IIBD_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t IIBD_TX_OFFLOAD_IPV4_CKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t IIBD_TX_OFFLOAD_TCP_CKSUM = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
static const uint64_t IIBD_TX_OFFLOAD_TCP_TSO = RTE_ETH_TX_OFFLOAD_TCP_TSO;
static const uint64_t IIBD_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t IIBD_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t IIBD_RSS_TCP = RTE_ETH_RSS_TCP;

/* A line of DPDK's log, without its end; level as in rte_log.h (1 emergency
 * to 8 debug). */
typedef void (*iibd_log_line)(uint32_t level, const char *text, size_t bytes);
/* Sends the log there. 0, or -1 when there is no memory for it. */
int iibd_open_log(iibd_log_line line);

int iibd_errno(void);
/* UINT32_MAX on a thread that DPDK does not know. */
uint32_t iibd_lcore_id(void);

/* Whether the link is up, and Mbit/s; UINT32_MAX or 0 when unknown. */
int iibd_link(uint16_t port, uint32_t *mbit_per_s);

/* A received frame. */
struct iibd_received {
	struct rte_mbuf *mbuf;
	const uint8_t *data;
	uint64_t flags;
	uint32_t frame_bytes;
	/* Of memory, in all its segments. */
	uint32_t held_bytes;
	/* In the first segment. */
	uint32_t head_bytes;
};

struct iibd_segment {
	const uint8_t *data;
	struct rte_mbuf *next;
	uint32_t bytes;
};

uint16_t iibd_receive(uint16_t port, uint16_t queue,
		      struct iibd_received *frames, uint16_t max);
/* Puts the first `bytes` bytes, or the whole frame where it is shorter, into
 * its first segment. 0, or -1 when that has no room. */
int iibd_gather(struct iibd_received *frame, uint32_t bytes);
void iibd_segment_of(const struct rte_mbuf *mbuf, struct iibd_segment *segment);
/* Frees a whole chain. */
void iibd_free(struct rte_mbuf *mbuf);

/* An empty mbuf with room for *room bytes at *data; NULL: the pool is empty. */
struct rte_mbuf *iibd_alloc(struct rte_mempool *pool, uint8_t **data, uint32_t *room);
/* Sets the length of a single segment. */
void iibd_set_bytes(struct rte_mbuf *mbuf, uint16_t bytes);
/* Makes an empty mbuf a view of memory of others, with the reference count of
 * `shared` at one. */
void iibd_attach(struct rte_mbuf *mbuf, const uint8_t *data, uint16_t bytes,
		 struct rte_mbuf_ext_shared_info *shared);
/* Appends a single segment to the chain that begins with `head` and ends with
 * `last`. */
void iibd_append(struct rte_mbuf *head, struct rte_mbuf *last, struct rte_mbuf *mbuf);
void iibd_offload(struct rte_mbuf *head, uint64_t flags, uint8_t l2_len,
		  uint8_t l3_len, uint8_t l4_len, uint16_t segment_bytes);
uint32_t iibd_frame_bytes(const struct rte_mbuf *mbuf);

/* Frees the frames that wait in a ring. */
void iibd_drain(struct rte_ring *ring);

uint16_t iibd_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t iibd_transmit(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
