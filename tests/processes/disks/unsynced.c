/* A disk that forgets what was not synced, and fails as it is told to.
 *
 * Preloaded into a node (LD_PRELOAD), it keeps a shadow of the data folder that holds only what
 * was synced. A power cut is then: SIGKILL, and the folder put back from its shadow (power.rs).
 *
 *   write, pwrite, writev, pwritev, ftruncate,    mark what they change of a file
 *   open with O_TRUNC
 *   fsync, fdatasync, sync_file_range             copy that from the file into shadow/files/INODE
 *   fsync of a folder                             writes its names to shadow/dirs/INODE
 *
 * Durable is what POSIX promises and no more: the bytes of a file by a sync of the file, its name
 * (created, renamed, removed) by a sync of the folder, which alone makes neither. A file is known
 * by its inode; a link in shadow/live keeps the inode from being used again, and the bytes that
 * were not synced for whoever cuts the power. Syncs do not reach the real disk: the tests pull no
 * real plug.
 *
 * Not covered: mapped memory (neither the node nor its engine maps a file for writing), O_DIRECT,
 * io_uring, what libc writes by itself (stdio), system calls that bypass libc (tempfile opens and renames so; no name is looked at
 * before its folder is synced, so that does not matter), and folders that are removed and made
 * anew. One process at a time uses a folder.
 *
 * CONTROL is a file of eight numbers that tests change at any time: see struct control.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control {
    _Atomic int64_t lies;            /* 1: a sync does nothing, and says that it did */
    _Atomic int64_t sync_delay_us;   /* how long a sync takes */
    _Atomic int64_t sync_errno;      /* what a sync fails with; 0: it does not */
    _Atomic int64_t limited;         /* 1: writes take from room, and fail with ENOSPC without */
    _Atomic int64_t room;            /* bytes left */
    _Atomic int64_t clock_offset_ms; /* how far the wall clock is off */
    _Atomic int64_t syncs;           /* counted here */
    _Atomic int64_t reserved;
};

/* What is known of a file since this process began. */
struct file {
    ino_t inode;
    off_t from, to;  /* what has changed since the last sync lies in between */
    off_t lowest;    /* the shortest that it was since then */
    struct file *next;
};

#define BUCKETS 1024
#define BLOCK 65536

static char root[PATH_MAX], shadow[PATH_MAX];
static size_t root_length;
static struct control *control;
static struct file *files[BUCKETS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

/* A layer that fails must not look like a disk that holds. */
static void give_up(const char *what) {
    dprintf(2, "unsynced.c: cannot %s: %s\n", what, strerror(errno));
    abort();
}

__attribute__((constructor)) static void start(void) {
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    const char *of = getenv("UNSYNCED_ROOT"), *in = getenv("UNSYNCED_SHADOW");
    const char *by = getenv("UNSYNCED_CONTROL");
    if (!of || !in || !by) return;
    snprintf(root, sizeof root, "%s", of);
    snprintf(shadow, sizeof shadow, "%s", in);
    root_length = strlen(root);
    int fd = open(by, O_RDWR | O_CLOEXEC);
    if (fd < 0) give_up("open the control file");
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (control == MAP_FAILED) give_up("map the control file");
    close(fd);
}

/* Whether a descriptor is of a file (S_IFREG) or folder (S_IFDIR) of the node's. */
static int is_ours(int fd, mode_t kind, struct stat *about, char *path) {
    if (!control || fstat(fd, about) < 0 || (about->st_mode & S_IFMT) != kind) return 0;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return !strncmp(path, root, root_length) && (!path[root_length] || path[root_length] == '/');
}

static void place(char *out, const char *kind, ino_t inode) {
    if (snprintf(out, PATH_MAX, "%s/%s/%lu", shadow, kind, (unsigned long)inode) >= PATH_MAX)
        give_up("name a file of the shadow");
}

/* The file behind a path; held from now on. What it was before this process began is not known:
 * all of it counts as changed. NULL if it is gone. Call with the lock held. */
static struct file *known(const char *path, int follow, const struct stat *about) {
    struct file **bucket = &files[about->st_ino % BUCKETS];
    for (struct file *file = *bucket; file; file = file->next)
        if (file->inode == about->st_ino) return file;
    char live[PATH_MAX];
    place(live, "live", about->st_ino);
    if (linkat(AT_FDCWD, path, AT_FDCWD, live, follow) < 0 && errno != EEXIST) {
        if (errno == ENOENT) return NULL;
        give_up("hold a file");
    }
    struct file *file = calloc(1, sizeof *file);
    if (!file) give_up("remember a file");
    *file = (struct file){about->st_ino, 0, about->st_size, about->st_size, *bucket};
    return *bucket = file;
}

static struct file *known_by(int fd, const struct stat *about) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return known(link, AT_SYMLINK_FOLLOW, about);
}

/* Bytes of a file have changed. */
static void changed(int fd, off_t from, off_t to) {
    struct stat about;
    char path[PATH_MAX];
    int error = errno;
    if (is_ours(fd, S_IFREG, &about, path)) {
        pthread_mutex_lock(&lock);
        struct file *file = known_by(fd, &about);
        if (file) {
            int clean = file->from == file->to;
            if (clean || from < file->from) file->from = from;
            if (clean || to > file->to) file->to = to;
        }
        pthread_mutex_unlock(&lock);
    }
    errno = error;
}

static void copy(int from, int to, off_t at, off_t end) {
    static char theirs[BLOCK], ours[BLOCK];
    while (at < end) {
        size_t want = end - at < BLOCK ? end - at : BLOCK;
        ssize_t got = pread(from, theirs, want, at);
        if (got < 0) give_up("read a file");
        if (got == 0) return;
        if (pread(to, ours, got, at) != got || memcmp(theirs, ours, got))
            if (syscall(SYS_pwrite64, to, theirs, got, at) != got) give_up("write the shadow");
        at += got;
    }
}

static void sync_file(int fd, const struct stat *about) {
    pthread_mutex_lock(&lock);
    struct file *file = known_by(fd, about);
    if (file) {
        char path[PATH_MAX];
        place(path, "live", about->st_ino);
        int from = open(path, O_RDONLY | O_CLOEXEC);
        place(path, "files", about->st_ino);
        int to = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        struct stat now, then;
        if (from < 0 || to < 0 || fstat(from, &now) < 0 || fstat(to, &then) < 0)
            give_up("open a file of the shadow");
        if (then.st_size > file->lowest && syscall(SYS_ftruncate, to, file->lowest) < 0)
            give_up("cut a file of the shadow");
        if (syscall(SYS_ftruncate, to, now.st_size) < 0) give_up("size a file of the shadow");
        copy(from, to, file->from, file->to);
        file->from = file->to = 0;
        file->lowest = now.st_size;
        close(from);
        close(to);
    }
    pthread_mutex_unlock(&lock);
}

static void sync_folder(const char *path, const struct stat *about) {
    pthread_mutex_lock(&lock);
    char list[PATH_MAX], next[PATH_MAX + 8], below[PATH_MAX + 300];
    place(list, "dirs", about->st_ino);
    snprintf(next, sizeof next, "%s.next", list);
    int out = open(next, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    DIR *folder = opendir(path);
    if (out < 0 || !folder) give_up("list a folder");
    for (struct dirent *entry; (entry = readdir(folder));) {
        struct stat of;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
        if (lstat(below, &of) < 0) continue;
        char line[PATH_MAX];
        int length = snprintf(line, sizeof line, "%c %lu %s\n", S_ISDIR(of.st_mode) ? 'd' : 'f',
                              (unsigned long)of.st_ino, entry->d_name);
        if (S_ISREG(of.st_mode) && !known(below, 0, &of)) continue;
        if (syscall(SYS_write, out, line, length) != length) give_up("write a list of names");
    }
    closedir(folder);
    close(out);
    if (rename(next, list) < 0) give_up("replace a list of names");
    pthread_mutex_unlock(&lock);
}

static int synced(int fd, long number) {
    struct stat about;
    char path[PATH_MAX];
    int is_file = is_ours(fd, S_IFREG, &about, path);
    if (!is_file && !is_ours(fd, S_IFDIR, &about, path)) return syscall(number, fd);
    control->syncs++;
    if (control->sync_delay_us) usleep(control->sync_delay_us);
    if (control->sync_errno) {
        errno = control->sync_errno;
        return -1;
    }
    if (control->lies) return 0;
    if (is_file) sync_file(fd, &about);
    else sync_folder(path, &about);
    return 0;
}

int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }
int sync_file_range(int fd, off64_t at, off64_t length, unsigned flags) {
    struct stat about;
    char path[PATH_MAX];
    /* It promises nothing of a power cut. */
    if (is_ours(fd, S_IFREG, &about, path)) return 0;
    return syscall(SYS_sync_file_range, fd, at, length, flags);
}

/* How much of a write finds room; -1 if nothing does. */
static ssize_t admitted(int fd, size_t wanted) {
    struct stat about;
    char path[PATH_MAX];
    if (!control || !control->limited || !is_ours(fd, S_IFREG, &about, path)) return wanted;
    int64_t left = control->room;
    int64_t taken = left < (int64_t)wanted ? left : (int64_t)wanted;
    if (taken <= 0 && wanted) {
        errno = ENOSPC;
        return -1;
    }
    control->room -= taken;
    return taken;
}

ssize_t write(int fd, const void *from, size_t length) {
    ssize_t some = admitted(fd, length);
    if (some < 0) return -1;
    ssize_t done = syscall(SYS_write, fd, from, (size_t)some);
    if (done > 0 && control) {
        off_t end = lseek(fd, 0, SEEK_CUR);
        if (end >= done) changed(fd, end - done, end);
    }
    return done;
}

ssize_t pwrite64(int fd, const void *from, size_t length, off64_t at) {
    ssize_t some = admitted(fd, length);
    if (some < 0) return -1;
    ssize_t done = syscall(SYS_pwrite64, fd, from, (size_t)some, at);
    if (done > 0) changed(fd, at, at + done);
    return done;
}
ssize_t pwrite(int fd, const void *from, size_t length, off_t at) {
    return pwrite64(fd, from, length, at);
}

/* A disk with little room takes vectors piece by piece. */
ssize_t writev(int fd, const struct iovec *pieces, int count) {
    struct stat about;
    char path[PATH_MAX];
    if (!is_ours(fd, S_IFREG, &about, path)) return syscall(SYS_writev, fd, pieces, count);
    ssize_t total = 0;
    for (int each = 0; each < count; each++) {
        ssize_t done = write(fd, pieces[each].iov_base, pieces[each].iov_len);
        if (done < 0) return total ? total : -1;
        total += done;
        if ((size_t)done < pieces[each].iov_len) break;
    }
    return total;
}
ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off64_t at) {
    ssize_t total = 0;
    for (int each = 0; each < count; each++) {
        ssize_t done = pwrite64(fd, pieces[each].iov_base, pieces[each].iov_len, at + total);
        if (done < 0) return total ? total : -1;
        total += done;
        if ((size_t)done < pieces[each].iov_len) break;
    }
    return total;
}
ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t at) {
    return pwritev64(fd, pieces, count, at);
}

/* These would write past us: whoever uses them falls back to write. */
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t length, unsigned flags) {
    struct stat about;
    char path[PATH_MAX];
    if (!is_ours(out, S_IFREG, &about, path))
        return syscall(SYS_copy_file_range, in, from, out, to, length, flags);
    errno = EXDEV;
    return -1;
}
ssize_t sendfile64(int out, int in, off64_t *from, size_t length) {
    struct stat about;
    char path[PATH_MAX];
    if (!is_ours(out, S_IFREG, &about, path)) return syscall(SYS_sendfile, out, in, from, length);
    errno = EINVAL;
    return -1;
}

/* A file is, or was for a moment, this short. */
static void shortened(int fd, off_t length) {
    struct stat about;
    char path[PATH_MAX];
    int error = errno;
    if (is_ours(fd, S_IFREG, &about, path)) {
        pthread_mutex_lock(&lock);
        struct file *file = known_by(fd, &about);
        if (file && length < file->lowest) file->lowest = length;
        pthread_mutex_unlock(&lock);
    }
    errno = error;
}

int ftruncate64(int fd, off64_t length) {
    int done = syscall(SYS_ftruncate, fd, length);
    if (done == 0) shortened(fd, length);
    return done;
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    int fd = syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (fd >= 0 && flags & O_TRUNC) shortened(fd, 0);
    return fd;
}
int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return open64(path, flags, mode);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int done = real_clock_gettime ? real_clock_gettime(clock, now)
                                  : (int)syscall(SYS_clock_gettime, clock, now);
    if (done == 0 && control && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t offset = control->clock_offset_ms;
        now->tv_sec += offset / 1000;
        now->tv_nsec += offset % 1000 * 1000000;
        if (now->tv_nsec < 0) now->tv_sec--, now->tv_nsec += 1000000000;
        if (now->tv_nsec >= 1000000000) now->tv_sec++, now->tv_nsec -= 1000000000;
    }
    return done;
}
