"""A set of instance masks that are computed when they are looked at, and only once."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.errors import OutOfMemory
from edgeseg_runtime.results.paste import MaskCrop

__all__ = ["MaskSet", "read_only"]

Scalar = TypeVar("Scalar", bound=np.generic)


def read_only(array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    """Return a view of an array that cannot be written into; the array itself stays as it is."""
    view = array.view()
    view.flags.writeable = False
    return view


class MaskSet:
    """N masks of one picture, read-only and safe to use from several threads.

    A selection shares the crops of the set that it was taken from.

    Args:
        paste: returns the crop of mask number i.
        count: N.
        size: height, width of the picture.
    """

    def __init__(
        self, paste: Callable[[int], MaskCrop], *, count: int, size: tuple[int, int]
    ) -> None:
        self.size = size
        self._shared = _Crops(paste, count)
        self._rows = np.arange(count)
        self._array: npt.NDArray[np.bool_] | None = None

    @classmethod
    def from_array(cls, masks_NHW: npt.NDArray[np.bool_]) -> MaskSet:
        """Return the set that holds ready masks (N, H, W); they are not copied."""
        count, height, width = masks_NHW.shape
        masks = cls(_WholeMask(masks_NHW), count=count, size=(height, width))
        masks._array = read_only(masks_NHW)
        return masks

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> MaskSet:
        """Return the selection of a slice, an index array or a bool array."""
        selection = MaskSet.__new__(MaskSet)
        selection.size = self.size
        selection._shared = self._shared
        selection._rows = self._rows[rows]
        selection._array = None
        return selection

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the array: in a copy it would be writeable, and the crops make it again."""
        return {**self.__dict__, "_array": None}

    def crop(self, index: int) -> MaskCrop:
        """Return one mask, cut out where it can be set; read-only."""
        return self._shared.crop(int(self._rows[index]))

    def array(self) -> npt.NDArray[np.bool_]:
        """Return all masks as (N, H, W), pasted on the first call; read-only, copy them to change them.

        Raises:
            OutOfMemory: if N full pictures do not fit into memory.
        """
        with self._shared.lock:
            if self._array is None:
                self._array = self._pasted()
            return self._array

    def _pasted(self) -> npt.NDArray[np.bool_]:
        try:
            masks_NHW, written = _memory.zeros((len(self), *self.size))
        except MemoryError as error:
            raise OutOfMemory(
                f"{len(self)} masks of {self.size[0]}x{self.size[1]} pixels do not fit into "
                "memory. Use mask_crops, or filter the instances first."
            ) from error
        for index, mask_HW in enumerate(masks_NHW):
            top, left, bits = self.crop(index)
            place = slice(top, top + bits.shape[0]), slice(left, left + bits.shape[1])
            written.append((index, *place))
            mask_HW[place] = bits
        return read_only(masks_NHW)  # only what is written here is cleared for the next picture


class _Memory:
    """Hands out zeroed masks, if possible in the memory of masks that nobody holds any more.

    Masks of a large picture are hundreds of megabytes, most of which is never touched. To get the
    touched pages from the system anew for every picture took 60 to 500 ms, where it takes 20 ms to
    clear what the last picture wrote.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the collector may give back while it is held
        self._spare: tuple[npt.NDArray[np.bool_], _Written] | None = None

    def zeros(self, shape: tuple[int, int, int]) -> tuple[npt.NDArray[np.bool_], _Written]:
        """Return an array of False, and the list in which to note what is written into it.

        Raises:
            MemoryError: if the array does not fit into memory.
        """
        count, height, width = shape
        if count == 0:
            return np.zeros(shape, np.bool_), []
        memory = self._take(shape)
        written: _Written = []
        # Not a plain view: a view of a view refers to the owner alone, so nothing would tell when
        # the last one is gone. The array over a memoryview stays referred to.
        flat = np.frombuffer(memory.data, np.bool_, count=count * height * width)
        weakref.finalize(flat, self._give_back, memory, written).atexit = False
        return flat.reshape(shape), written

    def _take(self, shape: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is None or spare[0].shape[1:] != shape[1:] or len(spare[0]) < shape[0]:
            return np.zeros(shape, np.bool_)
        memory, written = spare
        for place in written:
            memory[place] = False
        return memory

    def _give_back(self, memory: npt.NDArray[np.bool_], written: _Written) -> None:
        with self._lock:
            if self._spare is None or self._spare[0].size <= memory.size:
                self._spare = memory, written


_Written = list[tuple[int, slice, slice]]
_memory = _Memory()


class _WholeMask:
    """The crop of a ready mask is the mask."""

    def __init__(self, masks_NHW: npt.NDArray[np.bool_]) -> None:
        self._masks_NHW = masks_NHW

    def __call__(self, index: int) -> MaskCrop:
        return MaskCrop(0, 0, self._masks_NHW[index])


class _Crops:
    """Pastes every crop at most once, whichever thread asks."""

    def __init__(self, paste: Callable[[int], MaskCrop], count: int) -> None:
        self._paste = paste
        self._crops: list[MaskCrop | None] = [None] * count
        self.lock = threading.RLock()

    def crop(self, index: int) -> MaskCrop:
        crop = self._crops[index]
        if crop is None:
            with self.lock:
                crop = self._crops[index]
                if crop is None:
                    crop = self._paste(index)
                    crop = crop._replace(bits=read_only(crop.bits))
                    self._crops[index] = crop
        return crop

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the lock, so that results can be sent to another process."""
        return {"_paste": self._paste, "_crops": self._crops}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, lock=threading.RLock())
        self._crops = [
            None if crop is None else crop._replace(bits=read_only(crop.bits))
            for crop in self._crops
        ]
