//! Checks that every shader file is in the registry and has a header in the required form.

use std::path::Path;

use cascade_rt::registry::{self, Lang};

/// The sections of a header, in their order.
const PARTS: [&str; 6] = ["Launch", "Memory", "Numerics", "Needs", "Tunables", "Reference"];

/// Name and text of every shader file, except those that are appended to others.
fn files() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let entries = entries.filter(|path| path.extension().is_some_and(|extension| extension == "wgsl"));
    let named = entries.map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path));
    let files: Vec<_> = named.map(|(name, path)| (name, std::fs::read_to_string(path).unwrap())).collect();
    files.into_iter().filter(|(name, _)| name != "common" && !name.ends_with(".shared")).collect()
}

#[test]
fn every_file_has_a_row() {
    for (name, _) in files() {
        let rows = registry::kernels(Lang::Wgsl).filter(|k| k.name == name);
        assert!(rows.count() > 0, "shaders/{name}.wgsl has no row in src/registry/wgsl.rs; add one");
    }
}

#[test]
fn every_row_is_named_after_its_op() {
    for kernel in registry::kernels(Lang::Wgsl) {
        let op = kernel.name.split('.').next().unwrap();
        assert_eq!(op, kernel.op, "the row of {}", kernel.name);
    }
}

#[test]
fn headers_have_the_fixed_form() {
    for (name, text) in files() {
        let directive = |line: &&str| line.starts_with("enable ") || line.is_empty();
        let header: Vec<&str> = text.lines().skip_while(directive).take_while(|l| l.starts_with("//")).collect();
        let op = name.split('.').next().unwrap();
        let title = header[0].strip_prefix(&format!("// {op}"));
        assert!(title.is_some_and(|t| t.starts_with([':', ','])), "shaders/{name}.wgsl begins with {:?}", header[0]);
        let at = |part: &str| header.iter().position(|l| l.starts_with(&format!("// {part} ")));
        let places: Vec<_> =
            PARTS.map(|part| at(part).unwrap_or_else(|| panic!("shaders/{name}.wgsl: no {part}"))).into();
        assert!(places.is_sorted(), "shaders/{name}.wgsl: {PARTS:?} in this order");
        assert!(header.iter().any(|l| *l == format!("// Reference  src/ops/{op}.rs")), "shaders/{name}.wgsl");
    }
}
