/* The limit: an echo server in C.
 *
 * usage: echo blocking | offload | flood SECONDS
 *
 * "blocking" receives and sends one datagram at a time. "offload" receives and sends up to 64 messages in a
 * system call (recvmmsg, sendmmsg), with UDP_GRO on: a coalesced message goes back by UDP_SEGMENT.
 * Prints its port and serves until it is killed. "flood" counts what comes in with UDP_GRO and prints datagrams and
 * seconds. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define UDP_SEGMENT 103
#define UDP_GRO 104
#define BATCH 64

static void blocking(int fd) {
    static char data[65536];
    struct sockaddr_in peer;
    for (;;) {
        socklen_t length = sizeof peer;
        ssize_t size = recvfrom(fd, data, sizeof data, 0, (void *)&peer, &length);
        if (size >= 0) sendto(fd, data, size, 0, (void *)&peer, length);
    }
}

static void offload(int fd) {
    static char data[BATCH][65536];
    static char control[BATCH][64];
    static struct sockaddr_in peers[BATCH];
    static struct iovec parts[BATCH];
    static struct mmsghdr messages[BATCH];
    int one = 1;
    setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof one);
    for (;;) {
        for (int i = 0; i < BATCH; i++) {
            parts[i] = (struct iovec){data[i], sizeof data[i]};
            messages[i].msg_hdr = (struct msghdr){.msg_name = &peers[i], .msg_namelen = sizeof peers[i],
                .msg_iov = &parts[i], .msg_iovlen = 1, .msg_control = control[i], .msg_controllen = sizeof control[i]};
        }
        int count = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        for (int i = 0; i < count; i++) {
            int size = 0;
            struct msghdr *message = &messages[i].msg_hdr;
            for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c))
                if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) memcpy(&size, CMSG_DATA(c), sizeof size);
            parts[i].iov_len = messages[i].msg_len;
            message->msg_flags = 0;
            message->msg_controllen = 0;
            if (size && size < (int)messages[i].msg_len) {
                message->msg_controllen = CMSG_SPACE(sizeof(uint16_t));
                struct cmsghdr *c = CMSG_FIRSTHDR(message);
                c->cmsg_level = IPPROTO_UDP;
                c->cmsg_type = UDP_SEGMENT;
                c->cmsg_len = CMSG_LEN(sizeof(uint16_t));
                uint16_t segment = size;
                memcpy(CMSG_DATA(c), &segment, sizeof segment);
            }
        }
        for (int sent = 0; sent < count;) {
            int n = sendmmsg(fd, messages + sent, count - sent, 0);
            sent += n > 0 ? n : 1;
        }
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void flood(int fd, double seconds) {
    static char data[65536], control[64];
    int one = 1;
    long count = 0;
    double start = 0, time = 0;
    setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof one);
    for (;;) {
        struct iovec part = {data, sizeof data};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
            .msg_controllen = sizeof control};
        ssize_t size = recvmsg(fd, &message, 0);
        int segment = 0;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
            if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) memcpy(&segment, CMSG_DATA(c), sizeof segment);
        count += segment ? (size + segment - 1) / segment : 1;
        time = now();
        if (!start) start = time, count = 0;
        if (time - start >= seconds) break;
    }
    printf("%ld %.6f\n", count, time - start);
}

int main(int argc, char **argv) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (bind(fd, (void *)&address, sizeof address) || getsockname(fd, (void *)&address, &length)) {
        perror("echo");
        return 1;
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    if (argc == 2 && !strcmp(argv[1], "offload"))
        offload(fd);
    else if (argc == 3 && !strcmp(argv[1], "flood"))
        flood(fd, atof(argv[2]));
    else
        blocking(fd);
}
