"""Which processes of a training still live, and the name of one that does not.

A collective operation cannot tell: to it a dead process is a closed connection, seen by its neighbours alone, or
nothing at all when its machine is gone. So every process writes a counter into the store that they met in, every
second, and reads those of the others; a counter that stands still belongs to a dead process, one that moves to a slow
one, however long it takes. We rejected ``torch.distributed.monitored_barrier``: it informs rank 0 alone, only
between two operations, and treats slow as dead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from torch.distributed.distributed_c10d import Store

from clip_fewshot.errors import ResourceError

BEAT = 1.0  # seconds between two counts of a process
SILENCE = 20  # counts of this process without one of another: more than any pause of a live interpreter
JOINING = 45.0  # seconds for all to appear
LEFT = "left: "


class Presence:
    """Counts for this process and watches the others, in a thread of its own.

    Args:
        store: a connection that nothing else uses: a blocked reader would hold up the counting.
        rank, size: of this process among how many.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._keys = [f"rank {other}" for other in range(size)]
        self._heard = [""] * size
        self._silent = [0] * size
        self._reachable = True
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="presence", daemon=True)

    def start(self) -> None:
        """Wait for all and begin to count.

        Raises:
            ResourceError: some did not come; their ranks.
        """
        self._store.set(self._keys[self._rank], "0")
        end = time.monotonic() + JOINING
        while missing := [rank for rank, key in enumerate(self._keys) if not self._store.check([key])]:
            if time.monotonic() > end:
                raise self._incomplete(f"no sign of {_ranks(missing)} in {JOINING:.0f} s", "see why it did not start")
            time.sleep(BEAT / 20)
        self._thread.start()

    def check(self) -> None:
        """Nothing while all live.

        Raises:
            ResourceError: some do not; their ranks, and what they died of where they could say it.
        """
        fix = "see its own last words, then start all again; what was saved can be resumed"
        for rank, said in enumerate(self._heard):
            if said.startswith(LEFT) and rank != self._rank:
                raise self._incomplete(f"{_ranks([rank])} left: {said[len(LEFT) :]}", fix)
        silent = [rank for rank, beats in enumerate(self._silent) if beats >= SILENCE]
        if silent:
            raise self._incomplete(f"no sign of life from {_ranks(silent)} for {SILENCE * BEAT:.0f} s", fix)
        if not self._reachable:
            raise self._incomplete("no connection to the store of rank 0's machine: rank 0 is gone", fix)

    def explain(self, error: Exception) -> ResourceError:
        """Why a collective operation failed: waits until a rank can be named, ``SILENCE`` at most."""
        end = time.monotonic() + (SILENCE + 5) * BEAT
        while time.monotonic() < end:
            try:
                self.check()
            except ResourceError as named:
                return named
            time.sleep(BEAT / 10)
        return self._incomplete(f"a broken connection, though all live: {error}", "check the network, then start again")

    def stop(self, error: Exception | None = None) -> None:
        """Count no more; an error, unless it is about another process, is left for the others to read."""
        self._ended.set()
        self._thread.join()
        if error is not None and self._all_present():
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}"
            try:
                self._store.set(self._keys[self._rank], LEFT + text)
            except RuntimeError:  # the store ended first: no process is left to read
                return

    def _all_present(self) -> bool:
        try:
            self.check()
        except ResourceError:
            return False
        return True

    def _watch(self) -> None:
        count = 0
        while not self._ended.wait(BEAT):
            count += 1
            try:
                self._store.set(self._keys[self._rank], str(count))
                now = [said.decode("utf-8", "replace") for said in self._store.multi_get(self._keys)]
            except RuntimeError:
                self._reachable = False
                return
            for rank, said in enumerate(now):
                # Own counts, not seconds: who was stopped itself would otherwise wake to a world of the dead.
                self._silent[rank] = self._silent[rank] + 1 if said == self._heard[rank] else 0
                self._heard[rank] = said

    def _incomplete(self, got: str, fix: str) -> ResourceError:
        return ResourceError(
            expected=f"all {self._size} processes to the end", got=got, fix=fix, where=f"rank {self._rank}"
        )


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
