//! `docs/losses.md` names the tests that keep each loss from happening here: they exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<PathBuf> {
    let mut found = vec![];
    let mut folders = vec![root().join("src"), root().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// Names of the functions that follow an attribute of a test.
fn tests_in(text: &str) -> BTreeSet<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_test = |line: &str| line == "#[test]" || line.starts_with("#[tokio::test");
    let mut found = BTreeSet::new();
    for at in (0..lines.len()).filter(|at| is_test(lines[*at])) {
        let behind = lines[at + 1..].iter().take(4);
        let named = behind.filter_map(|line| line.split("fn ").nth(1)?.split('(').next());
        found.extend(named.take(1).map(str::to_owned));
    }
    found
}

/// What the page sets in backticks that looks like the name of a test.
fn named(page: &str) -> BTreeSet<String> {
    let words = page.split('`').skip(1).step_by(2);
    let is_name = |word: &&str| {
        word.matches('_').count() >= 3
            && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    words.filter(is_name).map(str::to_owned).collect()
}

#[test]
fn every_test_that_the_list_of_losses_names_exists() {
    let page = fs::read_to_string(root().join("docs/losses.md")).unwrap();
    let tests: BTreeSet<String> =
        sources().iter().flat_map(|path| tests_in(&fs::read_to_string(path).unwrap())).collect();
    let named = named(&page);
    assert!(named.len() > 60, "the page was not understood: {named:?}");
    let missing: Vec<_> = named.difference(&tests).collect();
    assert!(missing.is_empty(), "no test is named {missing:?}");
}

#[test]
fn every_seeded_defect_that_the_list_names_exists() {
    let page = fs::read_to_string(root().join("docs/losses.md")).unwrap();
    let defects = fs::read_to_string(root().join("src/protocol/defect.rs")).unwrap();
    let words = page.split('`').skip(1).step_by(2);
    let named = words.filter(|word| {
        word.starts_with(|c: char| c.is_ascii_uppercase())
            && word.bytes().all(|b| b.is_ascii_alphabetic())
            && *word != "Drop"
    });
    let named: BTreeSet<&str> = named.collect();
    assert!(named.len() > 10, "the page was not understood: {named:?}");
    for defect in named {
        assert!(defects.contains(&format!("    {defect},\n")), "no defect is named {defect}");
    }
}

#[test]
fn every_loss_of_the_list_has_a_test_or_says_that_it_is_not_built() {
    let page = fs::read_to_string(root().join("docs/losses.md")).unwrap();
    let lines: Vec<&str> = page.lines().collect();
    let mut rows = 0;
    for (row, next) in lines.iter().zip(lines[1..].iter().chain([&""])) {
        if !row.starts_with("| ") || next.starts_with("|--") {
            continue;
        }
        rows += 1;
        let answered = !named(row).is_empty() || row.contains("*not yet built*");
        assert!(answered, "neither a test nor a word of what is missing: {row}");
    }
    assert!(rows >= 30 + 5, "{rows} rows");
}
