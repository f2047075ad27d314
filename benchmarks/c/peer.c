/* The limit: the same work in C. It also sends the floods, and drains what bulk senders send.
 *
 * usage: peer blocking|offload echo
 *        peer blocking|offload flood WARM_UP SECONDS
 *        peer blocking|offload bulk PORT WARM_UP SECONDS
 *
 * "blocking" makes one system call for each datagram. "offload" receives with UDP_GRO and sends with UDP_SEGMENT, and
 * echoes up to 64 messages in a system call (recvmmsg, sendmmsg).
 * echo and flood print their port first. flood and bulk print how many datagrams they received or sent after WARM_UP,
 * and in how many seconds. bulk ends early when nobody listens any more. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#define MESSAGES 64
#define LONGEST 65536
#define BULK_SIZE 1200
#define BULK_SEGMENTS 54
#define LOOK_AT_THE_CLOCK_EVERY 64
#define MOST_DATAGRAMS 1000000000L

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int fail(const char *what) {
    perror(what);
    return 1;
}

static int bound(int offload) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (fd < 0 || bind(fd, (void *)&address, sizeof address) || getsockname(fd, (void *)&address, &length))
        exit(fail("bind"));
    if (offload && setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof one)) exit(fail("UDP_GRO"));
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

/* Return the size of the datagrams that a message was made of, 0 if it is one. */
static int segment_size(struct msghdr *message) {
    int size = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c))
        if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) memcpy(&size, CMSG_DATA(c), sizeof size);
    return size;
}

static void echo(int fd) {
    static char data[LONGEST];
    struct sockaddr_in peer;
    for (;;) {
        socklen_t length = sizeof peer;
        ssize_t size = recvfrom(fd, data, sizeof data, 0, (void *)&peer, &length);
        if (size >= 0) sendto(fd, data, size, 0, (void *)&peer, length);
    }
}

static void echo_messages(int fd) {
    static char data[MESSAGES][LONGEST];
    static _Alignas(struct cmsghdr) char control[MESSAGES][64];
    static struct sockaddr_in peers[MESSAGES];
    static struct iovec parts[MESSAGES];
    static struct mmsghdr messages[MESSAGES];
    for (;;) {
        for (int i = 0; i < MESSAGES; i++) {
            parts[i] = (struct iovec){data[i], sizeof data[i]};
            messages[i].msg_hdr = (struct msghdr){.msg_name = &peers[i], .msg_namelen = sizeof peers[i],
                .msg_iov = &parts[i], .msg_iovlen = 1, .msg_control = control[i], .msg_controllen = sizeof control[i]};
        }
        int count = recvmmsg(fd, messages, MESSAGES, MSG_WAITFORONE, NULL);
        for (int i = 0; i < count; i++) {
            struct msghdr *message = &messages[i].msg_hdr;
            uint16_t size = segment_size(message);
            parts[i].iov_len = messages[i].msg_len;
            message->msg_flags = 0;
            message->msg_controllen = 0;
            if (size && size < messages[i].msg_len) {
                message->msg_controllen = CMSG_SPACE(sizeof size);
                struct cmsghdr *c = CMSG_FIRSTHDR(message);
                *c = (struct cmsghdr){.cmsg_level = IPPROTO_UDP, .cmsg_type = UDP_SEGMENT,
                    .cmsg_len = CMSG_LEN(sizeof size)};
                memcpy(CMSG_DATA(c), &size, sizeof size);
            }
        }
        for (int sent = 0; sent < count;) {
            int n = sendmmsg(fd, messages + sent, count - sent, 0);
            sent += n > 0 ? n : 1;
        }
    }
}

/* Receive for some seconds from the first message on; return how many datagrams came. */
static long receive(int fd, double seconds, double *elapsed) {
    static char data[LONGEST];
    static _Alignas(struct cmsghdr) char control[64];
    long count = 0, calls = 0;
    double start = 0;
    while (count < MOST_DATAGRAMS) {
        struct iovec part = {data, sizeof data};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
            .msg_controllen = sizeof control};
        ssize_t length = recvmsg(fd, &message, 0);
        int size = segment_size(&message);
        count += size ? (length + size - 1) / size : 1;
        if (calls++ % LOOK_AT_THE_CLOCK_EVERY == 0) {
            if (calls == 1) start = now(), count = 0;
            if ((*elapsed = now() - start) >= seconds) break;
        }
    }
    return count;
}

/* Send for some seconds as fast as we can; return how many datagrams were sent. */
static long send_bulk(int fd, int segments, double seconds, double *elapsed) {
    static char data[BULK_SIZE * BULK_SEGMENTS];
    double start = now();
    long count = 0;
    while ((*elapsed = now() - start) < seconds && count < MOST_DATAGRAMS)
        for (int i = 0; i < LOOK_AT_THE_CLOCK_EVERY; i++) {
            if (send(fd, data, BULK_SIZE * segments, 0) >= 0)
                count += segments;
            else if (errno == ECONNREFUSED)
                return count;
            else
                exit(fail("send"));
        }
    return count;
}

static int bulk(int offload, int port, double warm_up, double seconds) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0), size = BULK_SIZE, segments = offload ? BULK_SEGMENTS : 1;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    double elapsed;
    if (fd < 0 || connect(fd, (void *)&to, sizeof to)) return fail("connect");
    if (offload && setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size)) return fail("UDP_SEGMENT");
    send_bulk(fd, segments, warm_up, &elapsed);
    long count = send_bulk(fd, segments, seconds, &elapsed);
    printf("%ld %.6f\n", count, elapsed);
    return 0;
}

int main(int argc, char **argv) {
    int offload = argc > 1 && !strcmp(argv[1], "offload");
    const char *work = argc > 2 ? argv[2] : "";
    if (argc == 3 && !strcmp(work, "echo")) {
        (offload ? echo_messages : echo)(bound(offload));
    } else if (argc == 5 && !strcmp(work, "flood")) {
        int fd = bound(offload);
        double elapsed;
        receive(fd, atof(argv[3]), &elapsed);
        long count = receive(fd, atof(argv[4]), &elapsed);
        printf("%ld %.6f\n", count, elapsed);
    } else if (argc == 6 && !strcmp(work, "bulk")) {
        return bulk(offload, atoi(argv[3]), atof(argv[4]), atof(argv[5]));
    } else {
        fprintf(stderr, "usage: peer blocking|offload echo|flood|bulk ...\n");
        return 2;
    }
    return 0;
}
