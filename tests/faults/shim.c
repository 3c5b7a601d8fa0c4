/* What the host program's libc answers, changed: a clock that jumps, a disk quota that is used up.
 * Sandboxes start with an empty environment and do not have it. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { JUMP = 7200, AFTER_MS = 300 };

static long now_ms(void) {
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* LIS_JUMP=wall: each look at the wall clock is two hours before or after the one before it.
 * LIS_JUMP=monotonic: what no kernel does, to see that the test would notice. */
int clock_gettime(clockid_t clock, struct timespec *time) {
    static atomic_long looks, begun;
    const char *which = getenv("LIS_JUMP");
    if (syscall(SYS_clock_gettime, clock, time) != 0)
        return -1;
    if (!which)
        return 0;
    if (clock == CLOCK_REALTIME && strcmp(which, "wall") == 0)
        time->tv_sec += atomic_fetch_add(&looks, 1) % 2 ? JUMP : -JUMP;
    if (clock == CLOCK_MONOTONIC && strcmp(which, "monotonic") == 0) {
        long zero = 0;
        atomic_compare_exchange_strong(&begun, &zero, now_ms());
        if (now_ms() - atomic_load(&begun) > AFTER_MS)
            time->tv_sec += JUMP;
    }
    return 0;
}

/* LIS_QUOTA=DIRECTORY: nothing more is written to files in it. */
ssize_t write(int fd, const void *bytes, size_t count) {
    const char *full = getenv("LIS_QUOTA");
    if (full) {
        char link[64], path[PATH_MAX];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        if (length > 0 && strncmp(path, full, strlen(full)) == 0) {
            errno = EDQUOT;
            return -1;
        }
    }
    return syscall(SYS_write, fd, bytes, count);
}
