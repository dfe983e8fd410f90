"""The look of the report of cold starts: one style sheet, light and dark, wide and narrow."""

# Of the components, in their order: light and dark. Told apart by lightness too.
COLOURS = (("#6b7280", "#9aa3b2"), ("#b58900", "#e3c04a"), ("#2f6fdb", "#6ba0ff"), ("#d9702b", "#ff9d5c"),
           ("#12876f", "#3fc9a8"), ("#7c4dbd", "#b592f0"), ("#b3b9c4", "#5d6675"), ("#c03a63", "#ff7ba3"))


def colours(number):
    return "".join(f"--c{at}:{COLOURS[at][number]};" for at in range(len(COLOURS)))


STYLE = """
:root{color-scheme:light dark;--page:#f5f6f8;--card:#fff;--text:#1b1f27;--soft:#59616f;--line:#dfe3ea;--grid:#e9ecf1;--warn:#9a3412;
--warnbg:#fff4ea;""" + colours(0) + """}
@media(prefers-color-scheme:dark){:root{--page:#11141a;--card:#191d25;--text:#e8ebf1;--soft:#a2abba;--line:#2e3541;--grid:#262c37;
--warn:#ffb27d;--warnbg:#2b2018;""" + colours(1) + """}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif;
overflow-wrap:anywhere}
main{max-width:1120px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:30px;line-height:1.2;margin:0 0 6px}h2{font-size:20px;margin:0 0 4px}
p{margin:0 0 10px}.soft,small{color:var(--soft)}.lead{font-size:18px;max-width:70ch;margin:14px 0 0}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:22px 24px;margin-top:22px}
code{font:13.5px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.note{color:var(--warn);background:var(--warnbg);border-radius:8px;padding:8px 12px;margin-top:12px}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:6px 18px;padding:0;margin:12px 0 14px;font-size:14px}
.legend i{display:inline-block;width:13px;height:13px;border-radius:3px;margin-right:7px;vertical-align:-1px}
.row,.axis{display:grid;grid-template-columns:270px minmax(0,1fr) 96px;gap:0 18px;align-items:center}
.row{border-top:1px solid var(--grid);padding:9px 0}
.row b{display:block;font-weight:600;line-height:1.3}.row small{display:block;line-height:1.35;font-size:13px}
.row .value{text-align:right;font-variant-numeric:tabular-nums;font-weight:600;white-space:nowrap}
.row .value small{font-weight:400}
.row .none{grid-column:2/-1;padding:2px 0;color:var(--warn);font-size:14px}
.bar{display:block;width:100%;height:46px;overflow:visible}
.bar line.grid{stroke:var(--grid)}.bar line.range{stroke:var(--soft)}
.bar circle{fill:var(--text);fill-opacity:.65}.bar circle.marked{fill:none;stroke:var(--warn);stroke-width:1.5}
.crowd circle{fill-opacity:.3}
.axis div{position:relative;height:22px;grid-column:2;font-size:13px;color:var(--soft);font-variant-numeric:tabular-nums}
.axis span{position:absolute;transform:translateX(-50%);white-space:nowrap}
.axis span:first-child{transform:none}.axis span:last-child{transform:translateX(-100%)}
table{border-collapse:collapse;width:100%;font-size:14.5px;margin-top:10px}
th,td{padding:7px 8px;text-align:right;border-top:1px solid var(--grid);font-variant-numeric:tabular-nums;vertical-align:top}
thead th{border-top:0;color:var(--soft);font-weight:600;font-size:13px;overflow-wrap:normal;vertical-align:bottom}
th:first-child,td.text,thead th.text{text-align:left}tbody th{font-weight:600}
td:not(.text):not(.none) span{white-space:nowrap}
td small{white-space:nowrap;display:block}
details{margin-top:10px}summary{cursor:pointer;color:var(--soft)}
td.none{text-align:left;color:var(--warn)}
.few{color:var(--soft)}.few::before{content:"~"}
dl{display:grid;grid-template-columns:minmax(150px,240px) minmax(0,1fr);gap:7px 20px;margin:10px 0 0;font-size:15px}
dt{font-weight:600}dd{margin:0}
@media(max-width:760px){
main{padding:20px 12px 40px}section{padding:16px 14px}h1{font-size:25px}.lead{font-size:16px}
.row{grid-template-columns:minmax(0,1fr) auto;gap:4px 12px}.row svg{grid-column:1/-1;grid-row:2}.row svg+.none{grid-row:3}.row .none{grid-column:1/-1}
.axis{display:block}.axis.long span:nth-last-child(2){display:none}
table,tbody,tr,td,tbody th{display:block}thead{display:none}
tbody tr{border-top:1px solid var(--line);padding:10px 0;display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:6px 10px}
tbody th,td,td.text{border:0;padding:0;text-align:left}tbody th,td.text,td.none{grid-column:1/-1}
td:not(.none)::before{content:attr(data-label);color:var(--soft);font-size:12.5px;display:block;line-height:1.3}
td.text::before{display:none!important}td.empty{display:none}
dl{grid-template-columns:minmax(0,1fr)}dd{margin-bottom:8px}
}
"""
