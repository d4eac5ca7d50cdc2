"""Matrix products that stay on the calling thread.

NumPy's BLAS wakes its worker threads for any product of some size. While an engine's own threads
spin on the same cores, that turns 0.1 ms into 20 ms. OpenBLAS, which NumPy's wheels carry, stays
on one thread up to 2^18 multiplications (interface/gemm.c, SMP_THRESHOLD_MIN), so products are cut
into pieces of at most that size.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_SERIAL_PRODUCTS", "matmul_serial"]

MAX_SERIAL_PRODUCTS = 2**18


def matmul_serial(
    left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return left (M, K) @ right (K, N), computed in blocks of rows on the calling thread."""
    num_rows, depth = left.shape
    block_rows = max(1, MAX_SERIAL_PRODUCTS // max(1, right.size))
    if num_rows <= block_rows:
        return left @ right
    num_blocks = -(-num_rows // block_rows)
    padded = np.zeros((num_blocks * block_rows, depth), np.float32)
    padded[:num_rows] = left
    product = padded.reshape(num_blocks, block_rows, depth) @ right
    return product.reshape(num_blocks * block_rows, -1)[:num_rows]
