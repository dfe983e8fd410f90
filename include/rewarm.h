/* Freeze and thaw the GPU memory of this process, where it runs under rewarm.
 *
 *     if (rewarm_is_active()) {
 *         rewarm_discard(kv_cache, kv_cache_bytes);
 *         if (rewarm_freeze("/dev/shm/model", 10.0) != REWARM_OK)
 *             fprintf(stderr, "%s\n", rewarm_error());
 *     }
 *
 * This header is all there is: nothing is linked, and a program built with it runs
 * unchanged without rewarm, where every function returns REWARM_NOT_ACTIVE. It talks
 * to the control socket of its own process. C99 or C++11, Linux. SPDX-License-Identifier: Apache-2.0
 */
#ifndef REWARM_H
#define REWARM_H

#include <asm/socket.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the functions return. */
enum {
    REWARM_OK = 0,
    /* The process does not run under rewarm, or has not initialised CUDA. */
    REWARM_NOT_ACTIVE = -1,
    /* It could not be done, and everything is as before: rewarm_error says why. */
    REWARM_FAILED = -2,
    /* The conversation broke off: what became of it is not known. */
    REWARM_BROKEN = -3
};

/* Flags of rewarm_thaw. */
enum {
    /* The snapshot stays on disk: the next freeze to it writes only what changed. */
    REWARM_KEEP_SNAPSHOT = 1,
    /* Checksums are not compared. */
    REWARM_NO_VERIFY = 2
};

/* Why the last call of this thread, in this source file, failed. Never null. */
static inline const char *rewarm_error(void);

/* 1 if this process runs under rewarm and has initialised CUDA, else 0. */
static inline int rewarm_is_active(void);

/* Takes all GPU memory of this process to a snapshot in a folder (an absolute path).
 * Waits at most so many seconds for calls and streams of CUDA to end. Afterwards
 * threads that call CUDA wait until the process is thawed; this one may thaw it. */
static inline int rewarm_freeze(const char *to, double drain_seconds);

/* Brings the GPU memory back. Waits at most so many seconds for enough free memory. */
static inline int rewarm_thaw(unsigned flags, double wait_seconds);

/* Says that GPU memory need not survive a freeze: it comes back as zeroes. Holds until
 * rewarm_keep, or until the memory is freed. A CUdeviceptr is cast to a pointer. */
static inline int rewarm_discard(const void *address, size_t bytes);

/* Takes rewarm_discard back. */
static inline int rewarm_keep(const void *address, size_t bytes);

/* From here on nothing is meant to be used. */

#define REWARM_MAX_FRAME_ 1048576u
#define REWARM_PATIENCE_ 3
#define REWARM_SILENCE_ 30

static inline char *rewarm_message_(void) {
    static __thread char message[1024];
    return message;
}

static inline const char *rewarm_error(void) { return rewarm_message_(); }

static inline int rewarm_fail_(int code, const char *why) {
    snprintf(rewarm_message_(), 1024, "%s", why);
    return code;
}

/* Sends or receives all of it. Returns 0, or -1 with errno. */
static inline int rewarm_send_(int fd, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) return -1;
        bytes += sent;
        length -= (size_t)sent;
    }
    return 0;
}

static inline int rewarm_receive_(int fd, char *bytes, size_t length) {
    while (length > 0) {
        ssize_t got = recv(fd, bytes, length, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got == 0) errno = ECONNRESET;
        if (got <= 0) return -1;
        bytes += got;
        length -= (size_t)got;
    }
    return 0;
}

static inline int rewarm_limit_(int fd, int seconds) {
    struct timeval limit;
    limit.tv_sec = seconds;
    limit.tv_usec = 0;
    return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) |
           setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

/* Connects to the socket of this very process in a folder. Returns -1 if it does not
 * listen there. */
static inline int rewarm_connect_in_(const char *folder, const char *below) {
    struct sockaddr_un address;
    struct { int pid, uid, gid; } peer;
    socklen_t peer_length = sizeof peer;
    int fd, length;
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    length = snprintf(address.sun_path, sizeof address.sun_path, "%s%s/%ld.sock", folder, below,
                      (long)getpid());
    if (length < 0 || (size_t)length >= sizeof address.sun_path) return -1;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    if (rewarm_limit_(fd, REWARM_PATIENCE_) == 0 &&
        connect(fd, (const struct sockaddr *)&address, sizeof address) == 0 &&
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_length) == 0 &&
        peer.pid == (int)getpid())
        return fd;
    close(fd);
    return -1;
}

static inline int rewarm_connect_(void) {
    const char *own = getenv("REWARM_RUN_DIR");
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    unsigned uid = (unsigned)geteuid();
    char folder[64];
    int fd = -1;
    if (own && *own) return rewarm_connect_in_(own, "");
    if (uid == 0) fd = rewarm_connect_in_("/run/rewarm", "");
    if (fd < 0 && runtime && *runtime == '/') fd = rewarm_connect_in_(runtime, "/rewarm");
    snprintf(folder, sizeof folder, "/run/user/%u/rewarm", uid);
    if (fd < 0) fd = rewarm_connect_in_(folder, "");
    snprintf(folder, sizeof folder, "/tmp/rewarm-%u", uid);
    if (fd < 0) fd = rewarm_connect_in_(folder, "");
    return fd;
}

/* The value of "response", behind its quote. Within a string the quotes would be escaped. */
static inline const char *rewarm_kind_(const char *text) {
    const char *kind = strstr(text, "\"response\":\"");
    return kind ? kind + strlen("\"response\":\"") : "";
}

static inline int rewarm_is_(const char *kind, const char *name) {
    size_t length = strlen(name);
    return strncmp(kind, name, length) == 0 && kind[length] == '"';
}

/* The body of an error becomes that of rewarm_error. */
static inline int rewarm_refused_(const char *message) {
    const char *from = strstr(message, "\"body\":\"");
    char text[1024];
    size_t length = 0;
    if (!from) return rewarm_fail_(REWARM_FAILED, "rewarm refused");
    for (from += strlen("\"body\":\""); *from && *from != '"'; from++) {
        if (*from == '\\' && from[1]) {
            from++;
            if (*from == 'u' || *from == 'n' || *from == 't' || *from == 'r') {
                text[length] = ' ';
                if (*from == 'u' && strlen(from) > 4) from += 4;
            } else {
                text[length] = *from;
            }
        } else {
            text[length] = *from;
        }
        if (++length == sizeof text - 1) break;
    }
    text[length] = '\0';
    return rewarm_fail_(REWARM_FAILED, text);
}

static inline int rewarm_broken_(void) {
    if (errno == EAGAIN || errno == EWOULDBLOCK)
        return rewarm_fail_(REWARM_BROKEN, "rewarm said nothing for too long");
    return rewarm_fail_(REWARM_BROKEN, "the conversation with rewarm broke off");
}

/* One message, with a zero behind it; null if there is none. To be freed. */
static inline char *rewarm_read_(int fd) {
    unsigned char head[4];
    uint32_t length;
    char *text;
    if (rewarm_receive_(fd, (char *)head, sizeof head) != 0) return NULL;
    length = head[0] | (uint32_t)head[1] << 8 | (uint32_t)head[2] << 16 | (uint32_t)head[3] << 24;
    errno = EBADMSG;
    if (length > REWARM_MAX_FRAME_) return NULL;
    text = (char *)malloc((size_t)length + 1);
    if (text && rewarm_receive_(fd, text, length) != 0) {
        free(text);
        return NULL;
    }
    if (text) text[length] = '\0';
    return text;
}

/* Asks, and waits for the answer of that name. */
static inline int rewarm_ask_(const char *request, const char *answer, int patience) {
    int fd = rewarm_connect_(), result = 1;
    size_t length = strlen(request);
    char head[4];
    if (fd < 0)
        return rewarm_fail_(REWARM_NOT_ACTIVE,
                            "this process does not run under rewarm, or has not used CUDA yet: "
                            "start it with `rewarm run --freezable`");
    head[0] = (char)(length & 255);
    head[1] = (char)(length >> 8 & 255);
    head[2] = (char)(length >> 16 & 255);
    head[3] = (char)(length >> 24 & 255);
    if (rewarm_send_(fd, head, sizeof head) != 0 || rewarm_send_(fd, request, length) != 0 ||
        rewarm_limit_(fd, patience) != 0)
        result = rewarm_broken_();
    while (result > 0) {
        char *text = rewarm_read_(fd);
        const char *kind = text ? rewarm_kind_(text) : "";
        if (!text)
            result = rewarm_broken_();
        else if (rewarm_is_(kind, answer))
            result = rewarm_fail_(REWARM_OK, "");
        else if (rewarm_is_(kind, "error"))
            result = rewarm_refused_(text);
        else if (!rewarm_is_(kind, "progress"))
            result = rewarm_fail_(REWARM_BROKEN, "rewarm gave an answer to something else");
        free(text);
    }
    close(fd);
    return result;
}

/* Thousandths, so that no locale has a say in what a number looks like. */
static inline long long rewarm_milliseconds_(double seconds) {
    if (!(seconds > 0)) return 0;
    return seconds < 1e9 ? (long long)(seconds * 1000) : 1000000000000LL;
}

static inline int rewarm_is_active(void) {
    return rewarm_ask_("{\"version\":1,\"request\":\"status\"}", "status", REWARM_PATIENCE_) ==
           REWARM_OK;
}

static inline int rewarm_freeze(const char *to, double drain_seconds) {
    char request[8192];
    long long wait = rewarm_milliseconds_(drain_seconds);
    size_t length;
    snprintf(request, sizeof request,
             "{\"version\":1,\"request\":\"freeze\",\"drain_seconds\":%lld.%03lld,\"to\":\"",
             wait / 1000, wait % 1000);
    for (length = strlen(request); *to; to++) {
        if (length + 16 > sizeof request)
            return rewarm_fail_(REWARM_FAILED, "the path of the snapshot is too long");
        if (*to == '"' || *to == '\\' || (unsigned char)*to < 32)
            length += (size_t)snprintf(request + length, 7, "\\u%04x", (unsigned char)*to);
        else
            request[length++] = *to;
    }
    memcpy(request + length, "\"}", 3);
    return rewarm_ask_(request, "frozen", REWARM_SILENCE_);
}

static inline int rewarm_thaw(unsigned flags, double wait_seconds) {
    char request[256];
    long long wait = rewarm_milliseconds_(wait_seconds);
    snprintf(request, sizeof request,
             "{\"version\":1,\"request\":\"thaw\",\"keep_snapshot\":%s,\"verify\":%s,"
             "\"wait_seconds\":%lld.%03lld,\"order\":\"largest\"}",
             flags & REWARM_KEEP_SNAPSHOT ? "true" : "false",
             flags & REWARM_NO_VERIFY ? "false" : "true", wait / 1000, wait % 1000);
    return rewarm_ask_(request, "thawed", REWARM_SILENCE_);
}

static inline int rewarm_set_discarded_(const void *address, size_t bytes, const char *discarded) {
    char request[256];
    snprintf(request, sizeof request,
             "{\"version\":1,\"request\":\"discard\",\"address\":%llu,\"bytes\":%llu,"
             "\"discard\":%s}",
             (unsigned long long)(uintptr_t)address, (unsigned long long)bytes, discarded);
    return rewarm_ask_(request, "discarded", REWARM_PATIENCE_);
}

static inline int rewarm_discard(const void *address, size_t bytes) {
    return rewarm_set_discarded_(address, bytes, "true");
}

static inline int rewarm_keep(const void *address, size_t bytes) {
    return rewarm_set_discarded_(address, bytes, "false");
}

#ifdef __cplusplus
}
#endif

#endif
