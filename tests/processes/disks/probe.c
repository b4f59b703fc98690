/* Writes in known steps below the folder that it is given, then waits to be killed: what of this
 * survives a power cut is known beforehand (see power.rs). */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void must(int holds, const char *what) {
    if (!holds) perror(what), exit(1);
}

static int begin(const char *name, const char *text) {
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    must(fd >= 0 && write(fd, text, strlen(text)) > 0, name);
    return fd;
}

static void sync_names(void) {
    int fd = open(".", O_RDONLY);
    must(fd >= 0 && fsync(fd) == 0, "sync the folder");
}

int main(int count, char **words) {
    must(count == 2 && chdir(words[1]) == 0, "enter the folder");
    int tail = begin("tail", "synced,");
    int inside = begin("inside", "0123456789");
    int cut = begin("cut", "whole");
    int old = begin("renamed", "old");
    int removed = begin("removed", "there");
    int empty = begin("empty", "bytes without a sync");
    must(fsync(tail) == 0 && fdatasync(inside) == 0 && fsync(cut) == 0, "sync");
    must(fsync(old) == 0 && fsync(removed) == 0 && empty >= 0, "sync");
    sync_names();
    /* From here on, only "inside" and "swapped" are made durable. */
    must(write(tail, "not synced", 10) == 10, "append");
    must(pwrite(inside, "ABC", 3, 4) == 3 && fdatasync(inside) == 0, "write inside");
    must(pwrite(inside, "xyz", 3, 0) == 3, "write inside");
    must(ftruncate(cut, 2) == 0, "cut");
    int swapped = begin("new", "new");
    must(fsync(swapped) == 0 && rename("new", "renamed") == 0, "rename");
    must(unlink("removed") == 0, "remove");
    must(fsync(begin("nameless", "synced, but not its name")) == 0, "sync");
    puts("ready");
    fflush(stdout);
    pause();
    return 0;
}
