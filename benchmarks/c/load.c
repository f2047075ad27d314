/* The load on an echo server: a fixed number of datagrams under way, each sent again when it comes back.
 *
 * usage: load PORT[,PORT...] WARM_UP SECONDS SOCKETS OUTSTANDING SIZE SOURCES
 *
 * SOCKETS client sockets with OUTSTANDING datagrams of SIZE bytes each. With SOURCES > 1 the datagrams come from that
 * many addresses (127.x.y.z) in turn, without a socket for each, so that nothing but the addresses differs. Several
 * ports are taken in turn. It polls without sleeping, so that the server never pays for waking it.
 * What does not come back within 100 ms counts as lost and is replaced; each datagram bears a number that tells it
 * from the one it replaces.
 * Prints: answers, seconds, losses, and the median and 99th percentile of the round trip in us; WARM_UP not counted. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define LOST_AFTER 0.1
#define LOOK_FOR_LOSSES_EVERY 0.01
#define MOST_SAMPLES 1000000
#define MOST_ANSWERS 1000000000L
#define MOST_SOCKETS 64
#define MOST_OUTSTANDING 64
#define MOST_SLOTS (MOST_SOCKETS * MOST_OUTSTANDING)
#define MOST_PORTS 1024
#define MOST_SIZE 2048

/* What a datagram begins with: whose place it takes, and for which time. */
struct mark {
    uint32_t slot, turn;
};

static struct slot {
    uint32_t turn;
    double sent_at;
} slots[MOST_SLOTS];

static struct sockaddr_in servers[MOST_PORTS];
static int ports, next_port, sources, next_source, size, outstanding, connected;
static int fds[MOST_SOCKETS];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Send the datagrams of `count` slots of one socket. What the kernel refuses is noticed as lost. */
static void send_slots(int socket, const uint32_t *which, int count) {
    static char data[MOST_OUTSTANDING][MOST_SIZE];
    static _Alignas(struct cmsghdr) char control[MOST_OUTSTANDING][CMSG_SPACE(sizeof(struct in_pktinfo))];
    static struct iovec parts[MOST_OUTSTANDING];
    static struct mmsghdr messages[MOST_OUTSTANDING];
    double time = now();
    for (int i = 0; i < count; i++) {
        struct msghdr *message = &messages[i].msg_hdr;
        struct mark mark = {which[i], ++slots[which[i]].turn};
        memcpy(data[i], &mark, sizeof mark);
        parts[i] = (struct iovec){data[i], size};
        *message = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
        slots[which[i]].sent_at = time;
        if (connected) continue;
        message->msg_name = &servers[next_port];
        message->msg_namelen = sizeof servers[next_port];
        next_port = (next_port + 1) % ports;
        if (sources == 1) continue;
        message->msg_control = control[i];
        message->msg_controllen = sizeof control[i];
        struct cmsghdr *c = CMSG_FIRSTHDR(message);
        *c = (struct cmsghdr){.cmsg_level = IPPROTO_IP, .cmsg_type = IP_PKTINFO,
            .cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo))};
        struct in_pktinfo from = {.ipi_spec_dst.s_addr = htonl(INADDR_LOOPBACK + next_source)};
        memcpy(CMSG_DATA(c), &from, sizeof from);
        next_source = (next_source + 1) % sources;
    }
    for (int sent = 0; sent < count;) {
        int n = sendmmsg(fds[socket], messages + sent, count - sent, 0);
        sent += n > 0 ? n : 1;
    }
}

/* Receive what has come for one socket; return how many of its slots that frees, and which. */
static int receive_slots(int socket, uint32_t *which) {
    static char data[MOST_OUTSTANDING][MOST_SIZE];
    static struct iovec parts[MOST_OUTSTANDING];
    static struct mmsghdr messages[MOST_OUTSTANDING];
    for (int i = 0; i < outstanding; i++) {
        parts[i] = (struct iovec){data[i], sizeof data[i]};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    int count = recvmmsg(fds[socket], messages, outstanding, MSG_DONTWAIT, NULL), freed = 0;
    for (int i = 0; i < count; i++) {
        struct mark mark;
        memcpy(&mark, data[i], sizeof mark);
        if ((int)messages[i].msg_len == size && mark.slot / outstanding == (uint32_t)socket &&
            mark.turn == slots[mark.slot].turn) {
            /* A second copy of it would not be an answer. */
            slots[mark.slot].turn++;
            which[freed++] = mark.slot;
        }
    }
    return freed;
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr, "usage: load PORT[,PORT...] WARM_UP SECONDS SOCKETS OUTSTANDING SIZE SOURCES\n");
        return 2;
    }
    double warm_up = atof(argv[2]), seconds = atof(argv[3]);
    int sockets = atoi(argv[4]);
    outstanding = atoi(argv[5]), size = atoi(argv[6]), sources = atoi(argv[7]);
    if (sockets < 1 || sockets > MOST_SOCKETS || outstanding < 1 || outstanding > MOST_OUTSTANDING || sources < 1 ||
        size < (int)sizeof(struct mark) || size > MOST_SIZE) {
        fprintf(stderr, "load: an argument is out of range\n");
        return 2;
    }
    for (char *port = strtok(argv[1], ","); port && ports < MOST_PORTS; port = strtok(NULL, ",")) {
        servers[ports] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(port))};
        servers[ports++].sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    }
    connected = ports == 1 && sources == 1;
    for (int i = 0; i < sockets; i++) {
        struct sockaddr_in here = {.sin_family = AF_INET};
        here.sin_addr.s_addr = htonl(sources == 1 ? INADDR_LOOPBACK : INADDR_ANY);
        fds[i] = socket(AF_INET, SOCK_DGRAM, 0);
        if (fds[i] < 0 || bind(fds[i], (void *)&here, sizeof here) ||
            (connected && connect(fds[i], (void *)&servers[0], sizeof servers[0]))) {
            perror("load");
            return 1;
        }
    }
    float *samples = malloc(MOST_SAMPLES * sizeof *samples);
    long answers = 0, lost = 0, sampled = 0;
    uint32_t which[MOST_OUTSTANDING];
    double start = now(), begin = start + warm_up, end = begin + seconds, time = start, looked = start;
    for (int s = 0; s < sockets; s++) {
        for (int i = 0; i < outstanding; i++) which[i] = s * outstanding + i;
        send_slots(s, which, outstanding);
    }
    while ((time = now()) < end && answers < MOST_ANSWERS) {
        int came = 0;
        for (int s = 0; s < sockets; s++) {
            int freed = receive_slots(s, which);
            if (!freed) continue;
            came = 1;
            time = now();
            if (time >= begin && time < end) {
                answers += freed;
                for (int i = 0; i < freed && sampled < MOST_SAMPLES; i++)
                    samples[sampled++] = (time - slots[which[i]].sent_at) * 1e6;
            }
            send_slots(s, which, freed);
        }
        if (time - looked > LOOK_FOR_LOSSES_EVERY) {
            looked = time;
            for (uint32_t slot = 0; slot < (uint32_t)(sockets * outstanding); slot++)
                if (time - slots[slot].sent_at > LOST_AFTER) {
                    if (time >= begin) lost++;
                    send_slots(slot / outstanding, &slot, 1);
                }
        }
        /* The server may have no other core. */
        if (!came) sched_yield();
    }
    qsort(samples, sampled, sizeof *samples, compare);
    printf("%ld %.6f %ld %.2f %.2f\n", answers, time - begin, lost, sampled ? samples[sampled / 2] : 0.0,
           sampled ? samples[sampled * 99 / 100] : 0.0);
    return 0;
}
