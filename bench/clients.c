/* Many followers in one thread: connect, take in every frame as it comes, say when.
 *
 *   clients PORT            then lines on standard input:
 *     connect TOKEN         one more follower; answered by "connected N" when its handshake and first byte are there
 *     later TOKEN           remember one for `all`
 *     all                   connect all of these at once; when each has had its first message: "all FIRST MEDIAN LAST",
 *                           in nanoseconds from the beginning
 *     go COUNT              until every follower has had COUNT more frames that contain "type":"signal": then one line
 *                           "round FIRST MEDIAN LAST" for each of them, in nanoseconds of CLOCK_MONOTONIC
 *     stall                 the follower that connected last stops reading
 *   It answers pings, so that nobody is taken for dead. Frames of the server are not masked (RFC 6455).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 4096, ROOM = 1 << 20 };

enum { OPEN, CONNECTING, HANDSHAKE };
typedef struct { int fd, state; uint32_t signals; size_t have; int64_t first_at; } Follower;

static Follower followers[MOST];
static int count, epoll, port, active, later, greeted; /* greeted: how many of `all` have had their first message */
static char *tokens[MOST];
static uint8_t *buffers[MOST];        /* what is there of a frame that is not whole yet */
static uint8_t scratch[ROOM + (4 << 20)];
static uint32_t rounds, *arrived; /* how many followers have had round k */
static int64_t *times;                /* [round][how many had it before] */

static int64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000LL + t.tv_nsec; }
static void die(const char *what) { fprintf(stderr, "clients: %s: %s\n", what, strerror(errno)); exit(1); }

static void pong(int fd, const uint8_t *payload, size_t length) {
    uint8_t frame[6 + 125] = {0x8a, 0x80 | (uint8_t)length, 0, 0, 0, 0};
    memcpy(frame + 6, payload, length);
    if (write(fd, frame, 6 + length) < 0 && errno != EAGAIN) die("pong");
}

static void frame_came(Follower *f, int opcode, const uint8_t *payload, size_t length, int64_t at) {
    if (opcode == 9) pong(f->fd, payload, length);
    if (opcode == 8) { fprintf(stderr, "clients: closed by the server: %d\n", payload[0] << 8 | payload[1]); exit(1); }
    if (opcode == 1 && !f->first_at) { f->first_at = at; greeted++; }
    if (opcode != 1 || !memmem(payload, length < 40 ? length : 40, "\"type\":\"signal\"", 15)) return;
    uint32_t k = f->signals++;
    if (k < rounds) times[(size_t)k * MOST + arrived[k]++] = at;
}

/* Takes the whole frames out of the bytes; how many bytes they were. */
static size_t frames(Follower *f, const uint8_t *data, size_t have, int64_t at) {
    size_t used = 0;
    while (have - used >= 2) {
        const uint8_t *p = data + used;
        size_t length = p[1] & 127, head = 2;
        if (length == 126) { if (have - used < 4) break; length = p[2] << 8 | p[3]; head = 4; }
        else if (length == 127) {
            if (have - used < 10) break;
            length = 0; head = 10;
            for (int i = 2; i < 10; i++) length = length << 8 | p[i];
        }
        if (have - used < head + length) break;
        frame_came(f, p[0] & 15, p + head, length, at);
        used += head + length;
    }
    return used;
}

static void readable(Follower *f) {
    int i = f - followers;
    memcpy(scratch, buffers[i], f->have);
    ssize_t got = recv(f->fd, scratch + f->have, sizeof scratch - f->have, 0);
    if (got <= 0) { if (got < 0 && (errno == EAGAIN || errno == EINTR)) return; die("a connection was lost"); }
    size_t have = f->have + got, used = 0;
    if (f->state == HANDSHAKE) {
        uint8_t *end = memmem(scratch, have, "\r\n\r\n", 4);
        if (end) {
            if (memcmp(scratch, "HTTP/1.1 101", 12)) { fprintf(stderr, "clients: %.60s\n", scratch); exit(1); }
            f->state = OPEN;
            used = end + 4 - scratch;
        }
    }
    if (f->state == OPEN) used += frames(f, scratch + used, have - used, now());
    f->have = have - used;
    if (f->have > 0) {
        if (f->have > ROOM) die("a frame is too large");
        if (!(buffers[i] = realloc(buffers[i], f->have))) die("memory");
        memcpy(buffers[i], scratch + used, f->have);
    }
}

static void ask_for_upgrade(int fd, const char *token) {
    char text[4096];
    int length = snprintf(text, sizeof text, "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: Bearer %s\r\n\r\n", port, token);
    if (write(fd, text, length) != length) die("handshake");
}

static void connected(Follower *f) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(f->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if ((errno = error)) die("connect");
    f->state = HANDSHAKE;
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = f - followers};
    epoll_ctl(epoll, EPOLL_CTL_MOD, f->fd, &event);
    ask_for_upgrade(f->fd, tokens[f - followers]);
}

static void listen_for(int ms) {
    struct epoll_event events[512];
    int n = epoll_wait(epoll, events, 512, ms);
    for (int i = 0; i < n; i++) {
        if (events[i].data.u32 == UINT32_MAX) continue;
        Follower *f = &followers[events[i].data.u32];
        if (f->state == CONNECTING) connected(f); else readable(f);
    }
}

static const struct sockaddr_in *server(void) {
    static struct sockaddr_in to;
    to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return &to;
}

static void follow(const char *token) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (fd < 0 || count == MOST || connect(fd, (const struct sockaddr *)server(), sizeof *server()) < 0) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    ask_for_upgrade(fd, token);
    size_t have = 0;
    uint8_t *end = NULL;
    while (!end) {
        ssize_t got = recv(fd, scratch + have, sizeof scratch - have, 0);
        if (got <= 0) die("handshake");
        have += got;
        end = memmem(scratch, have, "\r\n\r\n", 4);
    }
    if (memcmp(scratch, "HTTP/1.1 101", 12)) { fprintf(stderr, "clients: %.60s\n", scratch); exit(1); }
    Follower *f = &followers[count];
    *f = (Follower){.fd = fd};
    size_t rest = have - (end + 4 - scratch);
    memmove(scratch, end + 4, rest);
    size_t used = frames(f, scratch, rest, now());
    f->have = rest - used;
    if (!(buffers[count] = malloc(f->have + 1))) die("memory");
    memcpy(buffers[count], scratch + used, f->have);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = count};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    count++; active++;
    printf("connected %d\n", count);
}

static int by_size(const void *a, const void *b) { int64_t x = *(int64_t *)a, y = *(int64_t *)b; return (x > y) - (x < y); }

static void follow_all(void) {
    int64_t began = now(), *t = malloc((later + 1) * sizeof *t);
    int first = count, one = 1;
    if (!t) die("memory");
    greeted = 0;
    for (; count < first + later; count++, active++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (fd < 0 || count == MOST || (connect(fd, (const struct sockaddr *)server(), sizeof *server()) < 0 && errno != EINPROGRESS)) die("connect");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        followers[count] = (Follower){.fd = fd, .state = CONNECTING};
        struct epoll_event event = {.events = EPOLLOUT, .data.u32 = count};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
    while (greeted < later) listen_for(1000);
    for (int i = 0; i < later; i++) t[i] = followers[first + i].first_at - began;
    qsort(t, later, sizeof *t, by_size);
    printf("all %lld %lld %lld\n", (long long)t[0], (long long)t[later / 2], (long long)t[later - 1]);
    free(t);
    later = 0;
}

static void go(uint32_t n) {
    rounds = n;
    times = malloc((size_t)n * MOST * sizeof *times);
    arrived = calloc(n, sizeof *arrived);
    if (!times || !arrived) die("memory");
    for (int i = 0; i < count; i++) followers[i].signals = 0;
    printf("ready\n"); fflush(stdout);
    for (uint32_t k = 0; k < n; k++) {
        while (arrived[k] < (uint32_t)active) listen_for(1000);
        int64_t *t = times + (size_t)k * MOST;
        qsort(t, active, sizeof *t, by_size);
        printf("round %lld %lld %lld\n", (long long)t[0], (long long)t[active / 2], (long long)t[active - 1]); fflush(stdout);
    }
    free(times); free(arrived); rounds = 0;
}

int main(int argc, char **argv) {
    char line[4096];
    port = argc == 2 ? atoi(argv[1]) : 0;
    epoll = epoll_create1(0);
    /* standard input is watched too, so that pings are answered while nothing is asked for */
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    if (!port || epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &event) < 0) die("start");
    setvbuf(stdin, NULL, _IONBF, 0);
    for (;;) {
        struct epoll_event events[512];
        int n = epoll_wait(epoll, events, 512, -1), asked = 0;
        for (int i = 0; i < n; i++)
            if (events[i].data.u32 == UINT32_MAX) asked = 1; else readable(&followers[events[i].data.u32]);
        if (!asked) continue;
        if (!fgets(line, sizeof line, stdin)) return 0;
        line[strcspn(line, "\n")] = 0;
        if (!strncmp(line, "connect ", 8)) follow(line + 8);
        else if (!strncmp(line, "later ", 6)) {
            if (count + later == MOST || !(tokens[count + later++] = strdup(line + 6))) die("memory");
            printf("later\n");
        }
        else if (!strcmp(line, "all")) follow_all();
        else if (!strncmp(line, "go ", 3)) go(strtoul(line + 3, NULL, 10));
        else if (!strcmp(line, "stall")) {
            epoll_ctl(epoll, EPOLL_CTL_DEL, followers[count - 1].fd, NULL);
            active--;
            printf("stalled\n");
        }
        fflush(stdout);
    }
}
