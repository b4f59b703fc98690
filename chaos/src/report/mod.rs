//! The report: one HTML file that needs nothing else, for large and small screens, light and dark.

mod bins;
mod chart;

use std::fmt::Write as _;

use self::bins::Bins;
use crate::checkers::{Judgement, Violation};
use crate::history::{FaultEvent, History, Phase};
use crate::verdict::{Judged, Verdict};

const STYLE: &str = include_str!("style.css");
/// How many violations of a promise are shown at once; the others unfold.
const SHOWN_MAX: usize = 12;

/// A fault, whole.
pub struct Fault<'a> {
    /// Its beginning.
    pub begin: &'a FaultEvent,
    /// What was seen of it.
    pub held: Option<&'a FaultEvent>,
    /// Its end.
    pub end: Option<&'a FaultEvent>,
}

/// The faults of a history.
pub fn faults(history: &History) -> Vec<Fault<'_>> {
    let of = |fault: u32, phase: Phase| {
        history.faults.iter().find(move |event| event.fault == fault && event.phase == phase)
    };
    let begins = history.faults.iter().filter(|event| event.phase == Phase::Begin);
    begins
        .map(|begin| Fault {
            begin,
            held: of(begin.fault, Phase::Held),
            end: of(begin.fault, Phase::End),
        })
        .collect()
}

/// The whole page.
pub fn page(history: &History, judged: &Judged) -> String {
    let header = &history.header;
    let faults = faults(history);
    let bins = Bins::of(history);
    let mut page = String::new();
    let title = format!("{}: {} · coterie-chaos", judged.verdict.word(), header.scenario);
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style></head>\n<body><main>\n",
        escaped(&title)
    );
    page += &head(history, judged);
    page += &numbers(judged);
    page += "<section><h2>What happened</h2>\n";
    page += &chart::draw(&bins, &faults);
    page += "</section>\n";
    page += &promises(&judged.judgements);
    page += &fault_table(&faults);
    page += &nodes(history);
    let _ = write!(
        page,
        "<section><h2>Again</h2>\n<pre><code>{}</code></pre>\n\
         <p class=\"quiet\">The seed decides whom faults strike, in which order, and what clients do; \
         when each answer comes, it does not.</p></section>\n</main></body></html>\n",
        escaped(&header.command)
    );
    page
}

fn head(history: &History, judged: &Judged) -> String {
    let header = &history.header;
    let class = match judged.verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "fail",
        Verdict::Invalid => "invalid",
    };
    let mut text = format!(
        "<header class=\"{class}\"><p class=\"word\">{}</p>\n<h1>{}</h1>\n\
         <p>{}</p>\n<p class=\"quiet\">{}, target {}, {} nodes with {} replicas of each key, \
         {} clients for {} s, seed {}</p>\n",
        judged.verdict.word(),
        escaped(judged.sentence()),
        escaped(&header.about),
        escaped(&header.scenario),
        escaped(&header.target),
        header.nodes.len(),
        header.replicas,
        header.clients,
        header.seconds,
        header.seed,
    );
    if !judged.invalid.is_empty() {
        text += "<ul>";
        for why in &judged.invalid {
            let _ = write!(text, "<li>{}</li>", escaped(why));
        }
        text += "</ul>\n";
    }
    text + "</header>\n"
}

fn numbers(judged: &Judged) -> String {
    let writes = &judged.writes;
    let found = &judged.availability;
    let failed = format!("{:.3} %", found.failed_percent());
    let (all, key) = (found.silence_us as f64 / 1e6, found.key_silence_us as f64 / 1e6);
    let silence = format!("{all:.1} s, {key:.1} s");
    let tiles = [
        ("acknowledged writes", grouped(writes.acknowledged), ""),
        ("keys lost", grouped(writes.lost), if writes.lost > 0 { "bad" } else { "good" }),
        ("writes superseded", grouped(writes.superseded), ""),
        ("outcome unknown", grouped(writes.unknown), ""),
        ("failed while a quorum lived", failed, ""),
        ("longest silence, of all and of one key", silence, ""),
    ];
    let mut text = "<section class=\"tiles\">\n".to_owned();
    for (what, number, class) in tiles {
        let _ = writeln!(text, "<div class=\"{class}\"><b>{number}</b><span>{what}</span></div>");
    }
    text + "</section>\n"
}

fn fault_table(faults: &[Fault<'_>]) -> String {
    if faults.is_empty() {
        return String::new();
    }
    let mut text = "<section><h2>Faults, and what was seen of each</h2>\n<table class=\"cards\">\n\
                    <thead><tr><th>From</th><th>To</th><th>Fault</th><th>Nodes</th>\
                    <th>Seen</th></tr></thead>\n<tbody>\n"
        .to_owned();
    for fault in faults {
        let told = |event: Option<&FaultEvent>| match event {
            Some(FaultEvent { seen: Some(seen), .. }) => escaped(seen),
            Some(FaultEvent { unseen: Some(why), .. }) => {
                format!("<strong class=\"bad\">not seen: {}</strong>", escaped(why))
            }
            Some(_) | None => String::new(),
        };
        let end = fault.end.map_or_else(|| "–".to_owned(), |end| seconds(end.t_us));
        let _ = writeln!(
            text,
            "<tr><td data-is=\"From\">{}</td><td data-is=\"To\">{end}</td>\
             <td data-is=\"Fault\">{}</td><td data-is=\"Nodes\">{}</td>\
             <td data-is=\"Seen\">{}; {}</td></tr>",
            seconds(fault.begin.t_us),
            escaped(&fault.begin.kind),
            escaped(&fault.begin.nodes.join(", ")),
            told(fault.held),
            told(fault.end),
        );
    }
    text + "</tbody></table></section>\n"
}

fn promises(judgements: &[Judgement]) -> String {
    let mut text = "<section><h2>Promises</h2>\n<ul class=\"promises\">\n".to_owned();
    for judgement in judgements {
        let (class, word) = match (judgement.violations.len(), judgement.judged) {
            (0, 0) => ("quiet", "not tested".to_owned()),
            (0, _) => ("good", "kept".to_owned()),
            (broken, _) => ("bad", format!("broken {} times", grouped(broken))),
        };
        let _ = writeln!(
            text,
            "<li><p><b>{}</b> {} <strong class=\"{class}\">{word}</strong> \
             <span class=\"quiet\">{} judged, {} open{}</span></p>",
            judgement.id,
            escaped(judgement.promise),
            grouped(judgement.judged),
            grouped(judgement.open),
            if judgement.note.is_empty() { String::new() } else { format!("; {}", judgement.note) },
        );
        text += &violations(judgement);
        text += "</li>\n";
    }
    text + "</ul></section>\n"
}

fn violations(judgement: &Judgement) -> String {
    if judgement.violations.is_empty() {
        return String::new();
    }
    let items = |violations: &[Violation]| {
        let mut text = "<ul class=\"violations\">\n".to_owned();
        for violation in violations {
            let (key, what) = (escaped(&violation.key), escaped(&violation.what));
            let key = if key.is_empty() { key } else { format!("<code>{key}</code> ") };
            let _ = writeln!(text, "<li>{key}{what}</li>");
        }
        text + "</ul>\n"
    };
    // Every one of them stands on the page: whoever has lost something looks for its name.
    let (shown, more) = judgement.violations.split_at(judgement.violations.len().min(SHOWN_MAX));
    let mut text = items(shown);
    if !more.is_empty() {
        let _ = writeln!(
            text,
            "<details><summary>{} more</summary>\n{}</details>",
            grouped(more.len()),
            items(more)
        );
    }
    text
}

fn nodes(history: &History) -> String {
    let mut text = "<section><h2>Nodes, when all was over</h2>\n<table class=\"cards\">\n\
                    <thead><tr><th>Node</th><th>State</th><th>Up for</th><th>Hints kept</th>\
                    <th>Damaged records</th><th>Struck</th></tr></thead>\n<tbody>\n"
        .to_owned();
    for node in &history.nodes {
        let begins = history.faults.iter().filter(|event| event.phase == Phase::Begin);
        let struck = begins.filter(|event| event.nodes.contains(&node.node)).count();
        let class = if node.ready { "good" } else { "bad" };
        let _ = writeln!(
            text,
            "<tr><td data-is=\"Node\">{}</td><td data-is=\"State\" class=\"{class}\">{}</td>\
             <td data-is=\"Up for\">{}</td><td data-is=\"Hints kept\">{}</td>\
             <td data-is=\"Damaged records\">{}</td><td data-is=\"Struck\">{struck} ×</td></tr>",
            escaped(&node.node),
            escaped(&node.state),
            seconds(node.uptime_ms * 1000),
            node.hints,
            node.records_lost,
        );
    }
    let settled = history.settled.as_ref().map_or_else(String::new, |settled| {
        let after = seconds(settled.after_ms * 1000);
        format!(
            "<p class=\"quiet\">Read back and compared within {after} of the end of the load.</p>"
        )
    });
    format!("{text}</tbody></table>{settled}</section>\n")
}

fn seconds(t_us: u64) -> String {
    format!("{:.1} s", t_us as f64 / 1e6)
}

/// A number with its thousands apart.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Text that is no markup.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '&' => safe += "&amp;",
            '"' => safe += "&quot;",
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::testing::*;
    use crate::history::{Event, Settled};

    #[test]
    fn a_report_of_a_loss_says_fail_and_names_the_key() {
        let history = history([
            write(0, "set/7/41", "41@set/7/41", 0, 900),
            last("set/7/41", &[]),
            fault(&["n1"], 100, 800, Some("n1 ended by SIGKILL")),
            vec![Event::Settled(Settled::default())],
        ]);
        let page = page(&history, &Judged::of(&history));
        assert!(page.contains("<p class=\"word\">FAIL</p>"), "{page}");
        assert!(page.contains("acknowledged writes were lost"));
        assert!(page.contains("<code>set/7/41</code>"));
        assert!(page.contains("n1 ended by SIGKILL"));
        for foreign in ["http://", "https://", "<script", "src="] {
            assert!(!page.contains(foreign), "the page needs {foreign}");
        }
    }

    #[test]
    fn every_lost_key_is_on_the_page() {
        let key = |number: u64| format!("set/1/{number}");
        let lost = (0..40).map(|number| write(number, &key(number), "v", 0, 9));
        let history = history(lost.chain([vec![Event::Settled(Settled::default())]]));
        let page = page(&history, &Judged::of(&history));
        for number in 0..40 {
            assert!(page.contains(&format!("<code>{}</code>", key(number))), "{number}");
        }
        assert!(page.contains("<summary>28 more</summary>"));
    }

    #[test]
    fn what_nodes_say_is_no_markup() {
        assert_eq!(escaped("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
