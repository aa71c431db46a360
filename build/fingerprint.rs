//! A fingerprint of a kernel's sources that comments and layout do not change.
//!
//! `tools/ptx/lock.py` computes the same. The build script holds it against `kernels/ptx.lock`, and `tests/ptx.rs` tests it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// FNV-1a of some bytes, as 16 hexadecimal digits.
pub fn fnv(bytes: impl IntoIterator<Item = u8>) -> String {
    let add = |value: u64, byte| (value ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, add))
}

/// The CUDA files of a folder, each read once.
pub struct Sources {
    folder: PathBuf,
    /// By name: what a file includes, and its text as `normalised` gives it.
    files: HashMap<String, (Vec<String>, String)>,
}

impl Sources {
    /// Of `kernels`, the folder.
    pub fn new(kernels: &Path) -> Self {
        Self { folder: kernels.to_owned(), files: HashMap::new() }
    }

    /// The fingerprint of `<stem>.cu` and of all that it includes, each file once, in the order of the first mention.
    pub fn fingerprint(&mut self, stem: &str) -> String {
        let mut names = Vec::new();
        self.collect(&format!("{stem}.cu"), &mut names);
        fnv(names.iter().flat_map(|name| self.files[name].1.bytes()))
    }

    fn collect(&mut self, name: &str, seen: &mut Vec<String>) {
        if seen.iter().any(|known| known == name) {
            return;
        }
        seen.push(name.to_owned());
        if !self.files.contains_key(name) {
            let path = self.folder.join(name);
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let include = |line: &str| Some(line.strip_prefix("#include \"")?.strip_suffix('"')?.to_owned());
            // The emulator is no part of what a GPU runs.
            let included = text.lines().filter_map(include).filter(|name| !name.starts_with("host/")).collect();
            self.files.insert(name.to_owned(), (included, normalised(&text)));
        }
        for included in self.files[name].0.clone() {
            self.collect(&included, seen);
        }
    }
}

/// C++ without comments and without the white space that separates no tokens. What is left of a gap is one space: between
/// two word characters, between two other characters (`+ +` is not `++`), and everywhere in a preprocessor directive
/// (`#define F (x)` is not `#define F(x)`), which keeps a line of its own. Literals stay as they are.
pub fn normalised(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out = String::new();
    let (mut gap, mut directive) = (false, false);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("\\\n") {
            2
        } else if c.is_ascii_whitespace() {
            if c == '\n' && directive {
                directive = false;
                out.push('\n');
            }
            1
        } else {
            if c == '#' && !directive {
                directive = true;
                out.push('\n');
            } else if gap && out.ends_with(|last: char| last != '\n' && (directive || is_word(last) == is_word(c))) {
                out.push(' ');
            }
            gap = false;
            let length = if c == '"' || c == '\'' { literal(rest, c) } else { c.len_utf8() };
            out.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        };
        gap = true;
        rest = &rest[length..];
    }
    out
}

/// Bytes of the literal that `text` begins with, its quotes included.
fn literal(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return i + 1,
            _ => {}
        }
    }
    text.len()
}
