"""Lets the C library give freed memory back to the system."""

from __future__ import annotations

import ctypes
import sys

_MMAP_THRESHOLD, _THRESHOLD_BYTES = -3, 256 * 1024  # M_MMAP_THRESHOLD of malloc.h


def give_back_freed_memory() -> None:
    """Let every large block that is freed from now on go back to the system at once.

    An export makes and frees weights in several forms. glibc raises the size from which on a block is mapped
    for itself to that of the largest one freed, up to 32 MiB; smaller ones then stay with the process, in pieces
    that often fit nothing else: a whole copy of the weights and more. Elsewhere nothing is done.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, _THRESHOLD_BYTES)
        library.malloc_trim(0)
