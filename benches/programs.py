"""Builds the C programs, and finds the CUDA runtime that two of them need."""
import glob
import os
import shutil
import subprocess
import sysconfig

HERE = os.path.dirname(os.path.abspath(__file__))
FLAGS = ["-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-pthread"]
DRIVER_ONLY = {
    "copies-driver": ["-DDRIVER", "copies.c"],
    "calls": ["calls.c"],
    "hostalloc": ["hostalloc.c"],
    "hold": ["hold.c"],
    "spawn": ["spawn.c"],
    "slow-fs": ["slow_fs.c"],
    "touch": ["touch.c"],
    "holder": ["holder.c"],
    "checkpoint": ["checkpoint.c"],
    "writers": ["writers.c"],
    "allocations": ["allocations.c"],
    "container": ["container.c"],
}


def places(given=None):
    """Folders of a CUDA toolkit or of the wheel nvidia-cuda-runtime, likeliest first."""
    found = [given] if given else []
    found += [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    site = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    python = shutil.which("python3")
    if python:
        text = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))"],
                              capture_output=True, text=True).stdout.strip()
        site.add(text)
    for folder in sorted(filter(None, site)):
        found += sorted(glob.glob(os.path.join(folder, "nvidia", "cu1*")), reverse=True)
        found += glob.glob(os.path.join(folder, "nvidia", "cuda_runtime"))
    found += ["/usr/local/cuda"] + sorted(glob.glob("/usr/local/cuda-*"), reverse=True)
    return [folder for folder in found if os.path.isdir(folder)]


def first_file(folder, *names):
    for sub in ("lib64", "lib", "targets/x86_64-linux/lib"):
        for name in names:
            for path in sorted(glob.glob(os.path.join(folder, sub, name))):
                return path
    return None


def runtime_folder(given=None):
    """The folder of a libcudart.so.N for the program that is linked dynamically."""
    for folder in places(given):
        path = first_file(folder, "libcudart.so.1[0-9]")
        if path:
            return os.path.dirname(path)
    return None


def stale(out):
    """Whether a source is newer than what was built from it, or nothing was."""
    sources = [os.path.getmtime(path) for path in glob.glob(os.path.join(HERE, "*.[ch]"))]
    built = [os.path.join(out, name) for name in DRIVER_ONLY]
    return not all(os.path.exists(path) for path in built) or max(sources) > min(map(os.path.getmtime, built))


def build(out, given=None, say=print):
    """Compiles what can be compiled; {program: why not} for the rest."""
    os.makedirs(out, exist_ok=True)
    missing = {}
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        return {name: "no C compiler" for name in [*DRIVER_ONLY, "copies-static", "copies-dynamic"]}

    def compile_one(name, arguments):
        new = os.path.join(out, f"{name}.{os.getpid()}")  # another benchmark may be running the one that is there
        command = [compiler, *FLAGS, *arguments, "-o", new, "-ldl", "-lrt", "-lpthread"]
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
        if done.returncode:
            missing[name] = (done.stderr.strip().splitlines() or ["the compiler failed"])[0][:200]
        else:
            os.replace(new, os.path.join(out, name))
        say(f"build {name}: {missing.get(name, 'ok')}")

    for name, arguments in DRIVER_ONLY.items():
        compile_one(name, arguments)
    include = static = dynamic = None
    for folder in places(given):
        for sub in ("include", "targets/x86_64-linux/include"):
            path = os.path.join(folder, sub)
            if not include and os.path.exists(os.path.join(path, "cuda_runtime_api.h")):
                include = path
        static = static or first_file(folder, "libcudart_static.a")
        dynamic = dynamic or first_file(folder, "libcudart.so.1[0-9]")
    for name, library in (("copies-static", static), ("copies-dynamic", dynamic)):
        if include and library:
            compile_one(name, ["copies.c", "-I", include, os.path.abspath(library)])
        else:
            missing[name] = "no CUDA runtime found (--cudart DIR)"
            say(f"build {name}: {missing[name]}")
    return missing
