"""Freeze and thaw the GPU memory of processes that run under rewarm.

    import rewarm

    rewarm.discard(kv_cache)               # need not survive: comes back as zeroes
    rewarm.freeze("/dev/shm/model")        # all other GPU memory goes to the snapshot
    rewarm.thaw()                          # and comes back at the same addresses

A process can be frozen if it was started with ``rewarm run --freezable`` or with
``REWARM_FREEZABLE=1`` beside ``LD_PRELOAD``, and has initialised CUDA. While it is
frozen, threads that call CUDA wait; the other threads, such as the one that thaws,
run on. Where rewarm is not loaded, :func:`is_active` is false and everything else
raises :class:`Error`.

This module needs nothing but Python 3.8, and imports neither torch nor CUDA.
"""

import json
import math
import os
import socket
import struct
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

__all__ = [
    "Error",
    "discard",
    "freeze",
    "is_active",
    "keep",
    "prepare",
    "status",
    "thaw",
]

PROTOCOL_VERSION = 1

#: How long a process may take to answer what takes no time, in seconds.
_PATIENCE = 3.0

#: How long a process at work may say nothing, in seconds. It speaks once a second.
_SILENCE = 30.0

#: ``wait=True``: as long as it takes, in seconds.
_FOREVER = 1e9

_MAX_FRAME = 1 << 20

_Path = Union[str, "os.PathLike[str]"]
_Progress = Callable[[Dict[str, Any]], None]


class Error(Exception):
    """It could not be done; the message says why, and what to do."""


def is_active(pid: Optional[int] = None) -> bool:
    """Whether this process (or another) runs under rewarm and uses CUDA."""
    try:
        return status(pid)["state"] not in ("inert", "disabled")
    except Error:
        return False


def status(pid: Optional[int] = None) -> Dict[str, Any]:
    """The report of this process (or another), as ``rewarm status --json`` has it."""
    return _ask(pid, "status", "status", {})


def freeze(
    to: _Path,
    pid: Optional[int] = None,
    drain: float = 10.0,
    budget: Optional[int] = None,
    progress: Optional[_Progress] = None,
) -> Dict[str, Any]:
    """Take all GPU memory of this process (or another) to a snapshot in folder ``to``.

    ``drain`` is the longest wait for calls and streams of CUDA to end, in seconds;
    ``budget`` the most bytes that the snapshot may take; ``progress`` is called with
    ``phase``, ``done`` and ``total`` now and then. Returns the report, with
    the keys of ``rewarm freeze --json``. If it raises, the process goes on as before,
    unless the message says that it fell silent. An exception that comes from outside,
    such as ``KeyboardInterrupt``, does not stop the freeze.
    """
    values: Dict[str, Any] = {
        "to": _absolute(to),
        "drain_seconds": _seconds(drain),
    }
    if budget is not None:
        values["budget_bytes"] = int(budget)
    return _ask(pid, "freeze", "frozen", values, progress or _ignore)


def prepare(
    to: _Path,
    pid: Optional[int] = None,
    progress: Optional[_Progress] = None,
) -> Dict[str, Any]:
    """Make room for a snapshot in folder ``to``, so that the freeze is faster."""
    values = {"to": _absolute(to)}
    return _ask(pid, "prepare", "prepared", values, progress or _ignore)


def thaw(
    pid: Optional[int] = None,
    source: Optional[_Path] = None,
    wait: Union[float, bool] = 0.0,
    order: str = "largest",
    keep_snapshot: bool = False,
    verify: bool = True,
    progress: Optional[_Progress] = None,
) -> Dict[str, Any]:
    """Bring the GPU memory of this process (or another) back.

    ``source`` is where the snapshot is now, if it was moved; ``wait`` how many
    seconds to wait for enough free GPU memory (``True``: as long as it takes);
    ``order`` which allocations come first: ``largest``, ``smallest`` or ``address``.
    Returns the report, with the keys of ``rewarm thaw --json``. If it raises, the
    process stays frozen and can be thawed again.
    """
    values: Dict[str, Any] = {
        "keep_snapshot": bool(keep_snapshot),
        "verify": bool(verify),
        "wait_seconds": _FOREVER if wait is True else _seconds(wait),
        "order": order,
    }
    if source is not None:
        values["from"] = _absolute(source)
    return _ask(pid, "thaw", "thawed", values, progress or _ignore)


def discard(memory: Any, bytes: Optional[int] = None) -> None:
    """Say that memory of this process need not survive a freeze.

    It comes back as zeroes, and costs neither time nor space: KV caches, workspaces.
    ``memory`` is a tensor or storage on the GPU (of torch, or anything with
    ``__cuda_array_interface__``), or an address with a number of ``bytes``. It holds
    until :func:`keep` or until the memory is freed.
    """
    _set_discarded(memory, bytes, True)


def keep(memory: Any, bytes: Optional[int] = None) -> None:
    """Take :func:`discard` back."""
    _set_discarded(memory, bytes, False)


def _set_discarded(memory: Any, count: Optional[int], is_discarded: bool) -> None:
    address, length = _extent(memory, count)
    values = {"address": address, "bytes": length, "discard": is_discarded}
    _ask(None, "discard", "discarded", values)


def _ignore(_: Dict[str, Any]) -> None:
    pass


def _absolute(folder: _Path) -> str:
    """From the current folder; ``..`` stays, as it may follow a link."""
    path = os.fsdecode(folder)
    if not path:
        raise Error("the folder has no name")
    return os.path.join(os.getcwd(), path)


def _seconds(value: float) -> float:
    seconds = float(value)
    if not math.isfinite(seconds) or seconds < 0:
        raise Error(f"{value} is not a number of seconds")
    return seconds


# Which bytes a tensor has.


def _extent(memory: Any, count: Optional[int]) -> Tuple[int, int]:
    """First byte, and number of bytes."""
    if isinstance(memory, int) and not isinstance(memory, bool):
        if count is None:
            raise Error("an address needs a number of bytes")
        address, length = memory, int(count)
    elif count is not None:
        raise Error("a number of bytes goes with an address only")
    elif callable(getattr(memory, "data_ptr", None)):
        address, length = _tensor_extent(memory)
    elif hasattr(memory, "__cuda_array_interface__"):
        address, length = _array_extent(memory.__cuda_array_interface__)
    else:
        raise Error(f"{type(memory).__name__} is neither memory of a GPU nor an address")
    if address <= 0 or length <= 0 or address + length > 1 << 64:
        raise Error(f"there is no memory: {length} bytes at {address:#x}")
    return address, length


def _tensor_extent(tensor: Any) -> Tuple[int, int]:
    """A tensor's own elements, or all of a storage. Never what lies beside a view."""
    if not _value(getattr(tensor, "is_cuda", True)):
        raise Error("the tensor is not on a GPU")
    address = int(tensor.data_ptr())
    if callable(getattr(tensor, "stride", None)):
        itemsize = int(tensor.element_size())
        return address, _dense_bytes(list(tensor.shape), list(tensor.stride()), itemsize)
    if not _value(getattr(tensor, "is_contiguous", True)):
        raise Error("the elements do not lie side by side")
    if hasattr(tensor, "nbytes"):
        return address, int(_value(tensor.nbytes))
    return address, int(_value(tensor.numel)) * int(_value(tensor.element_size))


def _array_extent(interface: Dict[str, Any]) -> Tuple[int, int]:
    itemsize = int(interface["typestr"][2:])
    shape = list(interface["shape"])
    strides = interface.get("strides")
    if strides is None:
        return int(interface["data"][0]), math.prod(shape) * itemsize
    length = _dense_bytes(shape, list(strides), itemsize, unit=itemsize)
    return int(interface["data"][0]), length


def _dense_bytes(shape: List[int], strides: List[int], itemsize: int, unit: int = 1) -> int:
    """Bytes of elements that lie side by side, in whatever order of dimensions."""
    expected = unit
    for stride, size in sorted((stride, size) for stride, size in zip(strides, shape) if size != 1):
        if size and stride != expected:
            raise Error(
                "the elements do not lie side by side: pass the whole storage, "
                "if nothing in it is needed"
            )
        expected *= size
    return expected // unit * itemsize


def _value(value: Any) -> Any:
    return value() if callable(value) else value


# The conversation.


def _ask(
    pid: Optional[int],
    request: str,
    answer: str,
    values: Dict[str, Any],
    progress: Optional[_Progress] = None,
) -> Any:
    """Asks, and returns the answer's body. With ``progress`` it may take long."""
    stream, name = _connect(pid)
    with stream:
        patience = _PATIENCE if progress is None else _SILENCE
        response = _converse(
            stream, name, patience, {"version": PROTOCOL_VERSION, "request": request, **values}
        )
        while response.get("response") == "progress" and progress is not None:
            progress(response["body"])
            response = _converse(stream, name, patience)
    kind, body = response.get("response"), response.get("body")
    if kind == "error":
        raise Error(f"{name} refused: {body}")
    if kind != answer:
        raise Error(f"{name} gave an answer to something else: {kind}")
    return body


def _converse(
    stream: socket.socket,
    name: str,
    patience: float,
    message: Optional[Dict[str, Any]] = None,
) -> Dict[str, Any]:
    """Sends a message, if there is one, and receives one."""
    try:
        if message is not None:
            _send(stream, message)
        stream.settimeout(patience)
        return _receive(stream)
    except socket.timeout:
        raise Error(
            f"{name} said nothing for {patience:.0f} s: it may be stopped; "
            "`rewarm status` tells what became of it"
        ) from None
    except (OSError, EOFError, ValueError) as error:
        raise Error(f"the conversation with {name} broke off: {error}") from error


def _send(stream: socket.socket, message: Dict[str, Any]) -> None:
    text = json.dumps(message, allow_nan=False).encode()
    stream.sendall(struct.pack("<I", len(text)) + text)


def _receive(stream: socket.socket) -> Dict[str, Any]:
    (length,) = struct.unpack("<I", _read(stream, 4))
    if length > _MAX_FRAME:
        raise ValueError(f"a message of {length} bytes is too long")
    message = json.loads(_read(stream, length))
    if not isinstance(message, dict):
        raise ValueError("not a message")
    return message


def _read(stream: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = stream.recv(length - len(parts))
        if not part:
            raise EOFError("it hung up")
        parts += part
    return bytes(parts)


def _connect(pid: Optional[int]) -> Tuple[socket.socket, str]:
    """A connection, and how the process is called in messages."""
    process = _Process(pid)
    for folder in process.run_dirs():
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            stream.settimeout(_PATIENCE)
            stream.connect(os.path.join(folder, f"{process.own_pid()}.sock"))
        except socket.timeout:
            stream.close()
            raise Error(f"{process.name} does not answer: it may be stopped") from None
        except OSError as error:
            stream.close()
            if isinstance(error, PermissionError):
                raise Error(
                    f"{process.name} belongs to another user: ask as that user or as root"
                ) from None
            continue
        if process.is_peer(stream):
            return stream, process.name
        stream.close()
    raise Error(process.why_silent())


class _Process:
    """A process, and where it would listen. ``rewarm status`` looks in the same places."""

    def __init__(self, pid: Optional[int]) -> None:
        self.is_self = pid is None or pid == os.getpid()
        self.name = "this process" if self.is_self else f"process {pid}"
        self.folder = "/proc/self" if self.is_self else f"/proc/{pid}"
        if not os.path.exists(self.folder):
            raise Error(f"there is no process {pid}")

    def own_pid(self) -> int:
        """Its pid as it sees it itself."""
        if self.is_self:
            return os.getpid()
        for line in self.read("status").splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
        return int(os.path.basename(self.folder))

    def run_dirs(self) -> List[str]:
        environment = self.environment()
        folder = environment.get("REWARM_RUN_DIR")
        uid = self.uid()
        if folder:
            folders = [folder]
        else:
            folders = ["/run/rewarm"] if uid == 0 or self.is_elsewhere() else []
            runtime = environment.get("XDG_RUNTIME_DIR", "")
            if os.path.isabs(runtime):
                folders.append(os.path.join(runtime, "rewarm"))
            folders += [f"/run/user/{uid}/rewarm", f"/tmp/rewarm-{uid}"]
        if self.is_elsewhere():
            root = os.path.join(self.folder, "root")
            folders = [os.path.join(root, folder.lstrip("/")) for folder in folders]
        elif not self.is_self and os.environ.get("REWARM_RUN_DIR"):
            folders.append(os.environ["REWARM_RUN_DIR"])
        return [folder for folder in folders if self.is_trusted(folder)]

    def uid(self) -> int:
        """Its effective user."""
        if self.is_self:
            return os.geteuid()
        for line in self.read("status").splitlines():
            if line.startswith("Uid:"):
                return int(line.split()[2])
        return 0

    def is_trusted(self, folder: str) -> bool:
        """Whether nobody could answer there in place of the process but its user, or ours."""
        try:
            return os.lstat(folder).st_uid in (self.uid(), os.geteuid())
        except OSError:
            return True

    def environment(self) -> Dict[str, str]:
        """As it was when the process started."""
        entries = self.read("environ").split("\0")
        return dict(entry.split("=", 1) for entry in entries if "=" in entry)

    def is_elsewhere(self) -> bool:
        """Whether it sees other files: it is in a container."""
        try:
            return os.readlink(f"{self.folder}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
        except OSError:
            return False

    def is_peer(self, stream: socket.socket) -> bool:
        """Whether it is this process that listens, where that can be told."""
        if not self.is_self:
            return True
        credentials = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return struct.unpack("3i", credentials)[0] == os.getpid()

    def read(self, name: str) -> str:
        try:
            with open(os.path.join(self.folder, name), "rb") as file:
                return os.fsdecode(file.read())
        except OSError:
            return ""

    def why_silent(self) -> str:
        maps = self.read("maps")
        if "/librewarm_core.so" in maps:
            return f"{self.name} runs under rewarm, but has no control socket (see its REWARM_LOG)"
        if "/librewarm.so" in maps:
            return f"{self.name} runs under rewarm, but has not used CUDA yet"
        return (
            f"{self.name} runs without rewarm: start it with "
            "`rewarm run --freezable -- …` or with LD_PRELOAD"
        )
