/* SPDX-License-Identifier: GPL-2.0 */

/* Who waits on a socket: the entries of its wait queues, and who is sent a signal. */

#ifndef RAVEL_WAITERS_H
#define RAVEL_WAITERS_H

#include <linux/types.h>

struct file;
struct sock;
struct task_struct;
struct wait_queue_entry;
struct wait_queue_head;

/* Room for a symbol with its offset, size and module. */
#define RAVEL_SYMBOL_LEN 768

/* No system call, or none that could be told. */
#define RAVEL_NO_SYSCALL -1

/* Whom fcntl(F_SETOWN) named. */
#define RAVEL_OWNER_NONE 0
#define RAVEL_OWNER_THREAD 1
#define RAVEL_OWNER_PROCESS 2
#define RAVEL_OWNER_GROUP 3

/* What an entry leads to. Pids are those of the initial namespace. */
struct ravel_waiter {
	u64 user_data;		/* io_uring: the request's */
	u64 inode;		/* unix: of the socket that is told; 0: nobody has it open */
	unsigned long object;	/* address, to be named, not followed: the ring, or that socket */
	s32 pid;
	s32 tid;
	s32 syscall;
	u32 events;		/* EPOLL*: those asked for */
	u8 i386;		/* the number of the system call is one of a 32-bit program */
	u8 worker;		/* of the kernel's threads, or io_uring's: there is no system call */
	u8 opcode;		/* io_uring */
};

struct ravel_owner {
	s32 pid;		/* 0: none, or gone */
	u32 signal;		/* 0: SIGIO */
	u8 kind;
	u8 async_;		/* O_ASYNC */
};

/* A reference to the file or to that of the socket is held. */
struct wait_queue_head *ravel_socket_waiters(struct file *file);
struct wait_queue_head *ravel_lock_waiters(struct sock *sk);
struct wait_queue_head *ravel_unix_room_waiters(struct sock *sk);
void ravel_file_owner(struct file *file, struct ravel_owner *out);

void ravel_wait_lock(struct wait_queue_head *queue);
void ravel_wait_unlock(struct wait_queue_head *queue);
/* The queue is locked, and the entry in it. */
struct wait_queue_entry *ravel_wait_next(struct wait_queue_head *queue,
					 struct wait_queue_entry *after);
unsigned long ravel_wait_function(const struct wait_queue_entry *entry);
bool ravel_wait_exclusive(const struct wait_queue_entry *entry);
/* And its function is one of those that each is for. */
struct task_struct *ravel_wait_task(const struct wait_queue_entry *entry, struct ravel_waiter *out);
struct task_struct *ravel_wait_poll(const struct wait_queue_entry *entry, struct ravel_waiter *out);
struct task_struct *ravel_wait_request(const struct wait_queue_entry *entry, struct ravel_waiter *out);
void ravel_wait_relay(const struct wait_queue_entry *entry, struct ravel_waiter *out);

#endif /* RAVEL_WAITERS_H */
