/* Preloaded before libc: fails or delays chosen calls on files below one folder.
 *
 * FAULT_CONTROL names a file of `struct control`, shared with whoever arms it and inherited by forks; FAULT_FOLDER is the
 * prefix of the files meant. Calls are counted whether armed or not. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct kind {
  uint64_t calls;    /* so far */
  uint64_t fail_at;  /* from this call on (the first is 1); 0: none */
  uint64_t fail_for; /* so many calls */
  uint64_t error;    /* errno */
  uint64_t delay_us; /* of every call */
};

struct control {
  struct kind sync;
  struct kind write;
  uint64_t injected;    /* calls failed so far */
  uint64_t injected_ns; /* CLOCK_MONOTONIC of the first */
};

static struct control *control;
static const char *folder;

__attribute__((constructor)) static void open_control(void) {
  const char *path = getenv("FAULT_CONTROL");
  folder = getenv("FAULT_FOLDER");
  if (path == NULL || folder == NULL) return;
  int descriptor = open(path, O_RDWR | O_CLOEXEC);
  if (descriptor < 0) return;
  void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  close(descriptor);
  if (mapped != MAP_FAILED) control = mapped;
}

static int is_meant(int descriptor) {
  char link[64], target[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, target, sizeof target - 1);
  if (length < 0) return 0;
  target[length] = 0;
  return strncmp(target, folder, strlen(folder)) == 0;
}

/* Whether this call fails; errno is set then. */
static int fails(struct kind *kind, int descriptor) {
  if (!is_meant(descriptor)) return 0;
  uint64_t number = __atomic_add_fetch(&kind->calls, 1, __ATOMIC_SEQ_CST);
  if (kind->delay_us > 0) usleep((useconds_t)kind->delay_us);
  if (kind->fail_at == 0 || number < kind->fail_at || number - kind->fail_at >= kind->fail_for) return 0;
  if (__atomic_fetch_add(&control->injected, 1, __ATOMIC_SEQ_CST) == 0) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    control->injected_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
  }
  errno = (int)kind->error;
  return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int fsync(int descriptor) {
  if (control != NULL && fails(&control->sync, descriptor)) return -1;
  return REAL(fsync)(descriptor);
}

int fdatasync(int descriptor) {
  if (control != NULL && fails(&control->sync, descriptor)) return -1;
  return REAL(fdatasync)(descriptor);
}

ssize_t write(int descriptor, const void *bytes, size_t count) {
  if (control != NULL && fails(&control->write, descriptor)) return -1;
  return REAL(write)(descriptor, bytes, count);
}

ssize_t pwrite(int descriptor, const void *bytes, size_t count, off_t at) {
  if (control != NULL && fails(&control->write, descriptor)) return -1;
  return REAL(pwrite)(descriptor, bytes, count, at);
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t count, off64_t at) {
  if (control != NULL && fails(&control->write, descriptor)) return -1;
  return REAL(pwrite64)(descriptor, bytes, count, at);
}
