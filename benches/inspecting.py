"""`scripts/bench --cpu --only inspect`: a made checkpoint of 20 GB as folder, archive and stream: time and peak memory."""
import os
import struct
import subprocess
import tarfile
import time

from report import row

BYTES = 20 * 10**9 // 4096 * 4096
DATA = 1 << 20  # in each 16 MiB; the rest are holes, which read as zeros
STEP = 16 << 20
ROUNDS = 5


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def message(*fields):
    """Numbers and values; bytes are messages."""
    out = b""
    for number, value in fields:
        if isinstance(value, bytes):
            out += varint(number << 3 | 2) + varint(len(value)) + value
        else:
            out += varint(number << 3) + varint(value)
    return out


def image(magic, *entries):
    return struct.pack("<II", 0x54564319, magic) + b"".join(struct.pack("<I", len(entry)) + entry for entry in entries)


def fill(file, begin, size):
    """Contents that are all different, in a file that is otherwise holes."""
    for at in range(0, size, STEP):
        file.seek(begin + at)
        file.write(os.urandom(min(DATA, size - at)))
    file.truncate(begin + size)


def small_images(size):
    end, runs = 0x10000 + size, []
    for at in range(0, size, 1 << 20):  # as many entries as a program has that uses its memory here and there
        runs.append(message((1, 0x10000 + at), (4, 6), (5, min(1 << 20, size - at) // 4096)))
    mapping = message((1, 0x10000), (2, end), (7, 1 << 9 | 1))
    return {"mm-7.img": image(0x57492820, message((12, 1), (14, mapping))),
            "pagemap-7.img": image(0x56084025, message((1, 1)), *runs)}


def make(folder, size):
    """The folder and the archive."""
    images, archive = os.path.join(folder, "images"), os.path.join(folder, "export.tar")
    os.mkdir(images)
    for name, content in small_images(size).items():
        with open(os.path.join(images, name), "wb") as file:
            file.write(content)
    with open(os.path.join(images, "pages-1.img"), "wb") as file:
        fill(file, 0, size)
    with tarfile.open(archive, "w") as tar:
        for name in small_images(size):
            tar.add(os.path.join(images, name), f"checkpoint/{name}")
        begin = tar.offset  # of the end's mark
    with open(archive, "r+b") as file:
        header = tarfile.TarInfo("checkpoint/pages-1.img")
        header.size = size
        header = header.tobuf(tarfile.GNU_FORMAT)
        file.seek(begin)
        file.write(header)
        fill(file, begin + len(header), size)
        file.truncate(begin + len(header) + size + 1024)
    return images, archive


def once(command, stdin=None):
    """Seconds and MB."""
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdin=stdin, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{command}: {child.returncode}")
    return time.perf_counter() - begin, used.ru_maxrss * 1024 / 1e6


def piped(command, path):
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
        return once(command, cat.stdout)


def inspect(runner, _seconds):
    size = BYTES // 10 // 4096 * 4096 if runner.options.quick else BYTES
    folder = runner.disk_folder()
    images, archive = make(folder, size)
    tool = [runner.tool(), "inspect", "--json"]
    gb = f"{size / 1e9:.0f} GB"
    ways = [(f"folder of {gb}", lambda: once([*tool, images]), 2.0),
            (f"folder of {gb}, --full", lambda: once([*tool, "--full", images]), None),
            (f"archive of {gb}", lambda: once([*tool, archive]), None),
            (f"archive of {gb} through a pipe", lambda: piped([*tool, "-"], archive), None)]
    for name, run, most in ways:
        run()  # warm
        seconds, memory = zip(*(run() for _ in range(ROUNDS)))

        def below(limit):
            return lambda one: one["rewarm"]["median"] <= limit
        yield row("inspect", name, "s", [], list(seconds), "< 2 s" if most else "", below(most) if most else None,
                  better="lower")
        yield row("inspect", f"{name}: peak memory", "MB", [], list(memory), "<= 200 MB", below(200), better="lower")
