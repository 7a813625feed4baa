//! The overview page at `/`.

use std::{collections::HashSet, fmt::Write as _};

use observer_core::{
    contract::{Status, summaries},
    detect::{Finding, Severity, finding_summary},
    export::{Exporter, Health},
    hints::Advice,
    table::Snapshot,
};

/// Number of processes listed.
const TOP: usize = 20;

const HEAD: &str = "<!doctype html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><title>observer</title>
<meta name=\"viewport\" content=\"width=device-width\">
<meta name=\"color-scheme\" content=\"light dark\">
<link rel=\"icon\" href=\"data:,\"><style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em }
table { border-collapse: collapse } td, th { padding: .2em .8em; text-align: left }
tr:nth-child(even) { background: #8881 } .bad { color: #d33 } .num { text-align: right }
details { margin: .4em 0 } li { max-width: 60em } div { overflow-x: auto } td { white-space: nowrap }
</style></head><body>
";

pub(super) fn page(exporter: &Exporter, health: &Health, snapshot: &Snapshot) -> String {
    let mut page = String::from(HEAD);
    let build = exporter.build();
    let _ = write!(
        page,
        "<h1>observer {}</h1>\n<p>TCP connection lifecycles, per process. Revision {}. \
         <a href=\"/metrics\">Metrics</a>, <a href=\"/api/v1/anomalies\">anomalies</a>, \
         <a href=\"/healthz\">health</a>, \
         <a href=\"/readyz\">readiness</a>.</p>\n",
        escape(&build.version),
        escape(&build.revision),
    );
    let missing = health.missing();
    if !missing.is_empty() {
        let missing = escape(&missing.join(", "));
        let _ = writeln!(
            page,
            "<p class=\"bad\">Not ready, waiting for: {missing}</p>"
        );
    }
    page.push_str("<h2>What is wrong</h2>\n");
    let findings = exporter.findings();
    if findings.is_empty() {
        page.push_str("<p>Nothing.</p>\n");
    }
    for finding in &findings {
        write_finding(&mut page, finding);
    }
    page.push_str(
        "<h2>Processes with the most sockets</h2>\n<div><table><tr><th>pid<th>comm<th>unit\
         <th>sockets<th>states</tr>\n",
    );
    for process in snapshot.busiest(TOP) {
        let vitals = &process.vitals;
        let time_wait = Some(("TIME_WAIT", vitals.time_wait)).filter(|(_, count)| *count > 0);
        let live = vitals.connections();
        let states: Vec<String> = live
            .map(|(state, count)| (state, count.into()))
            .chain(time_wait)
            .map(|(state, count): (_, u64)| format!("{state} {count}"))
            .collect();
        let _ = writeln!(
            page,
            "<tr><td>{}<td>{}<td>{}<td class=\"num\">{}<td>{}</tr>",
            process.key.tgid,
            escape(vitals.labels.comm()),
            escape(vitals.labels.unit()),
            vitals.sockets(),
            states.join(", "),
        );
    }
    page.push_str(
        "</table></div>\n<h2>Hooks</h2>\n<div><table><tr><th>signal<th>attach type<th>hook<th>verdict\
         <th>remark</tr>\n",
    );
    let verdicts = exporter.source().verdicts();
    let lacking: HashSet<_> = summaries(verdicts)
        .iter()
        .filter(|it| it.hooks.is_empty() || it.is_inferior())
        .map(|it| it.signal)
        .collect();
    for verdict in verdicts {
        let status = verdict.status;
        let is_obstacle = status.is_obstacle() && status != Status::Disabled;
        let is_bad = is_obstacle && lacking.contains(verdict.signal);
        let class = if is_bad { " class=\"bad\"" } else { "" };
        let _ = writeln!(
            page,
            "<tr><td>{}<td>{}<td>{}<td{class}>{}<td>{}</tr>",
            escape(verdict.signal),
            verdict.attach_type.name(),
            escape(verdict.hook),
            status.name(),
            escape(&verdict.detail),
        );
    }
    page.push_str("</table></div>\n</body></html>\n");
    page
}

/// Summary line, and hints about the causes.
fn write_finding(page: &mut String, finding: &Finding) {
    let (class, severity) = match finding.severity {
        Severity::Warning => ("", "warning"),
        Severity::Critical => (" class=\"bad\"", "critical"),
    };
    let _ = writeln!(
        page,
        "<details><summary><b{class}>{} ({severity})</b> {}</summary>\n<ul>",
        finding.anomaly.name(),
        escape(&finding_summary(finding)),
    );
    // Several causes may have the same hint.
    let mut known = HashSet::new();
    let hints = finding.causes.iter().flat_map(|it| &it.hints);
    for Advice { hint, unknown } in hints.filter(|it| known.insert(it.hint.id)) {
        let _ = write!(page, "<li>");
        for unknown in unknown {
            let _ = write!(page, "If {}: ", escape(unknown));
        }
        let _ = write!(page, "{}", escape(hint.fact));
        if !hint.fix.is_empty() {
            let _ = write!(page, " <b>{}</b>", escape(hint.fix));
        }
        let _ = writeln!(page, " Check: {}.", escape(hint.check));
    }
    page.push_str("</ul></details>\n");
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}
