// SPDX-License-Identifier: GPL-2.0

/*
 * Frees sk_buffs whose `sk` is no socket, as net/bluetooth/rfcomm/tty.c does: a driver that sets a destructor of its own
 * can keep anything there. Whoever follows the pointer as that of a socket reads poison and oopses.
 */

#include <linux/ip.h>
#include <linux/module.h>
#include <linux/skbuff.h>
#include <linux/slab.h>
#include <linux/udp.h>
#include <net/sock.h>

#define PORT 7707

static int freed;

static void put_owner(struct sk_buff *skb)
{
	freed++;
}

/* Returns a UDP datagram from 192.0.2.1 to 192.0.2.2. */
static struct sk_buff *datagram(void *owner)
{
	struct sk_buff *skb = alloc_skb(128, GFP_KERNEL);
	struct udphdr *udp;
	struct iphdr *ip;

	if (!skb)
		return NULL;
	skb_reserve(skb, 16);
	skb_reset_network_header(skb);
	ip = skb_put_zero(skb, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->protocol = IPPROTO_UDP;
	ip->saddr = htonl(0xc0000201);
	ip->daddr = htonl(0xc0000202);
	skb_set_transport_header(skb, sizeof(*ip));
	udp = skb_put_zero(skb, sizeof(*udp));
	udp->source = htons(PORT);
	udp->dest = htons(PORT + 1);
	skb->protocol = htons(ETH_P_IP);
	skb->sk = owner;
	skb->destructor = put_owner;
	return skb;
}

static int __init ravel_test_skb_init(void)
{
	void *owner = kmalloc(sizeof(struct sock), GFP_KERNEL);
	struct sk_buff *dropped = NULL, *consumed = NULL;
	int err = -ENOMEM;

	if (!owner)
		return err;
	memset(owner, 0x5a, sizeof(struct sock));
	dropped = datagram(owner);
	consumed = datagram(owner);
	if (dropped && consumed)
		err = 0;
	kfree_skb(dropped);
	consume_skb(consumed);
	kfree(owner);
	return err ?: freed == 2 ? 0 : -EIO;
}

static void __exit ravel_test_skb_exit(void)
{
}

module_init(ravel_test_skb_init);
module_exit(ravel_test_skb_exit);
MODULE_DESCRIPTION("Frees sk_buffs that belong to no socket, for ravel's tests");
MODULE_LICENSE("GPL");
