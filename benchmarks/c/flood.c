/* Send as fast as C can.
 *
 * usage: flood PORT SECONDS SIZE SEGMENTS
 *
 * With SEGMENTS > 1 that many datagrams go in each system call (UDP_SEGMENT). Prints datagrams sent, seconds. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define UDP_SEGMENT 103

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: flood PORT SECONDS SIZE SEGMENTS\n");
        return 2;
    }
    double seconds = atof(argv[2]);
    int size = atoi(argv[3]), segments = atoi(argv[4]);
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    connect(fd, (void *)&server, sizeof server);
    if (segments > 1 && setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size)) {
        perror("flood: UDP_SEGMENT");
        return 1;
    }
    static char payload[65536];
    memset(payload, 'x', sizeof payload);
    double start = now(), time;
    long sent = 0;
    while ((time = now()) - start < seconds)
        for (int i = 0; i < 32; i++)
            if (send(fd, payload, (size_t)size * segments, 0) >= 0) sent += segments;
    printf("%ld %.6f\n", sent, time - start);
    return 0;
}
