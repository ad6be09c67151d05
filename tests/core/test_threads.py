"""Threads, processes and the interpreter lock."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from support.stepping import same_bits

import adamas
from adamas.numpy import Adam

FORK = """
import os, sys, threading, time
import numpy as np
import adamas
from adamas.numpy import Adam

adamas.set_threads(3)
params = [np.ones(100_000, np.float32) for _ in range(4)]
grads = [np.full(100_000, 0.5, np.float32) for _ in range(4)]
optimizer = Adam(params)
optimizer.step(grads)                           # the pool runs
result = np.memmap(sys.argv[1], np.float32, "w+", shape=(3, 4, 100_000))

def go_on(line):
    for _ in range(3):
        optimizer.step(grads)
    result[line] = params

children = []
for line in range(2):
    child = os.fork()
    if child == 0:
        if line == 1:                           # and a grandchild
            grandchild = os.fork()
            if grandchild:
                os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
        go_on(line)
        result.flush()
        if sys.platform == "linux":             # threads of its own, not the memory of its parent's
            assert len(os.listdir("/proc/self/task")) >= 3
        sys.exit(0)                             # and they are joined
    children.append(child)
go_on(2)
for child in children:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert (result[0] == result[2]).all() and (result[1] == result[2]).all() and (result[2] != 1).all()
print("equal")
"""


def test_a_forked_child_steps_and_ends_and_so_does_its_parent(tmp_path) -> None:  # type: ignore[no-untyped-def]
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, str(tmp_path / "shared")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "equal\n", "")


FEW = """
import resource
import numpy as np
import adamas
from adamas.numpy import Adam

def step():
    params = [np.ones(100_000, np.float32) for _ in range(8)]
    optimizer = Adam(params)
    for _ in range(3):
        optimizer.step([np.full(100_000, 0.5, np.float32)] * 8)
    return np.concatenate(params)

adamas.set_threads(1)
right = step()
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 100_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
adamas.set_threads(1000)
assert (step() == right).all()
print(len(open("/proc/self/status").read().split("Threads:")[1].split()[0]) < 3)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, which only Linux has")
def test_where_the_system_gives_few_threads_those_do_the_work() -> None:
    """Memory for a thousand threads' stacks is not allowed here, as their number is not in many a container."""
    result = subprocess.run([sys.executable, "-c", FEW], capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "True\n", "")


class Struck(Exception):
    """What Ctrl-C is to a program: raised by a signal's handler, between any two lines."""


@contextmanager
def alarm(handler: Callable[[], None]) -> Iterator[None]:
    """A signal handler of Python's, for `signal.setitimer`; never inside a garbage collection, which swallows it."""
    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    gc.disable()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()


@pytest.mark.parametrize("mixed", [False, True])
def test_an_interrupt_never_separates_a_parameter_from_its_step_count(mixed: bool) -> None:
    """A signal that arrives in the native call is handled right after it: the count must have been written by then."""
    params = [np.zeros(500_000, np.float64), np.zeros(500_000, np.float32 if mixed else np.float64)]
    ones = [np.ones_like(p) for p in params]
    optimizer = Adam(params, lr=0.5, betas=(0, 0), eps=0)

    def strike() -> None:
        raise Struck

    struck = 0
    with alarm(strike):
        for i in range(100):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + i))
                optimizer.step(ones)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Struck:
                struck += 1
            steps = optimizer.portable_state().steps
            assert [float(p[0]) for p in params] == [-0.5 * steps["0"], -0.5 * steps["1"]]
            assert all((p == p[0]).all() for p in params)
    assert struck > 10
    optimizer.step(ones)


def test_a_signal_handler_may_save_the_state_of_the_step_it_interrupts() -> None:
    p = np.zeros(500_000)
    optimizer = Adam([p], lr=0.5, betas=(0, 0), eps=0)
    saved: list[tuple[int, float]] = []

    def save() -> None:
        saved.append((optimizer.portable_state().steps["0"], float(p[0])))

    with alarm(save):
        for i in range(50):
            signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + i))
            optimizer.step([np.ones_like(p)])
    assert len(saved) > 5
    assert all(value == -0.5 * steps for steps, value in saved)


def test_the_interpreter_lock_is_released() -> None:
    """Another thread works while a step runs. Python itself would not let it for the 5 s of its switch interval."""
    size = 4_000_000
    p = np.ones(size, np.float32)
    optimizer, gradient = Adam([p]), np.ones(size, np.float32)
    optimizer.step([gradient])
    ticks, stop = [0], threading.Event()

    def work() -> None:
        while not stop.is_set():
            ticks[0] += 1
            time.sleep(1e-4)

    before, thread = sys.getswitchinterval(), threading.Thread(target=work)
    sys.setswitchinterval(5.0)
    try:
        thread.start()
        during = 0
        for _ in range(200):  # the machine may be too busy to run the other thread in any one step
            start = ticks[0]
            optimizer.step([gradient])
            during += ticks[0] - start
            if during:
                break
    finally:
        stop.set()
        sys.setswitchinterval(before)
        thread.join()
    assert during > 0


@pytest.mark.parametrize(("threads", "size"), [(2, 1_000_000), (3, 60_000)])
def test_the_other_threads_work_too(threads: int, size: int) -> None:
    """More chunks than threads wake all of them, and fewer wake as many: processor time is used beside the caller's."""
    optimizer, gradient = Adam([np.ones(size)]), np.ones(size)
    adamas.set_threads(threads)
    try:
        own, all_of_them = time.thread_time(), time.process_time()
        beside = 0.0
        for _ in range(5000):  # the machine may be too busy to run another thread during any one step
            optimizer.step([gradient])
            beside = (time.process_time() - all_of_them) - (time.thread_time() - own)
            if beside > 0.02:
                break
    finally:
        adamas.set_threads(None)
    assert beside > 0.02


def test_two_optimizers_in_two_threads() -> None:
    def train(out: list[np.ndarray]) -> None:
        p = np.ones(50_000)
        optimizer = Adam([p])
        for i in range(20):
            optimizer.step([np.full(50_000, 1.0 + i)])
        out.append(p)

    results: list[np.ndarray] = []
    threads = [threading.Thread(target=train, args=(results,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(same_bits(results[0], other) for other in results[1:])


def test_one_optimizer_in_two_threads_takes_turns() -> None:
    p, one = np.zeros(100_000), np.ones(100_000)
    optimizer = Adam([p], lr=0.5, betas=(0, 0), eps=0)

    def train() -> None:
        for _ in range(25):
            optimizer.step([one])

    threads = [threading.Thread(target=train) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert optimizer.state_dict()["state"]["0"]["step"] == 100
    assert (p == -50).all()
