"""Settings of the C library's memory allocator."""

import ctypes
import platform


def keep_freed_memory():
    """Let glibc hold on to freed memory until the process ends; other C libraries stay as they are.

    A training step on a CPU frees and allocates hundreds of MB. Handed back to the system and fetched anew, those
    pages cost about as much time as the arithmetic.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block gets a mapping of its own, to be unmapped when it is freed
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: up to 2 GiB stay with the process
