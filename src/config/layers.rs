//! Layers of settings: files, the environment, flags; each value with where it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use config::{FileFormat, Source, Value, ValueKind};

use super::DEFAULTS;
use super::error::Problem;
use super::values::{Parse, Raw};

/// What variables of the environment begin with. Others, such as the `COTERIE_PORT` that
/// Kubernetes makes of a service's name, are not ours.
pub(super) const ENV_PREFIX: &str = "COTERIE__";
/// A key that is mistyped by more than this is not a mistyped one.
const DISTANCE_MAX: usize = 4;
/// Longer than every key; longer input is not compared.
const KEY_LEN_MAX: usize = 64;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The compiled-in defaults.
    Default,
    /// A file, and the line if it could be found.
    File(String, Option<usize>),
    /// A variable of the environment.
    Environment(String),
    /// A flag.
    Flag(String),
}

/// A value and where it came from.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// All keys with the value of the highest layer that has one.
#[derive(Debug)]
pub(super) struct Layers {
    settings: BTreeMap<String, Setting>,
    pub(super) problems: Vec<Problem>,
}

/// The defaults by key.
static DEFAULT_VALUES: LazyLock<BTreeMap<String, Raw>> = LazyLock::new(|| {
    let mut layers = Layers { settings: BTreeMap::new(), problems: vec![] };
    layers.collect(DEFAULTS, "the defaults", |_, _| Origin::Default, |_| true);
    assert!(layers.problems.is_empty(), "config/coterie.toml: {:?}", layers.problems);
    layers.settings.into_iter().map(|(key, setting)| (key, setting.raw)).collect()
});

/// The default of a key.
pub(super) fn default_of(key: &str) -> &'static Raw {
    DEFAULT_VALUES.get(key).unwrap_or_else(|| panic!("config/coterie.toml lacks {key}"))
}

impl Layers {
    pub(super) fn defaults() -> Self {
        let with_origin = |raw: &Raw| Setting { raw: raw.clone(), origin: Origin::Default };
        let each = DEFAULT_VALUES.iter();
        let settings = each.map(|(key, raw)| (key.clone(), with_origin(raw))).collect();
        Self { settings, problems: vec![] }
    }

    /// The defaults, files in order, variables of the environment, flags.
    pub(super) fn of(
        files: &[PathBuf],
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[String],
    ) -> Self {
        let mut layers = Self::defaults();
        files.iter().for_each(|file| layers.add_file(file));
        layers.add_environment(environment.into_iter());
        flags.iter().for_each(|flag| layers.add_flag(flag));
        layers
    }

    pub(super) fn add_file(&mut self, path: &Path) {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => self.add_text(&text, &name),
            Err(source) => self.problems.push(Problem::Unreadable { path: name, source }),
        }
    }

    /// Adds the text of a file of this name.
    pub(super) fn add_text(&mut self, text: &str, name: &str) {
        let origin = |key: &str, name: &str| Origin::File(name.to_owned(), line_of(text, key));
        self.collect(text, name, origin, |key| DEFAULT_VALUES.contains_key(key));
    }

    /// Adds the variables that are ours.
    pub(super) fn add_environment(&mut self, variables: impl Iterator<Item = (String, String)>) {
        for (name, value) in variables {
            let Some(path) = name.strip_prefix(ENV_PREFIX) else { continue };
            let key = path.to_ascii_lowercase().replace("__", ".");
            self.set(key, Raw::Text(value), Origin::Environment(name));
        }
    }

    /// Adds a flag of the form `section.key=value`.
    pub(super) fn add_flag(&mut self, flag: &str) {
        match flag.split_once('=') {
            Some((key, value)) => {
                let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
                self.set(key, Raw::Text(value), Origin::Flag(flag.to_owned()));
            }
            None => self.problems.push(Problem::Flag { flag: flag.to_owned() }),
        }
    }

    /// A value of the type that the caller needs. One that does not parse becomes a problem, and
    /// the default stands in so that all problems are found at once.
    pub(super) fn get<T: Parse>(&mut self, key: &'static str) -> T {
        let setting = &self.settings[key];
        if let Some(value) = T::parse(&setting.raw) {
            return value;
        }
        self.refuse(key, format!("allowed is {}", T::ALLOWED));
        T::parse(default_of(key)).unwrap_or_else(|| panic!("the default of {key} is not valid"))
    }

    /// A whole number within bounds.
    pub(super) fn number<N>(&mut self, key: &'static str, low: N, high: N) -> N
    where
        N: TryFrom<u64> + PartialOrd + Copy + fmt::Display,
    {
        match N::try_from(self.get::<u64>(key)) {
            Ok(number) if low <= number && number <= high => number,
            _ => {
                self.refuse(key, format!("allowed is {low} to {high}"));
                low
            }
        }
    }

    /// Says that a value, though well-formed, cannot be used.
    pub(super) fn refuse(&mut self, key: &'static str, why: String) {
        let Setting { raw, origin } = self.settings[key].clone();
        let value = raw.to_string();
        self.problems.push(Problem::Invalid { key, value, origin, why });
    }

    /// Whether a problem with this key is known already.
    pub(super) fn has_refused(&self, key: &str) -> bool {
        let is_it =
            |problem: &Problem| matches!(problem, Problem::Invalid { key: it, .. } if *it == key);
        self.problems.iter().any(is_it)
    }

    /// Where the value of a key came from.
    pub(super) fn origin(&self, key: &str) -> &Origin {
        &self.settings[key].origin
    }

    /// Whether any layer above the defaults has set this key.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.settings.get(key).is_some_and(|setting| setting.origin != Origin::Default)
    }

    fn set(&mut self, key: String, raw: Raw, origin: Origin) {
        if DEFAULT_VALUES.contains_key(&key) {
            self.settings.insert(key, Setting { raw, origin });
        } else {
            let advice = advice(&key);
            self.problems.push(Problem::UnknownKey { key, origin, advice });
        }
    }

    fn collect(
        &mut self,
        text: &str,
        name: &str,
        origin: impl Fn(&str, &str) -> Origin,
        is_known: impl Fn(&str) -> bool,
    ) {
        let file = config::File::from_str(text, FileFormat::Toml);
        let table = match file.collect() {
            Ok(table) => table,
            Err(source) => {
                self.problems.push(Problem::Syntax { path: name.to_owned(), source });
                return;
            }
        };
        let mut flat = BTreeMap::new();
        for (key, value) in table {
            flatten(key, value, &mut flat);
        }
        for (key, raw) in flat {
            let origin = origin(&key, name);
            if is_known(&key) {
                self.settings.insert(key, Setting { raw, origin });
            } else {
                let advice = advice(&key);
                self.problems.push(Problem::UnknownKey { key, origin, advice });
            }
        }
    }
}

fn flatten(key: String, value: Value, flat: &mut BTreeMap<String, Raw>) {
    match value.kind {
        ValueKind::Table(table) => {
            for (inner, value) in table {
                flatten(format!("{key}.{inner}"), value, flat);
            }
        }
        kind => {
            flat.insert(key, raw(kind));
        }
    }
}

fn raw(kind: ValueKind) -> Raw {
    match kind {
        ValueKind::String(text) => Raw::Text(text),
        ValueKind::Boolean(flag) => Raw::Bool(flag),
        ValueKind::I64(number) => Raw::Integer(number),
        ValueKind::Float(number) => Raw::Float(number),
        ValueKind::Array(items) => Raw::List(items.into_iter().map(|v| raw(v.kind)).collect()),
        other @ (ValueKind::Nil
        | ValueKind::I128(_)
        | ValueKind::U64(_)
        | ValueKind::U128(_)
        | ValueKind::Table(_)) => Raw::Other(other.to_string()),
    }
}

/// The line on which a file sets a key: a search of the text, since values do not carry it.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let mut section = String::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            let name = header.split(']').next().unwrap_or_default();
            section = format!("{}.", name.trim());
        } else if let Some((name, _)) = line.split_once('=')
            && format!("{section}{}", name.trim()) == key
        {
            return Some(at + 1);
        }
    }
    None
}

/// What to say of a key that does not exist.
fn advice(key: &str) -> String {
    let sections = || DEFAULT_VALUES.keys().filter_map(|known| known.split_once('.'));
    if sections().any(|(section, _)| section == key) {
        return format!("it is a section, written as [{key}]");
    }
    if let Some(nearest) = nearest(key) {
        return format!("did you mean `{nearest}`?");
    }
    let section = key.split('.').next().unwrap_or_default();
    let keys: Vec<&str> =
        sections().filter(|known| known.0 == section).map(|known| known.1).collect();
    if !keys.is_empty() {
        return format!("[{section}] has {}", keys.join(", "));
    }
    let mut names: Vec<&str> = sections().map(|known| known.0).collect();
    names.dedup();
    format!("the sections are {}", names.join(", "))
}

/// The known key that a mistyped one is nearest to.
fn nearest(key: &str) -> Option<&'static str> {
    if key.len() > KEY_LEN_MAX {
        return None;
    }
    let last = |key: &'static str| key.rsplit('.').next().unwrap_or(key);
    let own_last = key.rsplit('.').next().unwrap_or(key);
    let rate = |known: &'static str| {
        let whole = distance(key, known);
        // The right name in a wrong or missing section is a near miss, too.
        let rating = if own_last == last(known) { whole.min(1) } else { whole };
        (rating, whole, known)
    };
    let (rating, _, known) = DEFAULT_VALUES.keys().map(|known| rate(known)).min()?;
    (rating <= DISTANCE_MAX.min(key.len() / 2)).then_some(known)
}

/// How many insertions, deletions, substitutions and swaps of neighbours turn one text into the
/// other (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the defaults"),
            Self::File(path, Some(line)) => write!(f, "{path}:{line}"),
            Self::File(path, None) => f.write_str(path),
            Self::Environment(name) => write!(f, "the environment variable {name}"),
            Self::Flag(flag) => write!(f, "the flag --set {flag}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_counts_swaps_as_one() {
        assert_eq!(distance("node.name", "node.name"), 0);
        assert_eq!(distance("node.naem", "node.name"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn a_mistyped_key_is_led_to_the_nearest_known_one() {
        assert_eq!(nearest("node.naem"), Some("node.name"));
        assert_eq!(nearest("nodes.zone"), Some("node.zone"));
        assert_eq!(nearest("name"), Some("node.name"));
        assert_eq!(nearest("replica"), Some("timeouts.replica"));
        assert_eq!(nearest("storage.durabilty"), Some("storage.durability"));
        assert_eq!(nearest("x"), None);
        assert_eq!(nearest(&"x".repeat(1 << 20)), None);
    }

    #[test]
    fn the_line_of_a_key_is_that_of_its_section() {
        let text = "[a]\nname = 1\n\n[ b ]\n# name = 3\nname = 2\n";
        assert_eq!(line_of(text, "a.name"), Some(2));
        assert_eq!(line_of(text, "b.name"), Some(6));
        assert_eq!(line_of(text, "c.name"), None);
    }
}
