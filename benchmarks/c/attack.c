/* The load on a server of peers: datagrams from forged addresses, each from another one.
 *
 * usage: attack PORT COUNT
 *
 * COUNT datagrams to PORT as fast as they can be sent, from all over 127.0.0.0/8 and from several ports: most of 0 to
 * 1472 bytes, one in a hundred of up to 65507.
 * Prints: how many were sent, and the seconds that took. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define SOCKETS 16
#define BATCH 32
#define USUAL_SIZE 1472
#define LARGEST_SIZE 65507
#define LARGE_ONE_IN 100
/* The first are left to honest programs. */
#define FIRST_SOURCE 0x7f010000u
#define SOURCES 0x00fe0000u

/* The same ones each time. */
static uint32_t drawn(uint32_t below) {
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(((state >> 32) * below) >> 32);
}

int main(int argc, char **argv) {
    static char data[LARGEST_SIZE];
    static _Alignas(struct cmsghdr) char control[BATCH][CMSG_SPACE(sizeof(struct in_pktinfo))];
    static struct iovec parts[BATCH];
    static struct mmsghdr messages[BATCH];
    struct timespec start, end;
    int fds[SOCKETS];
    long sent = 0;
    if (argc != 3) {
        fprintf(stderr, "usage: attack PORT COUNT\n");
        return 2;
    }
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    long count = atol(argv[2]);
    for (int i = 0; i < SOCKETS; i++) {
        struct sockaddr_in here = {.sin_family = AF_INET};
        fds[i] = socket(AF_INET, SOCK_DGRAM, 0);
        if (fds[i] < 0 || bind(fds[i], (void *)&here, sizeof here)) {
            perror("attack");
            return 1;
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int turn = 0; sent < count; turn++) {
        int batch = count - sent < BATCH ? count - sent : BATCH;
        for (int i = 0; i < batch; i++) {
            struct msghdr *message = &messages[i].msg_hdr;
            uint32_t most = drawn(LARGE_ONE_IN) ? USUAL_SIZE : LARGEST_SIZE;
            parts[i] = (struct iovec){data, drawn(most + 1)};
            *message = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1, .msg_name = &server,
                .msg_namelen = sizeof server, .msg_control = control[i], .msg_controllen = sizeof control[i]};
            struct cmsghdr *c = CMSG_FIRSTHDR(message);
            *c = (struct cmsghdr){.cmsg_level = IPPROTO_IP, .cmsg_type = IP_PKTINFO,
                .cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo))};
            struct in_pktinfo from = {.ipi_spec_dst.s_addr = htonl(FIRST_SOURCE + drawn(SOURCES))};
            memcpy(CMSG_DATA(c), &from, sizeof from);
        }
        for (int done = 0; done < batch;) {
            int n = sendmmsg(fds[turn % SOCKETS], messages + done, batch - done, 0);
            if (n < 0) {
                perror("attack");
                return 1;
            }
            done += n;
        }
        sent += batch;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%ld %.6f\n", sent, end.tv_sec - start.tv_sec + (end.tv_nsec - start.tv_nsec) * 1e-9);
    return 0;
}
