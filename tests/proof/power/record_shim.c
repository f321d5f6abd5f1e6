/* Preloaded before libc: writes down, in order, every change to the files of one folder and every sync that ended.
 *
 * RECORD_FILE names the recording, opened for appending here and inherited by forks; RECORD_FOLDER is the folder. A record
 * is a `struct head`, the path, the bytes written. A change is recorded before it is made, a sync after it returned, with
 * the length that the recording had when it began: what is before that, it promises to have on the disk. Nothing is
 * failed or delayed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PATH_MAX_BYTES 4096

enum { WRITE = 1, TRUNCATE = 2, SYNC = 3, UNLINK = 4, RENAME = 5 };

struct head {
  uint64_t mono_ns; /* CLOCK_MONOTONIC */
  uint64_t at;      /* WRITE: offset; TRUNCATE: new size; SYNC: bytes recorded before it began */
  uint32_t kind;
  uint32_t path_bytes;
  uint32_t data_bytes; /* WRITE: what was written; RENAME: the new path */
  uint32_t zero;
};

static const char *folder;
static size_t folder_bytes;
static int recording = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void open_recording(void) {
  const char *path = getenv("RECORD_FILE");
  folder = getenv("RECORD_FOLDER");
  if (path == NULL || folder == NULL) return;
  folder_bytes = strlen(folder);
  recording = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (recording < 0) abort();
}

/* Whether the folder itself or a file below it. */
static int is_meant(const char *path) {
  return strncmp(path, folder, folder_bytes) == 0 && (path[folder_bytes] == '/' || path[folder_bytes] == 0);
}

/* Where an open file lies; 0 when it is not meant. */
static int path_of(int descriptor, char *path) {
  char link[64];
  if (recording < 0) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, path, PATH_MAX_BYTES - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return is_meant(path);
}

static void record(uint32_t kind, const char *path, uint64_t at, const void *data, size_t data_bytes) {
  struct head head = {.at = at, .kind = kind, .path_bytes = (uint32_t)strlen(path), .data_bytes = (uint32_t)data_bytes};
  struct iovec parts[] = {
      {&head, sizeof head}, {(void *)path, head.path_bytes}, {(void *)data, data_bytes},
  };
  struct timespec now;
  int error = errno;
  pthread_mutex_lock(&lock);
  clock_gettime(CLOCK_MONOTONIC, &now);
  head.mono_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
  /* A recording with a hole would prove nothing. */
  if (writev(recording, parts, 3) != (ssize_t)(sizeof head + head.path_bytes + data_bytes)) abort();
  pthread_mutex_unlock(&lock);
  errno = error;
}

static int synced(int (*real)(int), int descriptor) {
  char path[PATH_MAX_BYTES];
  if (!path_of(descriptor, path)) return real(descriptor);
  struct stat before;
  if (fstat(recording, &before) != 0) abort();
  int result = real(descriptor);
  if (result == 0) record(SYNC, path, (uint64_t)before.st_size, NULL, 0);
  return result;
}

int fsync(int descriptor) { return synced(REAL(fsync), descriptor); }

int fdatasync(int descriptor) { return synced(REAL(fdatasync), descriptor); }

ssize_t pwrite(int descriptor, const void *bytes, size_t count, off_t at) {
  char path[PATH_MAX_BYTES];
  if (path_of(descriptor, path)) record(WRITE, path, (uint64_t)at, bytes, count);
  return REAL(pwrite)(descriptor, bytes, count, at);
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t count, off64_t at) {
  char path[PATH_MAX_BYTES];
  if (path_of(descriptor, path)) record(WRITE, path, (uint64_t)at, bytes, count);
  return REAL(pwrite64)(descriptor, bytes, count, at);
}

ssize_t write(int descriptor, const void *bytes, size_t count) {
  char path[PATH_MAX_BYTES];
  if (path_of(descriptor, path)) {
    off_t at = lseek(descriptor, 0, fcntl(descriptor, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
    record(WRITE, path, (uint64_t)at, bytes, count);
  }
  return REAL(write)(descriptor, bytes, count);
}

int ftruncate(int descriptor, off_t size) {
  char path[PATH_MAX_BYTES];
  if (path_of(descriptor, path)) record(TRUNCATE, path, (uint64_t)size, NULL, 0);
  return REAL(ftruncate)(descriptor, size);
}

int ftruncate64(int descriptor, off64_t size) {
  char path[PATH_MAX_BYTES];
  if (path_of(descriptor, path)) record(TRUNCATE, path, (uint64_t)size, NULL, 0);
  return REAL(ftruncate64)(descriptor, size);
}

int unlink(const char *path) {
  if (recording >= 0 && is_meant(path)) record(UNLINK, path, 0, NULL, 0);
  return REAL(unlink)(path);
}

int rename(const char *from, const char *to) {
  if (recording >= 0 && is_meant(from)) record(RENAME, from, 0, to, strlen(to));
  return REAL(rename)(from, to);
}
