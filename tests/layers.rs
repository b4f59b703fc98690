//! The rules of the repository: which module may import which, how long a file may be, and what
//! the pure core must never touch.

use std::fs;
use std::path::{Path, PathBuf};

/// The layers, lowest first. A module imports only modules of lower layers (and, within its own
/// folder, its neighbours).
const LAYERS: &[&[&str]] = &[
    &["types"],
    &["protocol"],
    &["metrics"],
    &["store", "peers", "gossip", "sim", "api", "http", "telemetry", "client", "config"],
    &["node"],
    &["cli"],
    &["main"],
];

/// Neighbours that may be imported though they are of the same layer: (who, whom).
const NEIGHBOURS: &[(&str, &str)] = &[
    // Settings are turned into what each driver is told.
    ("config", "store"),
    ("config", "gossip"),
    ("config", "peers"),
    ("api", "config"),
    ("http", "config"),
    ("telemetry", "config"),
    // Requests have spans.
    ("api", "telemetry"),
    // The admin port shows what the services' backend knows.
    ("http", "api"),
    // Gossip and streams share the control core's driver.
    ("gossip", "peers"),
    ("gossip", "config"),
    // The simulator's disk is the store's in-memory engine.
    ("sim", "store"),
];

/// What the chaos harness knows of the store: what its clients know. Its checkers know nothing.
const CLIENTS_KNOW: &[&str] = &["client", "proto"];

const LINES_MAX: usize = 800;

/// What a pure core does not do: wait, perform I/O, read a clock, draw from ambient randomness.
const IMPURE: &[&str] = &[
    "async ",
    ".await",
    "tokio",
    "std::net::Tcp",
    "std::net::Udp",
    "std::fs",
    "std::thread",
    "std::process",
    "std::env",
    "Instant::now",
    "SystemTime",
    "rand::rng(",
    "thread_rng",
    "from_os_rng",
    "println!",
    "eprintln!",
    "tracing::",
];

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = vec![];
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

fn without_comments(text: &str) -> String {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.collect::<Vec<_>>().join("\n")
}

/// The top-level module that a file of `src` belongs to.
fn module_of(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Top-level modules that a text names by `crate::module` or `coterie::module`.
fn imports(text: &str) -> Vec<String> {
    let mut found = vec![];
    for prefix in ["crate::", "coterie::"] {
        for (at, _) in text.match_indices(prefix) {
            let rest = &text[at + prefix.len()..];
            let name: String =
                rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.push(name);
        }
    }
    found
}

#[test]
fn imports_point_one_way() {
    let mut wrong = vec![];
    for (path, text) in sources("src") {
        let module = module_of(&path);
        if module == "lib" {
            continue;
        }
        let layer = layer_of(&module).unwrap_or_else(|| panic!("{module} belongs to no layer"));
        for import in imports(&without_comments(&text)) {
            let Some(below) = layer_of(&import) else { continue };
            let neighbour = NEIGHBOURS.contains(&(module.as_str(), import.as_str()));
            if import != module && below >= layer && !neighbour {
                wrong.push(format!("{} imports {import}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_core_is_pure() {
    let mut wrong = vec![];
    for (path, text) in sources("src/protocol") {
        // Tests of the core may do as they like.
        if path.file_stem().is_some_and(|stem| stem.to_str().unwrap().ends_with("tests")) {
            continue;
        }
        let code = without_comments(text.split("#[cfg(test)]\nmod").next().unwrap());
        for line in code.lines() {
            for impure in IMPURE.iter().filter(|impure| line.contains(**impure)) {
                wrong.push(format!("{}: `{impure}` in: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_chaos_harness_knows_what_clients_know() {
    let mut wrong = vec![];
    for (path, text) in sources("chaos/src") {
        let code = without_comments(&text);
        let judges = path.components().any(|part| part.as_os_str() == "checkers");
        for (at, _) in code.match_indices("coterie::") {
            let rest = &code[at + "coterie::".len()..];
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
            if judges || !CLIENTS_KNOW.contains(&name.as_str()) {
                wrong.push(format!("{} imports {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_file_is_one_idea() {
    let long = |text: &str| text.lines().count() > LINES_MAX;
    let files = ["src", "tests", "chaos/src", "chaos/tests"].into_iter().flat_map(sources);
    let wrong: Vec<_> = files.filter(|(_, text)| long(text)).map(|file| file.0).collect();
    assert!(wrong.is_empty(), "longer than {LINES_MAX} lines: {wrong:?}");
}

#[test]
fn nothing_is_left_for_later() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("unimpl", "emented!"),
        concat!("to", "do!("),
    ];
    let mut wrong = vec![];
    for (path, text) in ["src", "tests", "chaos"].into_iter().flat_map(sources) {
        for (number, line) in (1..).zip(text.lines()) {
            if marks.iter().any(|mark| line.contains(mark)) {
                wrong.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
