"""Compilation caches: private ones that are emptied before each cold start, or real ones that the user names."""
import os
import shutil

NAMES = ("cache", "inductor", "triton")  # one of them is in the path of each real one
# The folders of what compiles for a GPU.
VARIABLES = ("CUDA_CACHE_PATH", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "VLLM_CACHE_ROOT")


class Caches:
    """Checkpointed programs have caches of their own, which stay: they may have files of them mapped."""

    def __init__(self, options, scratch):
        self.asked, self.real = options.clear_caches, [checked(path, options) for path in options.clear_caches_at]
        self.folder = os.path.join(scratch, "caches")

    def environment(self, variant):
        if not self.asked:
            return {}
        where = os.path.join(self.folder, variant.image or "start")
        found = {name: os.path.join(where, name.lower()) for name in VARIABLES}
        for path in found.values():
            os.makedirs(path, exist_ok=True)
        return found

    def clear_for(self, variant):
        """Nothing compiled is left for a start of the program; restores need none."""
        if variant.way != "start":
            return
        for path in [*[os.path.join(self.folder, "start")] * self.asked, *self.real]:
            try:
                empty(path)
            except FileNotFoundError:
                continue  # the program removed it
            except OSError as error:
                raise SystemExit(f"{path}: cannot be emptied: {error.strerror}") from error


def checked(path, options):
    """A folder whose contents may go; raises SystemExit for one that nobody means."""
    real, home = os.path.realpath(path), os.path.realpath(os.path.expanduser("~"))
    if os.path.islink(path) or not os.path.isdir(path):
        raise SystemExit(f"--clear-caches-at: {path} is no folder")
    if os.stat(real).st_uid != os.geteuid():
        raise SystemExit(f"--clear-caches-at: {path} belongs to somebody else")
    for kept in (home, os.getcwd(), os.path.realpath(options.out), os.path.realpath(options.results)):
        if os.path.commonpath([kept, real]) == real or os.path.ismount(real):
            raise SystemExit(f"--clear-caches-at: {path} holds more than a cache ({kept})")
    if not any(name in real.lower() for name in NAMES):
        raise SystemExit(f"--clear-caches-at: {real} does not look like a cache: its path has none of {', '.join(NAMES)}")
    return real


def empty(folder):
    """Removes what is in it, following no links: none in it, and none that took its own place meanwhile."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with os.scandir(handle) as entries:
            for entry in list(entries):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.name, dir_fd=handle)
                else:
                    os.unlink(entry.name, dir_fd=handle)
    finally:
        os.close(handle)
