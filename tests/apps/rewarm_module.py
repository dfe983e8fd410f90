"""The module rewarm, against a process that answers as if it could be frozen.

    rewarm_module.py self|other PID|refused|absent|real
"""

import ctypes
import os
import sys
import threading

import rewarm


class Tensor:
    """As torch has it, as far as the module looks."""

    def __init__(self, address, shape, strides, itemsize=2, is_cuda=True):
        self.address, self.shape, self.strides = address, shape, strides
        self.itemsize, self.is_cuda = itemsize, is_cuda

    def data_ptr(self):
        return self.address

    def stride(self):
        return self.strides

    def element_size(self):
        return self.itemsize


class Storage:
    is_cuda = True

    def data_ptr(self):
        return 0x7000

    def nbytes(self):
        return 640


class Array:
    def __init__(self, **interface):
        self.__cuda_array_interface__ = {"typestr": "<f4", "version": 3, **interface}


def raises(call, *words):
    try:
        call()
    except rewarm.Error as error:
        for word in words:
            assert word in str(error), f"{word!r} is not in: {error}"
    else:
        raise AssertionError("no error")


def of_this_process():
    assert rewarm.is_active()
    assert rewarm.is_active(os.getpid())
    assert rewarm.status()["pid"] == os.getpid()
    rewarm.discard(0x1000, 64)
    rewarm.keep(0x1000, 64)
    rewarm.discard(Tensor(0x2000, (4, 5), (5, 1)))
    rewarm.discard(Tensor(0x3000, (4, 1, 5), (1, 99, 4)))
    rewarm.discard(Storage())
    rewarm.discard(Array(shape=(3, 4), data=(0x4000, False), strides=None))
    rewarm.discard(Array(shape=(3, 4), data=(0x5000, False), strides=(16, 4)))
    side_by_side = "side by side"
    raises(lambda: rewarm.discard(Tensor(0x2000, (4, 5), (10, 1))), side_by_side)
    raises(lambda: rewarm.discard(Tensor(0x2000, (4, 5), (0, 1))), side_by_side)
    raises(lambda: rewarm.discard(Tensor(0x2000, (2, 2), (0, 3))), side_by_side)
    raises(
        lambda: rewarm.discard(Array(shape=(3, 4), data=(0x5000, False), strides=(32, 4))),
        side_by_side,
    )
    raises(lambda: rewarm.discard(Tensor(0x2000, (4,), (1,), is_cuda=False)), "not on a GPU")
    raises(lambda: rewarm.discard(Tensor(0, (0, 4), (4, 1))), "there is no memory")
    raises(lambda: rewarm.discard(0x1000), "number of bytes")
    raises(lambda: rewarm.discard(0x1000, -1), "there is no memory")
    raises(lambda: rewarm.discard((1 << 64) - 1, 2), "there is no memory")
    raises(lambda: rewarm.discard(Storage(), 3), "address only")
    raises(lambda: rewarm.discard("memory"), "str")
    raises(lambda: rewarm.discard(True), "bool")
    raises(lambda: rewarm.freeze(""), "no name")
    # The part before may be a link.
    assert rewarm.prepare("x/../s")["snapshot"] == os.path.join(os.getcwd(), "x/../s")
    told = []
    report = rewarm.freeze("somewhere", drain=2, budget=1 << 30, progress=told.append)
    assert report["snapshot"] == os.path.abspath("somewhere"), report
    assert told == [{"phase": "storing", "done": 1 << 30, "total": 3 << 30}], told
    assert rewarm.status()["state"] == "frozen"
    # Another thread may thaw.
    thread = threading.Thread(target=rewarm.thaw)
    thread.start()
    thread.join()
    assert rewarm.status()["state"] == "active"


def of_another(pid):
    assert not rewarm.is_active()
    assert rewarm.is_active(pid)
    assert rewarm.prepare("/s", pid=pid)["snapshot"] == "/s"
    assert rewarm.freeze("/s", pid)["seconds"] == 0.5
    report = rewarm.thaw(
        pid, source="/t", wait=True, order="address", keep_snapshot=True, verify=False
    )
    assert report["kept"] and report["snapshot"] == "/t", report


def refused():
    raises(lambda: rewarm.freeze("/s"), "this process refused", "a stream does not drain")
    raises(lambda: rewarm.freeze("/s", drain=float("nan")), "nan")
    raises(lambda: rewarm.thaw(wait=-1), "-1")

    def fail(_):
        raise ValueError("of the caller")

    try:
        rewarm.thaw(progress=fail)
    except ValueError as error:
        assert str(error) == "of the caller"
    else:
        raise AssertionError("the caller's own error was lost")


def absent():
    assert not rewarm.is_active()
    without = "runs without rewarm"
    raises(rewarm.status, without)
    raises(lambda: rewarm.freeze("/s"), without, "rewarm run --freezable")
    raises(lambda: rewarm.discard(0x1000, 64), without)
    raises(lambda: rewarm.thaw(pid=1 << 30), "no process")


def real():
    """Under rewarm, on some driver."""
    assert not rewarm.is_active(), "CUDA is not initialised yet"
    raises(rewarm.status, "has not used CUDA yet")
    driver = ctypes.CDLL("libcuda.so.1")
    assert driver.cuInit(0) == 0
    assert rewarm.is_active()
    report = rewarm.status()
    assert report["pid"] == os.getpid() and not report["memory"]["freezable"], report
    raises(lambda: rewarm.freeze("/nonexistent/s"), "this process refused", "--freezable")


if sys.argv[1] == "self":
    of_this_process()
elif sys.argv[1] == "other":
    of_another(int(sys.argv[2]))
elif sys.argv[1] == "refused":
    refused()
elif sys.argv[1] == "real":
    real()
else:
    absent()
assert "torch" not in sys.modules
