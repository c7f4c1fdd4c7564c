/* A disk that is full at a chosen write: preloaded, it counts what changes files below a folder and acts at the k-th.

   watch(folder, k, mode): from now on count calls that need room below `folder` (write, pwrite, writev, sendfile, fsync,
   making a file, folder or link, renaming). At the k-th:
     FAIL_ONCE   it fails with ENOSPC;
     FAIL_ON     it and all later ones fail with ENOSPC;
     KILL        the process is killed before the call does anything;
     PAUSE       the process is stopped (SIGSTOP) before the call; continued, it makes the call.
   k = 0 counts only. writes_seen() gives the count. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char root[PATH_MAX];
enum { FAIL_ONCE, FAIL_ON, KILL, PAUSE };
static int wanted, mode, seen, armed;

void watch(const char *folder, int k, int what) {
    strncpy(root, folder, sizeof root - 1);
    wanted = k, mode = what, seen = 0, armed = 1;
}
int writes_seen(void) { return seen; }

static int is_below(const char *path) { return strncmp(path, root, strlen(root)) == 0; }

static int fails(void) {
    int number = __sync_add_and_fetch(&seen, 1);
    if (!wanted || (number != wanted && !(mode == FAIL_ON && number > wanted))) return 0;
    if (mode == KILL) kill(getpid(), SIGKILL);
    if (mode == PAUSE) { kill(getpid(), SIGSTOP); return 0; }
    errno = ENOSPC;
    return 1;
}
static int path_fails(int at, const char *path) {
    char whole[PATH_MAX * 2] = "";
    if (!armed) return 0;
    if (path[0] != '/') {
        char link[64];
        if (at == AT_FDCWD) { if (!getcwd(whole, PATH_MAX)) return 0; }
        else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", at);
            ssize_t n = readlink(link, whole, PATH_MAX - 1);
            if (n < 0) return 0;
            whole[n] = 0;
        }
        strcat(whole, "/");
    }
    strncat(whole, path, PATH_MAX - 1);
    return is_below(whole) && fails();
}
static int file_fails(int file) {
    char link[64], path[PATH_MAX];
    if (!armed) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return is_below(path) && fails();
}
#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void *data, size_t size) { return size && file_fails(file) ? -1 : NEXT(write)(file, data, size); }
/* a full disk has room for what was taken before (posix_fallocate) */
static int has_room(int file, off64_t end) {
    struct stat64 found;
    return armed && mode <= FAIL_ON && fstat64(file, &found) == 0 && end <= found.st_blocks * 512;
}
ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    return size && !has_room(file, at + size) && file_fails(file) ? -1 : NEXT(pwrite)(file, data, size, at);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
    return size && !has_room(file, at + size) && file_fails(file) ? -1 : NEXT(pwrite64)(file, data, size, at);
}
int posix_fallocate(int file, off_t at, off_t size) { return file_fails(file) ? ENOSPC : NEXT(posix_fallocate)(file, at, size); }
int posix_fallocate64(int file, off64_t at, off64_t size) { return file_fails(file) ? ENOSPC : NEXT(posix_fallocate64)(file, at, size); }
ssize_t writev(int file, const struct iovec *parts, int count) { return file_fails(file) ? -1 : NEXT(writev)(file, parts, count); }
ssize_t sendfile(int out, int in, off_t *at, size_t size);
ssize_t sendfile(int out, int in, off_t *at, size_t size) { return file_fails(out) ? -1 : NEXT(sendfile)(out, in, at, size); }
ssize_t sendfile64(int out, int in, off64_t *at, size_t size);
ssize_t sendfile64(int out, int in, off64_t *at, size_t size) { return file_fails(out) ? -1 : NEXT(sendfile64)(out, in, at, size); }
int fsync(int file) { return file_fails(file) ? -1 : NEXT(fsync)(file); }
int mkdir(const char *path, mode_t mode) { return path_fails(AT_FDCWD, path) ? -1 : NEXT(mkdir)(path, mode); }
int symlink(const char *to, const char *path) { return path_fails(AT_FDCWD, path) ? -1 : NEXT(symlink)(to, path); }
int rename(const char *from, const char *to) { return path_fails(AT_FDCWD, to) ? -1 : NEXT(rename)(from, to); }

static int makes(const char *path, int flags) { return (flags & O_CREAT) && NEXT(access)(path, F_OK) != 0; }
#define OPEN(name)                                                                   \
    int name(const char *path, int flags, ...) {                                     \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        if (armed && makes(path, flags) && path_fails(AT_FDCWD, path)) return -1;    \
        return NEXT(name)(path, flags, mode);                                        \
    }
OPEN(open)
OPEN(open64)
int openat(int at, const char *path, int flags, ...) {
    va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more);
    if (armed && (flags & O_CREAT) && path_fails(at, path)) return -1;
    return NEXT(openat)(at, path, flags, mode);
}
int openat64(int at, const char *path, int flags, ...) {
    va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more);
    if (armed && (flags & O_CREAT) && path_fails(at, path)) return -1;
    return NEXT(openat64)(at, path, flags, mode);
}

/* move_clock(seconds): every look at the clock on the wall finds it so far ahead or behind, by turns. */
static int jump, looks;
void move_clock(int seconds) { jump = seconds; }
static int moved(void) { return !jump ? 0 : __sync_add_and_fetch(&looks, 1) % 2 ? jump : -jump; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int status = NEXT(clock_gettime)(clock, now);
    if (status == 0 && clock == CLOCK_REALTIME) now->tv_sec += moved();
    return status;
}
time_t time(time_t *now) {
    time_t found = NEXT(time)(NULL) + moved();
    if (now) *now = found;
    return found;
}
