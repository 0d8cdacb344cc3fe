"""Processes that work side by side, of one thread each unless memory allows fewer of them than there are cores.

A training of a few layers is thousands of small matrix products. Two threads on one product are slower than two
processes of one thread, because the threads wait for each other at every product (on two busy cores the same study took
seven times as long). The number of threads of a call depends on machine and model, not on the number of processes or on
where the call runs, so that the number of processes changes no bit of any result.

A worker is a new interpreter that knows nothing but what passes through its pipes, pickled, as in `multiprocessing`.
We rejected the processes of that module: they run the caller's script again, which breaks a script without a
``__main__`` guard; they leave a helper process; and torch passes tensors to them through /dev/shm, which in docker
holds 64 MB. We rejected forked processes, because OpenMP hangs in them. A worker ends when its pipe is closed; the
kernel closes it whatever ends the parent.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, BinaryIO, NamedTuple

from threadpoolctl import ThreadpoolController

from clip_fewshot.errors import ResourceError

PRICE = 5.0  # seconds of computing; starting workers costs about that, most of it the import of torch
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # read when torch and NumPy are imported
PROGRAM = "from clip_fewshot.runtime.workers import serve; serve()"


class Done(NamedTuple):
    """What a call returned, and the seconds it took where it ran."""

    value: Any
    seconds: float


class WorkerPool:
    """Calls methods of objects that can be pickled, up to ``jobs`` of them at once.

    The first calls run here, one at a time; workers start when those have cost as much as starting workers does, so
    that a small job never waits for them and a large one pays at most twice. Leaving the block ends them.

    Args:
        jobs: processes; 1: everything runs here.
        threads: of each call.
    """

    def __init__(self, jobs: int, threads: int = 1) -> None:
        self.jobs, self.threads = jobs, threads
        self._spent = 0.0
        self._workers: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:
            worker.end()
        if self._threads is not None:
            self._threads.shutdown()

    @property
    def slots(self) -> int:
        """How many calls can be under way at once."""
        return self.jobs if self._pays else 1

    def submit(self, method: Callable[..., Any], *arguments: Any) -> Future[Done]:
        """Begin a call; its error, if any, is that of the future.

        Args:
            method: of an object that stays as it is; a worker is sent the object once, as long as the method's
                object remains the same.

        Raises:
            ResourceError, from the future: the worker died.
        """
        if not self._pays:
            return self._call_here(method, arguments)
        if self._threads is None:
            self._start()
        return self._threads.submit(self._call_there, method, arguments)  # type: ignore[union-attr]

    def gather(self, calls: Iterable[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
        """What these calls return, in order."""
        futures = [self.submit(method, *arguments) for method, arguments in calls]
        return [future.result().value for future in futures]

    @property
    def _pays(self) -> bool:
        return self.jobs > 1 and self._spent >= PRICE

    def _start(self) -> None:
        with _signals_wait():  # one that came between the start of a worker and its entry here would leave it behind
            for _ in range(self.jobs):
                self._workers.append(_Worker(self.threads))
                self._idle.put(self._workers[-1])
        self._threads = ThreadPoolExecutor(self.jobs)

    def _call_here(self, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Future[Done]:
        future: Future[Done] = Future()
        began, computed = time.perf_counter(), time.process_time()
        try:
            with limit_threads(self.threads):
                value = method(*arguments)
            future.set_result(Done(value, time.perf_counter() - began))
        except Exception as error:
            future.set_exception(error)
        self._spent += (time.process_time() - computed) / self.threads  # waiting for a busy machine is no reason
        return future

    def _call_there(self, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Done:
        worker = self._idle.get()
        try:
            return worker.call(method, arguments)
        finally:
            self._idle.put(worker)


class _Worker:
    """A worker as its parent sees it."""

    def __init__(self, threads: int) -> None:
        paths = os.pathsep.join(sys.path)
        environment = os.environ | {"PYTHONPATH": paths} | dict.fromkeys(THREADS, str(threads))
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self.held: object = None  # the object that it was sent last

    def call(self, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Done:
        owner = method.__self__  # type: ignore[attr-defined]
        sent = None if owner is self.held else owner
        try:
            _send(self.process.stdin, (sent, method.__name__, arguments))
            self.held = owner
            answer = _receive(self.process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise self._died() from error
        if isinstance(answer, Exception):
            raise answer
        done: Done = answer
        return done

    def end(self) -> None:
        """At once, whatever it is at."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # what was not sent yet
                pipe.close()  # type: ignore[union-attr]

    def _died(self) -> ResourceError:
        code = self.process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        fix = "it may have lacked memory: `resume` the run with fewer `jobs`; what was finished is kept"
        return ResourceError(
            expected="workers that live as long as the run", got=f"one that ended by {how}", fix=fix, where="`jobs`"
        )


def explain_refusal(part: object) -> str:
    """Why workers cannot be sent ``part``, which is pickled and read back in a new interpreter; "" where they can.

    A class that was defined in a notebook or in the program itself cannot be found there.
    """
    try:
        sent = pickle.dumps(part, pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # whatever its pickling runs into
        return f"{type(error).__name__}: {error}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    program = "import pickle, sys; pickle.load(sys.stdin.buffer)"
    read = subprocess.run(
        [sys.executable, "-c", program], input=sent, capture_output=True, env=environment, check=False
    )
    return read.stderr.decode(errors="replace").strip().split("\n")[-1] if read.returncode else ""


@contextmanager
def _signals_wait() -> Iterator[None]:
    """SIGINT and SIGTERM take effect after the block, also in the processes that it starts."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Torch and BLAS compute in that many threads while the block lasts, as they do in a worker."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with _libraries().limit(limits=threads, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@cache
def _libraries() -> ThreadpoolController:
    """What is loaded by the time of the first call; to look for it takes milliseconds."""
    return ThreadpoolController()


def serve() -> None:
    """The life of a worker: an object and calls of its methods come in, results go out, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the parent ends its workers
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    calls, results = _own_streams()
    orders: queue.SimpleQueue[tuple[object, str, tuple[Any, ...]]] = queue.SimpleQueue()
    threading.Thread(target=_take_orders, args=(calls, orders), daemon=True).start()
    held: object = None
    while True:
        sent, name, arguments = orders.get()
        held = held if sent is None else sent
        _send(results, _answer(getattr(held, name), arguments))


def _take_orders(calls: BinaryIO, orders: queue.SimpleQueue[tuple[object, str, tuple[Any, ...]]]) -> None:
    """Read ahead, so that the end of the parent is noticed in the middle of a call."""
    try:
        while True:
            orders.put(_receive(calls))
    except EOFError:
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _answer(method: Callable[..., Any], arguments: tuple[Any, ...]) -> Done | Exception:
    began = time.perf_counter()
    try:
        return Done(method(*arguments), time.perf_counter() - began)
    except Exception as error:
        if hasattr(error, "add_note"):  # from Python 3.11 on
            error.add_note(f"in a worker:\n{traceback.format_exc()}")
        return error


def _own_streams() -> tuple[BinaryIO, BinaryIO]:
    """The pipes to the parent, out of reach of code that reads standard input or prints."""
    calls, results = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return calls, results


def _send(pipe: Any, message: object) -> None:
    # Not multiprocessing's pickler: torch has taught that one to put tensors into shared memory.
    pickle.Pickler(pipe, pickle.HIGHEST_PROTOCOL).dump(message)
    pipe.flush()


def _receive(pipe: Any) -> Any:
    return pickle.Unpickler(pipe).load()
