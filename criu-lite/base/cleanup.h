/* SPDX-License-Identifier: Apache-2.0 */
/* Scoped release of local resources: every resource has one owner. */
#pragma once

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))

static inline void cleanup_free(void *p) { free(*(void **)p); }
static inline void cleanup_close(const int *fd) { if (*fd >= 0) close(*fd); }
static inline void cleanup_fclose(FILE **f) { if (*f) fclose(*f); }
static inline void cleanup_closedir(DIR **d) { if (*d) closedir(*d); }

#define _cleanup_free_     _cleanup_(cleanup_free)
#define _cleanup_close_    _cleanup_(cleanup_close)
#define _cleanup_fclose_   _cleanup_(cleanup_fclose)
#define _cleanup_closedir_ _cleanup_(cleanup_closedir)

/* Hands a resource on: returns it and leaves nothing behind to release. */
#define steal_ptr(p) ({ __typeof__(p) _stolen = (p); (p) = NULL; _stolen; })
#define steal_fd(fd) ({ int _stolen = (fd); (fd) = -1; _stolen; })
