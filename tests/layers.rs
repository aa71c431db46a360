//! Which module may import which, as one table without exceptions: a network names no device, a
//! backend names no network, and kernels know ops and tensors alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules, each with all that it imports outside of tests. A row stands for everything below
/// its module except what has a row of its own. Rows import only rows further down.
const LAYERS: &[(&str, &str)] = &[
    (
        "cli",
        "adapters backend backend::cuda backend::devices backend::wgpu check controlnet convert demo error files hub image measure model noise ops output \
         picture pipeline plan prompts registry request sampler serve shape synth weights",
    ),
    ("serve", "error image noise picture pipeline prompts request sampler"),
    ("hub", "error weights"),
    ("measure", "backend backend::cpu error ops plan registry shape synth tensor"),
    ("demo", "error files model"),
    ("synth", "error files model net net::config tensor weights"),
    ("convert", "adapters error files model net::config tensor weights"),
    ("prompts", "error pipeline shape tokenizer"),
    (
        "pipeline",
        "adapters backend check controlnet error image model net net::config noise ops picture plan request sampler shape sizes tokenizer weights",
    ),
    ("check", "backend backend::cpu error ops plan registry shape tensor"),
    ("backend::devices", "backend backend::cpu backend::cuda backend::wgpu error registry"),
    ("backend::cuda", "backend backend::cpu error ops plan registry shape"),
    ("backend::wgpu", "backend backend::cpu error ops plan registry shape tensor"),
    ("backend::cpu", "backend cpu error ops plan registry tensor"),
    ("backend", "error ops plan registry tensor"),
    ("registry", "cpu ops plan shape"),
    ("cpu", "ops shape tensor"),
    ("picture", "error image"),
    ("image", "error output request"),
    ("output", "error"),
    ("request", "error noise sampler sizes"),
    ("adapters", "error files model tensor tokenizer weights"),
    ("tokenizer", "error files"),
    ("controlnet", "error files net::config weights"),
    ("model", "error files net::config sampler weights"),
    ("net", "error files net::config ops plan shape tensor weights"),
    ("net::config", "error files weights"),
    ("weights", "error files tensor"),
    ("plan", "error ops shape tensor"),
    ("ops", "noise shape tensor"),
    ("noise", "shape"),
    ("sampler", "error"),
    ("sizes", ""),
    ("tensor", "shape"),
    ("shape", ""),
    ("files", "error"),
    ("error", ""),
];

#[test]
fn modules_import_only_what_the_table_allows() {
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for file in sources() {
        let module = module_of(&file);
        let Some(from) = row_of(&module) else { continue };
        for path in imports(&code(&fs::read_to_string(src().join(&file)).unwrap()), &module) {
            let to = row_of(&path).unwrap_or("everything");
            if from != to && !allowed(from).any(|name| name == to) {
                wrong.push(format!(
                    "src/{}: `{from}` must not import `{to}` (crate::{})",
                    file.display(),
                    path.join("::")
                ));
            }
            seen.insert((from, to));
        }
    }
    assert!(wrong.is_empty(), "\n{}\nallowed imports are listed in tests/layers.rs\n", wrong.join("\n"));
    let listed = LAYERS.iter().flat_map(|(from, _)| allowed(from).map(move |to| (*from, to)));
    let unused: Vec<_> = listed.filter(|import| !seen.contains(import)).collect();
    assert!(unused.is_empty(), "no longer imported, strike from tests/layers.rs: {unused:?}");
}

#[test]
fn every_module_has_a_row() {
    for file in sources() {
        let module = module_of(&file);
        assert!(
            row_of(&module).is_some() || ["lib", "main"].contains(&module[0].as_str()),
            "src/{}: add `{}` to tests/layers.rs",
            file.display(),
            module[0]
        );
    }
}

#[test]
fn rows_import_rows_further_down() {
    let place =
        |name: &str| LAYERS.iter().position(|(row, _)| *row == name).unwrap_or_else(|| panic!("`{name}` has a row"));
    for (from, all) in LAYERS {
        for to in all.split_whitespace() {
            assert!(place(from) < place(to), "`{from}` stands below `{to}`");
        }
    }
}

#[test]
fn imports_are_found() {
    let code = code(
        "use crate::{a::B, c::{d, e::F}};\n// crate::comment\nuse super::g;\nuse super::super::h::{I};\n\
         fn f(x: crate::j::K) { $crate::l!() }\npub(in crate::m) fn n() {}\n#[cfg(test)]\nmod tests { use crate::test; }",
    );
    let module = ["x", "y"].map(String::from);
    let found: Vec<String> = imports(&code, &module).iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["a::B", "c::d", "c::e::F", "j::K", "l", "m", "x::g", "h::I"]);
}

/// What the row `from` may import.
fn allowed(from: &str) -> impl Iterator<Item = &'static str> {
    LAYERS.iter().filter(move |(row, _)| *row == from).flat_map(|(_, all)| all.split_whitespace())
}

/// The row that a path falls under: the longest that is its beginning.
fn row_of(path: &[String]) -> Option<&'static str> {
    let begins = |row: &&str| row.split("::").count() <= path.len() && row.split("::").zip(path).all(|(a, b)| a == b);
    LAYERS.iter().map(|(row, _)| *row).filter(begins).max_by_key(|row| row.len())
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// All source files, relative to `src`.
fn sources() -> Vec<PathBuf> {
    fn collect(dir: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => collect(&path, into),
                false => into.push(path),
            }
        }
    }
    let mut files = Vec::new();
    collect(&src(), &mut files);
    files.retain(|file| file.extension().is_some_and(|e| e == "rs"));
    files.sort();
    assert!(files.len() > 50, "sources are found");
    files.iter().map(|file| file.strip_prefix(src()).unwrap().to_owned()).collect()
}

/// `net/config/unet.rs` → `net`, `config`, `unet`.
fn module_of(file: &Path) -> Vec<String> {
    file.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect()
}

/// A source without comments and without its tests, which come last or are a file.
fn code(source: &str) -> String {
    if source.contains("\n#![cfg(test)]\n") {
        return String::new();
    }
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// Paths below `crate` that a module names, directly or by `super`.
fn imports(code: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("crate") {
        let starts = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        match code[at + "crate".len()..].strip_prefix("::") {
            Some(rest) if starts => drop(expand(rest, Vec::new(), &mut paths)),
            _ => {}
        }
    }
    for (at, _) in code.match_indices("super::") {
        // The first of a chain leads to the parent, each further one up again.
        if code[..at].ends_with("super::") {
            continue;
        }
        let (mut rest, mut base) = (&code[at..], module.to_vec());
        while let Some(after) = rest.strip_prefix("super::") {
            (rest, _) = (after, base.pop());
        }
        expand(rest, base, &mut paths);
    }
    paths
}

/// Adds every path of a tree like `a::{b, c::d}` below `base`; returns what follows the tree.
fn expand<'a>(text: &'a str, mut base: Vec<String>, paths: &mut Vec<Vec<String>>) -> &'a str {
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start_matches([' ', '\n', ',']);
            match rest.strip_prefix('}') {
                Some(after) => return after,
                None => rest = expand(rest, base.clone(), paths),
            }
        }
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*')).unwrap_or(text.len());
    base.push(text[..end].to_owned());
    match text[end..].strip_prefix("::") {
        Some(rest) => expand(rest, base, paths),
        None => {
            paths.push(base);
            // `as` and a name may follow in a group.
            text[end..].trim_start_matches(|c: char| !",}".contains(c) && c != '\n')
        }
    }
}
