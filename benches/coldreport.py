"""report.html: the results of cold starts as a page of its own. It asks for nothing from elsewhere and runs nothing."""
import html
import math
import re

from coldstyle import COLOURS, STYLE
from figures import LEAST

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
COLUMNS = (("mean", "mean"), ("sd", "SD"), ("min", "min"), ("p50", "P50"), ("p95", "P95"), ("p99", "P99"), ("max", "max"))

# A second chart is drawn where rewarm's longest run is a smaller share of the longest of all.
CLOSER = 0.4
MANY = 20  # dots in a row: from there on they are small and faint, and marked runs are folded
PRELOADED = {"plain": "The program runs without the library.", "rewarm": "The library is preloaded.",
             "prewarm": "The library is preloaded (CRIU_CUDA_CONTEXT_POOL=1).", "freezable": "The library is preloaded (REWARM_FREEZABLE=1)."}


def text(value):
    """Any value as text of the page: what programs and machines say is never markup."""
    return html.escape(str(value), quote=True)


def prose(value):
    """The same with what stands between backticks as code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", text(value))


def seconds(value):
    """Four figures of a long time, milliseconds of a short one, and hundredths of them below."""
    value = float(value)
    return f"{value:.{places(value)}f}"


def places(value):
    steps = ((100, 1), (10, 2), (0.01, 3), (0.001, 4))
    return next((count for least, count in steps if value >= least), 5 if value > 0 else 3)


def page(data):
    parts = [heading(data), chart(data), percentiles(data), components(data), marked(data), described(data), measured(data), machine(data)]
    return ("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
            f"<meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">"
            "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><link rel=\"icon\" href=\"data:,\">"
            f"<title>Cold starts, {text(data['begun'])}</title><style>{STYLE}</style></head>\n<body><main>\n"
            + "\n".join(parts) + "\n</main></body></html>\n")


def heading(data):
    graphics = f"{text(data['machine']['gpu'])}, {text(data['machine']['cpus'])} CPUs"
    return (f"<header><h1>Cold starts</h1><p class=\"soft\">{text(data['begun'])} on {graphics}<br>"
            f"Program: <code>{text(data['program']['command'])}</code></p>{lead(data)}</header>")


def lead(data):
    """The result in a sentence, if there is one."""
    found = {one["name"]: one["seconds"] for one in data["variants"] if one["seconds"]}
    medians = {name: one["p50"] for name, one in found.items()}
    ours = medians.get("rewarm")
    others = [(medians[name], words) for name, words in (("stock", "the stock CRIU restore"), ("cold", "a cold start")) if name in medians]
    if not ours or not others:
        return ""
    said = " and ".join(f"{compared(other, ours)} than {words} ({seconds(other)} s)" for other, words in others)
    least = min(found[name]["n"] for name in ("rewarm", "stock", "cold") if name in found)
    of = f"Medians of {least} or more runs that count." if least >= LEAST["p50"] else f"Of {least} run{'s' * (least > 1)} only: repeat it before you rely on it."
    return f"<p class=\"lead\">With <b>rewarm restore</b> the program answers after <b>{seconds(ours)} s</b>: {said}. {text(of)}</p>"


def compared(other, ours):
    ratio = other / ours
    return f"{ratio:.2f} times faster" if ratio >= 1 else f"{1 / max(ratio, 1e-9):.2f} times slower"


# ---------------------------------------------------------------- the chart

def ticks(most):
    """About five round numbers from 0 to at least `most`."""
    if not most > 0:
        return [0.0, 1.0]
    rough = most / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    return [step * at for at in range(math.ceil(most / step * 0.999999) + 1)]


def tick(value):
    """A round number, never in powers of ten."""
    return f"{value:.9f}".rstrip("0").rstrip(".")


def chart(data):
    """All variants on one scale, and those of rewarm once more where that scale leaves nothing of them to see."""
    found = drawn(data, data["variants"], "Time until the first reply", "chart",
                  "Bars: mean of the runs that count, by component. Dots: single runs; rings: runs that were marked and do not count.")
    close = [one for one in data["variants"] if one["way"] == "rewarm"]
    if longest(data, close) < CLOSER * longest(data, data["variants"]):
        found += drawn(data, close, "The same, restores by rewarm alone", "closer", "On a scale of their own.")
    return found


def longest(data, entries):
    names = {one["name"] for one in entries}
    return max((run["seconds"] for run in data["runs"] if run["variant"] in names and run["seconds"] is not None), default=0)


def drawn(data, entries, title, name, words):
    marks = ticks(longest(data, entries))
    rows = "\n".join(bar_row(data, one, marks) for one in entries)
    labels = "".join(f"<span style=\"left:{at / marks[-1]:.4%}\">{tick(at)}{' s' if at == marks[-1] else ''}</span>" for at in marks)
    return (f"<section class=\"chart\" aria-labelledby=\"{name}\"><h2 id=\"{name}\">{title}</h2><p class=\"soft\">{words}</p>"
            f"{legend(data, entries)}{rows}<div class=\"axis{' long' if any(len(tick(at)) > 5 for at in marks) else ''}\" aria-hidden=\"true\"><div>{labels}</div></div></section>")


def legend(data, entries):
    used = {part["name"] for one in entries for part in one["parts"]}
    items = "".join(f"<li><i style=\"background:var(--c{at % len(COLOURS)})\"></i>{text(one['label'])}</li>"
                    for at, one in enumerate(data["components"]) if one["name"] in used)
    return f"<ul class=\"legend\" aria-label=\"Components\">{items}</ul>"


def bar_row(data, one, marks):
    name = f"<div><b>{text(one['label'])}</b><small>{text(one['what'])}</small></div>"
    found = one["seconds"]
    if found:
        sd = "" if found["sd"] is None else f"<small>± {seconds(found['sd'])}</small>"
        value = (f"<div class=\"value\" data-variant=\"{text(one['name'])}\" data-value=\"{float(found['mean'])!r}\">"
                 f"{seconds(found['mean'])} s{sd}</div>")
        return f"<div class=\"row\">{name}{bar(data, one, marks)}{value}</div>"
    reason = f"<div class=\"none\">{text(one['not_run'] or one['none'])}</div>"
    picture = bar(data, one, marks) if any(run["seconds"] is not None for run in runs_of(data, one)) else ""
    return f"<div class=\"row\">{name}{picture}{reason}</div>"


def runs_of(data, one):
    return [run for run in data["runs"] if run["variant"] == one["name"]]


def bar(data, one, marks):
    """A stacked bar with the single runs below it. Places are shares of the width, so it fits any screen."""
    whole, found = marks[-1], one["seconds"]
    pieces = [f"<line class=\"grid\" x1=\"{at / whole:.4%}\" x2=\"{at / whole:.4%}\" y1=\"0\" y2=\"46\"/>" for at in marks]
    stack, said = stacked(data, one, whole)
    pieces += stack
    aria = f"{one['label']}: no figure, {one['none']}"
    if found:
        pieces.append(f"<line class=\"range\" x1=\"{float(found['min']) / whole:.4%}\" x2=\"{float(found['max']) / whole:.4%}\" y1=\"37\" y2=\"37\"/>")
        aria = f"{one['label']}: mean {seconds(found['mean'])} s of {found['n']} runs: {', '.join(said)}"
    runs = [run for run in runs_of(data, one) if run["seconds"] is not None]
    for run in runs:
        kind = "counted" if run["counted"] else "marked"
        pieces.append(f"<circle class=\"{kind}\" cx=\"{float(run['seconds']) / whole:.4%}\" cy=\"37\" r=\"{2.5 if len(runs) > MANY else 3.5}\">"
                      f"<title>iteration {text(run['iteration'])}, {kind}: {seconds(run['seconds'])} s</title></circle>")
    return f"<svg class=\"bar{' crowd' if len(runs) > MANY else ''}\" role=\"img\" aria-label=\"{text(aria)}\">{''.join(pieces)}</svg>"


def stacked(data, one, whole):
    """The bar's pieces, and what they say in words."""
    order = {component["name"]: (at, component["label"]) for at, component in enumerate(data["components"])}
    pieces, said, begin = [], [], 0.0
    for part in one["parts"]:
        at, label = order[part["name"]]
        value = float(part["mean"])
        pieces.append(f"<rect x=\"{begin / whole:.5%}\" y=\"3\" width=\"{value / whole:.5%}\" height=\"25\" style=\"fill:var(--c{at % len(COLOURS)})\" "
                      f"data-variant=\"{text(one['name'])}\" data-component=\"{text(part['name'])}\" data-value=\"{value!r}\">"
                      f"<title>{text(label)}: {seconds(value)} s</title></rect>")
        said.append(f"{label} {seconds(value)} s")
        begin += value
    return pieces, said


# ---------------------------------------------------------------- the tables

def table(label, head, lines):
    """Each line: the row's name, then (text, class) cells, or one cell over all. Roles are said: on narrow screens it is a list."""
    top = "".join(f"<th scope=\"col\" role=\"columnheader\"{' class=text' if one.startswith('why') else ''}>{text(one)}</th>" for one in head)
    body = []
    for name, cells in lines:
        if len(cells) == 1:
            rest = f"<td role=\"cell\" class=\"none\" colspan=\"{len(head) - 1}\">{cells[0][0]}</td>"
        else:
            rest = "".join(f"<td role=\"cell\" data-label=\"{text(label_)}\"{kind}><span>{value}</span></td>"
                           for label_, (value, kind) in zip(head[1:], ((value, f" class=\"{kind}\"" if kind else "") for value, kind in cells)))
        body.append(f"<tr role=\"row\"><th scope=\"row\" role=\"rowheader\">{text(name)}</th>{rest}</tr>")
    return (f"<table role=\"table\" aria-label=\"{text(label)}\"><thead role=\"rowgroup\"><tr role=\"row\">{top}</tr></thead>"
            f"<tbody role=\"rowgroup\">{''.join(body)}</tbody></table>")


def figure(found, name):
    if found[name] is None:
        return ("–", "")
    few = " class=\"few\"" if name in found["too_few"] else ""
    return (f"<span{few} data-figure=\"{name}\" data-value=\"{float(found[name])!r}\">{seconds(found[name])}</span>", "")


def percentiles(data):
    lines, stock = [], next((one["seconds"]["p50"] for one in data["variants"] if one["name"] == "stock" and one["seconds"]), None)
    for one in data["variants"]:
        found = one["seconds"]
        if not found:
            lines.append((one["label"], [(text(one["not_run"] or one["none"]), "")]))
            continue
        against = (f"{stock / found['p50']:.2f}×", "") if stock and found["p50"] else ("", "empty")
        runs = f"{found['n']}" + (f" + {one['marked']} marked" if one["marked"] else "")
        lines.append((one["label"], [(text(runs), ""), *(figure(found, name) for name, _ in COLUMNS), against]))
    head = ["variant", "runs", *(label for _, label in COLUMNS), "vs stock"]
    few = sorted({name for one in data["variants"] if one["seconds"] for name in one["seconds"]["too_few"]})
    note = ""
    if few:
        needed = ", ".join(f"{name.upper()} {LEAST.get(name, 2)}" for name in few)
        note = (f"<p class=\"note\">~ : too few runs for this figure to mean what it says. Runs that it takes: {text(needed)}. "
                "With fewer, high percentiles lie between the two longest runs.</p>")
    return ("<section aria-labelledby=\"percentiles\"><h2 id=\"percentiles\">Percentiles</h2><p class=\"soft\">Seconds until the first reply, over the runs "
            f"that count. {text(data['settings']['statistics'])}. vs stock: median of the stock restore by this one.</p>{table('Percentiles', head, lines)}{note}</section>")


def components(data):
    shown = [one for one in data["components"] if any(part["name"] == one["name"] for entry in data["variants"] for part in entry["parts"])]
    lines = []
    for one in data["variants"]:
        parts = {part["name"]: part for part in one["parts"]}
        if parts:
            lines.append((one["label"], [(cell(parts[component["name"]]), "") if component["name"] in parts else ("", "empty") for component in shown]))
    if not lines:
        return ""
    head = ["variant", *(component["label"] for component in shown)]
    return ("<section aria-labelledby=\"components\"><h2 id=\"components\">Components</h2><p class=\"soft\">Seconds, mean ± standard deviation.</p>"
            f"{table('Components', head, lines)}</section>")


def cell(part):
    sd = "" if part["sd"] is None else f"<small> ± {seconds(part['sd'])}</small>"
    return f"<span data-value=\"{float(part['mean'])!r}\">{seconds(part['mean'])}</span>{sd}"


def marked(data):
    out = [run for run in data["runs"] if run["marks"] and not run["counted"]]
    kept = [run for run in data["runs"] if run["marks"] and run["counted"]]
    body = "<p>None.</p>" if not out else marks_of(data, "Marked runs", out)
    if len(out) > MANY:
        body = f"{numbers_of(out)}<details><summary>All {len(out)} of them</summary>{body}</details>"
    if kept:
        kinds = ", ".join(sorted({one["kind"] for run in kept for one in run["marks"]}))
        body += (f"<p class=\"note\">{len(kept)} runs count in spite of a mark, as was asked for: {text(kinds)}.</p>"
                 f"<details><summary>Runs that count in spite of a mark</summary>{marks_of(data, 'Accepted runs', kept)}</details>")
    return (f"<section aria-labelledby=\"marked\"><h2 id=\"marked\">Marked runs</h2><p class=\"soft\">A run on a disturbed machine, or with a wrong answer, "
            f"is listed here and is in no figure above.</p>{body}</section>")


def numbers_of(runs):
    kinds = sorted({one["kind"] for run in runs for one in run["marks"]})
    counts = ((kind, sum(any(one["kind"] == kind for one in run["marks"]) for run in runs)) for kind in kinds)
    return f"<p>{', '.join(f'<b>{text(kind)}</b>: {count} runs' for kind, count in counts)}.</p>"


def marks_of(data, label, runs):
    labels = {one["name"]: one["label"] for one in data["variants"]}
    lines = [(f"{labels.get(run['variant'], run['variant'])}, iteration {run['iteration']}",
              [("–" if run["seconds"] is None else f"{seconds(run['seconds'])} s", ""),
               ("<br>".join(f"<b>{text(one['kind'])}</b>: {text(one['reason'])}" for one in run["marks"]), "text")]) for run in runs]
    return table(label, ["run", "took", "why it is marked"], lines)


# ---------------------------------------------------------------- what stands behind the figures

def listed(pairs):
    return "<dl>" + "".join(f"<dt>{text(name)}</dt><dd>{value}</dd>" for name, value in pairs) + "</dl>"


def described(data):
    pairs = []
    for one in data["variants"]:
        words = [f"{one['what'][:1].upper()}{one['what'][1:]}.", f"Switched off: {one['switched_off'] or 'nothing'}.", PRELOADED[one["preloaded"]]]
        words += [f"Settings: {' '.join(one['environment'])}."] * bool(one["environment"]) + [f"Options: {' '.join(one['options'])}."] * bool(one["options"])
        if one["checkpoint_seconds"] is not None:
            words.append(f"Its checkpoint took {seconds(one['checkpoint_seconds'])} s and {float(one['checkpoint_bytes']) / 1e9:.2f} GB.")
        pairs.append((one["label"], text(" ".join(words))))
    return f"<section aria-labelledby=\"variants\"><h2 id=\"variants\">Variants</h2>{listed(pairs)}</section>"


def measured(data):
    settings, limits = data["settings"], data["settings"]["limits"]
    pairs = [(component["label"], prose(component["measured"])) for component in data["components"]]
    pairs += [("a run", text(f"The files that it reads are evicted (fsync, POSIX_FADV_DONTNEED{', drop_caches' if settings['drop_caches'] else ''}), "
                             f"{settings['settle_seconds']:g} s are waited, the machine is looked at, then the clock starts with exec. All variants run in "
                             "each iteration, in turning order.")),
              ("the question", text(f"Asked: {data['program']['asked']}. It has to be the same every time.")),
              ("page cache", text(f"Resident share of the files right before exec, by mincore and cachestat; a mark above {limits['resident_share']:.0%}. Files that "
                                  "other programs have mapped cannot be evicted and are not in the share.")),
              ("GPU and clocks", text(f"nvidia-smi: before a run no program on the GPU, at most {limits['gpu_utilisation']} % busy and {limits['gpu_memory_mib']} MiB in use; "
                                      f"no slowdown by heat or power supply. Right after the reply, if the GPU is {limits['computing']} % busy or more: "
                                      f"no power cap, and the SM clock at {limits['clock_share']:.0%} of the highest or more.")),
              ("load", text(f"CPUs busy while the benchmark waits, from /proc/stat; a mark above {limits['cpu_share']:.0%}.")),
              ("memory", text("From the wait until the reply: a mark if the kernel killed something for want of memory, or if processes were stalled for it "
                              f"for more than {limits['stalled_seconds']} s (/proc/pressure/memory, where there is one).")),
              ("stock restore", text(f"criu restore, then restore and unlock by {settings['stock_driver_tool']}."))]
    return f"<section aria-labelledby=\"measured\"><h2 id=\"measured\">How each figure was measured</h2>{listed(pairs)}</section>"


def machine(data):
    names = {"gpu": "GPU", "gpus": "GPUs", "driver": "driver", "cpu": "CPU", "cpus": "CPUs", "memory_gib": "memory, GiB", "kernel": "Linux",
             "file_system": "file system of the checkpoints", "transparent_hugepage": "transparent huge pages", "persistence_mode": "persistence mode"}
    pairs = []
    for name, value in data["machine"].items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        if shown not in ("", None):
            pairs.append((names.get(name, name), text(shown)))
    pairs.append(("command", f"<code>{text(data['command'])}</code>"))
    return f"<section aria-labelledby=\"machine\"><h2 id=\"machine\">Machine</h2>{listed(pairs)}</section>"
