"""`scripts/bench --cpu --only inspect`: a made checkpoint of 20 GB as folder, archive and stream: time and peak memory."""
import os
import struct
import subprocess
import tarfile
import time

from report import row

BYTES = 20 * 10**9 // 4096 * 4096
PAGE = 4096
DATA = 1 << 20  # in each 2 MiB; the rest are holes, which read as zeros
STEP = 2 << 20
ROUNDS = 3


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
    """Pages of which no two are the same, in a file that is otherwise holes."""
    piece = bytearray(os.urandom(DATA))
    for at in range(0, size, STEP):
        for page in range(0, DATA, PAGE):
            struct.pack_into("<Q", piece, page, at + page)
        file.seek(begin + at)
        file.write(memoryview(piece)[:size - at])
    file.truncate(begin + size)


def small_images(size):
    end, runs = 0x10000 + size, []
    for at in range(0, size, 1 << 20):  # as many entries as a program has that uses its memory here and there
        runs.append(message((1, 0x10000 + at), (4, 6), (5, min(1 << 20, size - at) // 4096)))
    mapping = message((1, 0x10000), (2, end), (7, 1 << 9 | 1))
    return {"mm-7.img": image(0x57492820, message((12, 1), (14, mapping))),
            "pagemap-7.img": image(0x56084025, message((1, 1)), *runs)}


def make_folder(path, size):
    os.mkdir(path)
    for name, content in small_images(size).items():
        with open(os.path.join(path, name), "wb") as file:
            file.write(content)
    with open(os.path.join(path, "pages-1.img"), "wb") as file:
        fill(file, 0, size)


def make_archive(path, images, size):
    """Of the folder, whose pages are made once more: tarfile would write the holes."""
    with tarfile.open(path, "w") as tar:
        for name in small_images(size):
            tar.add(os.path.join(images, name), f"checkpoint/{name}")
        begin = tar.offset  # of the end's mark
    with open(path, "r+b") as file:
        header = tarfile.TarInfo("checkpoint/pages-1.img")
        header.size = size
        header = header.tobuf(tarfile.GNU_FORMAT)
        file.seek(begin)
        file.write(header)
        fill(file, begin + len(header), size)
        file.truncate(begin + len(header) + size + 1024)


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


def read(path):
    """Seconds to read it, in pieces as large as rewarm's."""
    return once(["dd", f"if={path}", "of=/dev/null", "bs=1M", "status=none"])[0]


def read_piped(path):
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
        return once(["dd", "of=/dev/null", "bs=1M", "status=none"], cat.stdout)[0]


def rows(name, inspect, plain=None, target="", reached=None):
    """Rounds of both ways, one after the other; the first is not counted."""
    plains, seconds, memory = [], [], []
    for number in range(ROUNDS + 1):
        read_in = plain() if plain else None
        took, peak = inspect()
        if number > 0:
            plains += [read_in] if plain else []
            seconds.append(took)
            memory.append(peak)
    yield row("inspect", name, "s", plains, seconds, target, reached, better="lower")
    yield row("inspect", f"{name}: peak memory", "MB", [], memory, "<= 200 MB",
              lambda one: one["rewarm"]["median"] <= 200, better="lower")


def inspect(runner, _seconds):
    size = BYTES // 10 // PAGE * PAGE if runner.options.quick else BYTES
    folder = runner.disk_folder()
    images, archive = os.path.join(folder, "images"), os.path.join(folder, "export.tar")
    tool = [runner.tool(), "inspect", "--json"]
    gb = f"{size / 1e9:.0f} GB"
    pages = os.path.join(images, "pages-1.img")
    make_folder(images, size)
    yield from rows(f"folder of {gb}", lambda: once([*tool, images]), None, "< 2 s",
                    lambda one: one["rewarm"]["median"] < 2)
    yield from rows(f"folder of {gb}, --full, against reading", lambda: once([*tool, "--full", images]),
                    lambda: read(pages))
    os.remove(pages)  # both at once would not stay in the page cache
    make_archive(archive, images, size)
    yield from rows(f"archive of {gb}, against reading", lambda: once([*tool, archive]), lambda: read(archive))
    yield from rows(f"archive of {gb} through a pipe, against reading", lambda: piped([*tool, "-"], archive),
                    lambda: read_piped(archive))
    os.remove(archive)
