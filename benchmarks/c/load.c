/* The load on an echo server: a fixed number of datagrams under way, sent again as they come back.
 *
 * usage: load PORT[,PORT...] WARM_UP SECONDS SOCKETS OUTSTANDING SIZE SOURCES
 *
 * SOCKETS connected sockets with OUTSTANDING datagrams each; with SOURCES > SOCKETS the sockets go round that
 * many source addresses (127.x.y.z), which send one after the other. Several ports are taken in turn. It polls without sleeping, so that
 * the server never pays for waking it. What does not come back within 50 ms counts as lost and is sent again.
 * Prints: answers in SECONDS, seconds, losses, and the median and 99th percentile of the round trip in us. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#define LOST_AFTER 0.05
#define MOST_SAMPLES 1000000

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr, "usage: load PORT[,PORT...] WARM_UP SECONDS SOCKETS OUTSTANDING SIZE SOURCES\n");
        return 2;
    }
    double warm_up = atof(argv[2]), seconds = atof(argv[3]);
    int sockets = atoi(argv[4]), outstanding = atoi(argv[5]), size = atoi(argv[6]), sources = atoi(argv[7]);
    int count = sources > sockets ? sources : sockets, window = sockets * outstanding;
    struct rlimit limit = {count + 64, count + 64};
    setrlimit(RLIMIT_NOFILE, &limit);
    struct sockaddr_in server = {.sin_family = AF_INET};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    char *port = argv[1];
    int *fds = calloc(count, sizeof *fds);
    double *sent_at = calloc(count, sizeof *sent_at);
    int *under_way = calloc(count, sizeof *under_way);
    float *samples = malloc(MOST_SAMPLES * sizeof *samples);
    char payload[65536], answer[65536];
    memset(payload, 'x', sizeof payload);
    int epoll = epoll_create1(0);
    for (int i = 0; i < count; i++) {
        fds[i] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        struct sockaddr_in source = {.sin_family = AF_INET};
        source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (sources > sockets ? i : 0));
        server.sin_port = htons(strtol(port, &port, 10));
        port = *port ? port + 1 : argv[1];
        if (fds[i] < 0 || bind(fds[i], (void *)&source, sizeof source) ||
            connect(fds[i], (void *)&server, sizeof server)) {
            perror("load");
            return 1;
        }
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event);
    }
    int next = 0;
    double start = now(), begin = start + warm_up, end = begin + seconds, time = start, last_check = start;
    for (int i = 0; i < window; i++, next = (next + 1) % count) {
        send(fds[next], payload, size, 0);
        under_way[next]++;
        sent_at[next] = time;
    }
    long answers = 0, lost = 0, sampled = 0;
    struct epoll_event events[256];
    while ((time = now()) < end) {
        int ready = epoll_wait(epoll, events, 256, 0);
        for (int e = 0; e < ready; e++) {
            int i = events[e].data.u32;
            while (recv(fds[i], answer, sizeof answer, 0) >= 0) {
                if (time >= begin) {
                    answers++;
                    if (sampled < MOST_SAMPLES) samples[sampled++] = (now() - sent_at[i]) * 1e6;
                }
                if (under_way[i] > 0) under_way[i]--;
                int to = i;
                if (sources > sockets) {
                    to = next;
                    next = (next + 1) % count;
                }
                sent_at[to] = now();
                send(fds[to], payload, size, 0);
                under_way[to]++;
            }
        }
        if (time - last_check > LOST_AFTER) {
            last_check = time;
            for (int i = 0; i < count; i++)
                if (under_way[i] && time - sent_at[i] > LOST_AFTER) {
                    int again = under_way[i];
                    if (time >= begin) lost += again;
                    sent_at[i] = time;
                    for (int j = 0; j < again; j++) send(fds[i], payload, size, 0);
                }
        }
    }
    qsort(samples, sampled, sizeof *samples, compare);
    printf("%ld %.6f %ld %.2f %.2f\n", answers, seconds, lost, sampled ? samples[sampled / 2] : 0.0,
           sampled ? samples[sampled * 99 / 100] : 0.0);
    return 0;
}
