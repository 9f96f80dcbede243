/* The limit: one thread, epoll, a frame that is written as it is. It checks nothing and stores nothing.
 *
 *   epoll PORT       0 = any; prints "listening on PORT"
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 65536 };

static int followers[MOST], count;
static char frame[4096];

/* Accept of RFC 6455 for the key of bench/clients.c, the only one that comes here. */
static const char UPGRADE[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n";

static size_t make_frame(const char *text) {
    size_t length = strlen(text), head = 2;
    frame[0] = (char)0x81;
    if (length < 126) frame[1] = (char)length;
    else { frame[1] = 126; frame[2] = (char)(length >> 8); frame[3] = (char)length; head = 4; }
    memcpy(frame + head, text, length);
    return head + length;
}

int main(int argc, char **argv) {
    static char text[65536];
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int one = 1, door = socket(AF_INET, SOCK_STREAM, 0), epoll = epoll_create1(0);
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(door, (struct sockaddr *)&at, sizeof at) || listen(door, 1024)) { perror("epoll"); return 1; }
    getsockname(door, (struct sockaddr *)&at, &size);
    printf("listening on %d\n", ntohs(at.sin_port)); fflush(stdout);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = door}, events[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, door, &event);
    size_t whole = make_frame("{\"type\":\"signal\",\"seq\":1,\"server_time\":1790000000000,\"data\":{\"ticket\":8179000000000000,\"kind\":\"position\","
        "\"symbol\":\"EURUSD\",\"action\":\"BUY\",\"volume\":0.1,\"initial_volume\":0.1,\"price\":1.085,\"stoplimit\":0.0,\"sl\":1.08,\"tp\":1.09,"
        "\"expiration\":0,\"magic\":0,\"comment\":\"\",\"contract_size\":0.0,\"point\":0.0,\"digits\":0,\"master\":\"master_user\","
        "\"source\":\"manual\",\"opened_at\":1790000000000,\"master_volume\":0.1},\"prev\":0}");
    for (;;) {
        int n = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == door) {
                int new = accept(door, NULL, NULL);
                if (new < 0) continue;
                setsockopt(new, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                event.data.fd = new;
                epoll_ctl(epoll, EPOLL_CTL_ADD, new, &event);
                continue;
            }
            ssize_t got = recv(fd, text, sizeof text - 1, 0);
            if (got <= 0) {
                for (int k = 0; k < count; k++) if (followers[k] == fd) followers[k] = followers[--count];
                close(fd);
                continue;
            }
            text[got] = 0;
            if (!strncmp(text, "GET /ws", 7)) {
                if (write(fd, UPGRADE, sizeof UPGRADE - 1) > 0) followers[count++] = fd;
            } else if (!strncmp(text, "POST", 4)) {
                for (int k = 0; k < count; k++) if (send(followers[k], frame, whole, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == EAGAIN) { /* dropped */ }
                static const char done[] = "HTTP/1.1 201 CREATED\r\nContent-Length: 2\r\n\r\n{}";
                if (write(fd, done, sizeof done - 1) < 0) close(fd);
            }
        }
    }
}
