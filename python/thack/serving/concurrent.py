"""Many requests at a time, their results as they come in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def as_they_come(items: Iterable[T], ask: Callable[[T], R], concurrency: int) -> Iterator[tuple[T, R]]:
    """Each item with its result, in any order; at most `concurrency` are asked at a time.

    After a failure, or once the caller closes the iterator, nothing new is asked. What was already asked for is waited
    for: after a failure its results are still given, since they were paid for, and then the failure is raised.
    """
    waiting = iter(items)
    with ThreadPoolExecutor(concurrency, thread_name_prefix="thack-ask") as pool:
        asked: dict[Future[R], T] = {pool.submit(ask, item): item for item in islice(waiting, concurrency)}
        failure: BaseException | None = None
        while asked:
            done, _ = wait(asked, return_when=FIRST_COMPLETED)
            for future in done:
                item, error = asked.pop(future), future.exception()
                if error is not None:
                    failure = failure or error
                    continue
                if failure is None:
                    asked |= {pool.submit(ask, following): following for following in islice(waiting, 1)}
                yield item, future.result()
        if failure is not None:
            raise failure
