//! Stored variants of weights: `model.safetensors`, `model.bf16.safetensors`, and so on.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

/// Which of several stored variants of a network's weights to take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Variant {
    /// bf16, else the one without a name (usually f32, twice the size), else fp16.
    #[default]
    Small,
    /// The most exact: the one without a name, else bf16, else fp16. diffusers, too, takes the one without a name
    /// unless it is told otherwise.
    Exact,
    /// The one of this name, and for a network that has none of this name the one without a name, as `variant` does
    /// in diffusers. Empty: the one without a name.
    Named(String),
}

impl Variant {
    /// Names that may be taken, the preferred one first. The variant without a name is "".
    pub(crate) fn order(&self) -> Vec<&str> {
        match self {
            Self::Small => vec!["bf16", "", "fp16"],
            Self::Exact => vec!["", "bf16", "fp16"],
            Self::Named(name) if name.is_empty() => vec![""],
            Self::Named(name) => vec![name, ""],
        }
    }
}

impl fmt::Display for Variant {
    /// Names in the order in which they are looked for, `none` for the variant without a name: `bf16,none,fp16`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.order().into_iter().map(|name| if name.is_empty() { "none" } else { name }).collect();
        f.write_str(&names.join(","))
    }
}

impl FromStr for Variant {
    type Err = Infallible;

    /// The variant of this name; `none` is the one without a name. Also what [`Display`](fmt::Display) writes.
    fn from_str(name: &str) -> Result<Self, Infallible> {
        let written = [Self::Small, Self::Exact].into_iter().find(|variant| variant.to_string() == name);
        Ok(written.unwrap_or_else(|| match name.strip_suffix(",none").unwrap_or(name) {
            "none" => Self::Named(String::new()),
            name => Self::Named(name.to_owned()),
        }))
    }
}

/// File names of a variant's weights in the folder layout, the preferred one first: a whole file, and the index of
/// several. diffusers takes the index where both are there, transformers the whole file.
pub(super) fn in_folder(stem: &str, variant: &str, index_first: bool) -> Vec<String> {
    let v = if variant.is_empty() { String::new() } else { format!("{variant}.") };
    let whole = format!("{stem}.{v}safetensors");
    // Different versions of the libraries put the variant at different places of an index's name.
    let mut names = vec![
        format!("{stem}.safetensors.index.{v}json"),
        format!("{stem}.safetensors.{v}index.json"),
        format!("{stem}.{v}safetensors.index.json"),
    ];
    names.dedup();
    names.insert(if index_first { names.len() } else { 0 }, whole);
    names
}

/// The file name of a variant's weights among single files.
pub(super) fn single(stem: &str, variant: &str) -> String {
    if variant.is_empty() { format!("{stem}.safetensors") } else { format!("{stem}_{variant}.safetensors") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for variant in [Variant::Small, Variant::Exact, Variant::Named(String::new()), Variant::Named("ema".into())] {
            assert_eq!(variant.to_string().parse(), Ok(variant));
        }
        assert_eq!("none".parse(), Ok(Variant::Named(String::new())));
        assert_eq!("bf16".parse(), Ok(Variant::Named("bf16".into())));
        assert_eq!(Variant::Small.to_string(), "bf16,none,fp16");
    }
}
