"""A belt that carries items in order from one thread to the next, and never holds many of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["Belt"]

Item = TypeVar("Item")


class Belt(Generic[Item]):
    """Takes items from one thread and gives them to another, in order, with a bounded number between.

    The giver ends it with `end`, the taker leaves it with `leave`; each notices what the other did.

    Args:
        max_items: how many items may wait.
        max_bytes: how large they may be together; a single one may be larger.
        keeps_newest: where an item comes and there is no place, the oldest one is dropped; otherwise
            the giver waits.
    """

    def __init__(self, *, max_items: int, max_bytes: int, keeps_newest: bool = False) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._keeps_newest = keeps_newest
        self._waiting: deque[tuple[Item, int]] = deque()
        self._num_bytes = 0
        self._error: BaseException | None = None
        self._has_ended = False
        self._was_left = False
        self._changed = threading.Condition()
        self.num_dropped = 0
        """How many items were dropped so far because newer ones had come."""

    def put(self, item: Item, size_bytes: int) -> bool:
        """Hand over an item; False if nobody takes any more."""
        with self._changed:
            while self._keeps_newest and self._is_full(size_bytes):
                self._take()
                self.num_dropped += 1
            self._changed.wait_for(lambda: self._was_left or not self._is_full(size_bytes))
            if self._was_left:
                return False
            self._waiting.append((item, size_bytes))
            self._num_bytes += size_bytes
            self._changed.notify_all()
            return True

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes; an error is raised where the taker would get the next item."""
        with self._changed:
            self._has_ended, self._error = True, error
            self._changed.notify_all()

    def leave(self) -> None:
        """Say that nothing more is taken."""
        with self._changed:
            self._was_left = True
            self._waiting.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Yield the items until the belt ends or is left.

        Raises:
            BaseException: what it ended with.
        """
        while (item := self._next()) is not None:
            yield item[0]

    def _next(self) -> tuple[Item] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._has_ended or self._was_left)
            if self._waiting:
                item = self._take()
                self._changed.notify_all()
                return (item,)
            error, self._error = self._error, None
            if error is None or self._was_left:
                return None
            try:
                raise error
            finally:
                del error  # else it would hold itself, and with it the pictures, by its traceback

    def _take(self) -> Item:
        item, size_bytes = self._waiting.popleft()
        self._num_bytes -= size_bytes
        return item

    def _is_full(self, size_bytes: int) -> bool:
        """Tell whether there is no place for an item of a size."""
        is_too_much = self._num_bytes + size_bytes > self._max_bytes
        return len(self._waiting) >= self._max_items or (bool(self._waiting) and is_too_much)
