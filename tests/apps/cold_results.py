"""Writes results of cold starts with known times and hostile texts: cold_results.py BENCHES RESULTS.json"""
import json
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import figures
import variants

HOSTILE = "<script>document.title='taken'</script>\"' onload=alert(1) &lt; =1+1 <img src=http://127.0.0.1:1/x>"
GPU = {"checked": "by nvidia-smi", "programs": 0, "devices": []}


def run(variant, iteration, times, marks=()):
    return {"variant": variant.name, "iteration": iteration, "seconds": sum(times.values()), "components": times, "moments": {},
            "before": {"page_cache": {"files": 1, "bytes": 4096, "resident_share": 0.0, "mapped_by_others": 0, "mapped_bytes": 0, "drop_caches": "done"},
                       "gpu": GPU, "cpu_busy_share": 0.01, "load_average": 0.1},
            "after": {"gpu": GPU, "load_average": 0.1}, "marks": list(marks), "counted": not marks}


def times_of(variant, iteration):
    more = iteration / 100
    if variant.way == "start":
        return {"start": 9.3 + 4 * more, "reply": 0.7}
    if variant.way == "stock":
        return {"criu": 5.1 + 9 * more, "driver": 2.4, "reply": 0.7}
    return {"checks": 0.03, "criu": 0.12 + more, "driver": 0.31, "thaw": 0.3 + more, "pages": 0.0, "other": 0.02, "reply": 0.11}


runs, entries = [], []
for at, variant in enumerate(variants.VARIANTS):
    busy = [{"kind": "gpu_busy", "reason": HOSTILE, "accepted": False}]
    for iteration in range(1, 6):
        disturbed = variant.name == "one-lane" or (variant.name == "stock" and iteration == 5)
        runs.append(run(variant, iteration, times_of(variant, iteration), busy if disturbed else ()))
    entries.append({"name": variant.name, "label": variant.label, "what": variant.what, "switched_off": variant.switched_off, "way": variant.way,
                    "preloaded": variant.mode, "environment": list(variant.environment), "options": list(variant.options),
                    "checkpoint_seconds": 1.5, "checkpoint_bytes": 10**9, "not_run": None,
                    **figures.summary([one for one in runs if one["variant"] == variant.name], variants.NAMES)})
data = {
    "version": 1, "kind": "rewarm-cold-start", "begun": "2026-11-21 20:00 UTC", "seconds": 100.0, "command": f"scripts/bench cold --program '{HOSTILE}'",
    "machine": {"gpu": "NVIDIA H200", "cpus": 16, "host": HOSTILE, "settings": [HOSTILE]},
    "program": {"command": HOSTILE, "bytes": None, "ready": HOSTILE, "ask": HOSTILE, "asked": "the command " + HOSTILE},
    "settings": {"iterations": 5, "settle_seconds": 2.0, "accepted": [], "drop_caches": True, "clear_caches": False, "cleared": [],
                 "limits": {"resident_share": 0.01, "gpu_utilisation": 5, "gpu_memory_mib": 1024, "clock_share": 0.6, "computing": 20, "cpu_share": 0.25, "stalled_seconds": 0.1},
                 "statistics": figures.METHOD, "stock_driver_tool": HOSTILE},
    "components": [component._asdict() for component in variants.COMPONENTS], "variants": entries, "runs": runs,
}
with open(sys.argv[2], "w") as file:
    json.dump(data, file)
