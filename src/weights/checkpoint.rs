//! The named tensors of one network, from one file or several.

mod int8;

use std::collections::{BTreeMap, BTreeSet, HashMap, btree_map};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::prelude::*;

use super::change::{Changes, LowRank};
use super::file::{self, Stored};
use super::index;
use super::kind::NetworkKind;
use super::names::{self, AVERAGED, PLAIN, Rename};
use crate::error::{Error, Result, short};
use crate::files::Location;
use crate::tensor::Weight;

/// Most prefixes of networks in a file: more than a model has networks.
const MOST_PREFIXES: usize = 16;

/// The tensors of one network by their names in the `diffusers` scheme, whatever
/// the layout of the file. Opening one reads only headers.
#[derive(Debug)]
pub struct Checkpoint {
    /// The file (or index of a sharded checkpoint) it was opened from, for messages.
    pub path: PathBuf,
    /// Whether the names in the file were those of the original repository or
    /// of ComfyUI. Stage A's scale factor is different for these.
    pub original: bool,
    kind: NetworkKind,
    tensors: BTreeMap<String, Tensor>,
    /// What adapters change, by tensor.
    changes: HashMap<String, Changes>,
}

/// A tensor, and its view, which is created on first use.
#[derive(Debug)]
struct Tensor {
    stored: Stored,
    transposed: bool,
    /// Whether the view is to be a copy of int8.
    narrow: bool,
    weight: OnceLock<Option<Weight>>,
}

impl Checkpoint {
    /// Opens a safetensors file, or the index of a sharded checkpoint
    /// (`*.safetensors.index.json`). If a file contains several networks, opens the
    /// first: the U-Net, if there is one.
    ///
    /// # Errors
    /// If a file is missing, is not a valid safetensors file, or contains no tensors.
    pub fn open(location: impl Into<Location>) -> Result<Self> {
        let location = location.into();
        let found = Self::open_all(&location)?.into_iter().next();
        found.ok_or_else(|| Error::Model {
            path: location.path().to_owned(),
            expected: "tensors of a network".to_owned(),
            found: "none".to_owned(),
        })
    }

    /// Opens a file's network of kind `wanted`.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), and [`Error::Model`] if the file contains other networks; it
    /// says which.
    pub fn open_as(location: impl Into<Location>, wanted: NetworkKind) -> Result<Self> {
        let location = location.into();
        let all = Self::open_all(&location)?;
        let what = |c: &Checkpoint| match c.kind {
            NetworkKind::Unknown => {
                format!("an unknown network (with `{}`)", short(c.names().next().unwrap_or_default()))
            }
            kind => kind.to_string(),
        };
        let found: Vec<String> = all.iter().map(what).collect();
        all.into_iter().find(|c| c.kind == wanted).ok_or_else(|| Error::Model {
            path: location.path().to_owned(),
            expected: wanted.to_string(),
            found: if found.is_empty() { "no tensors".to_owned() } else { found.join(" and ") },
        })
    }

    /// Opens every network in a file: those with a prefix, in the order of [`names::SECTIONS`], then the one without,
    /// then those with any other prefix, then averaged weights.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_all(location: impl Into<Location>) -> Result<Vec<Self>> {
        let location = location.into();
        let path = location.path();
        let sharded = path.extension().is_some_and(|e| e == "json");
        Self::of(path, if sharded { index::open(&location)? } else { file::open(&location)? })
    }

    /// Every network that these tensors form, in the order of [`open_all`](Self::open_all). Messages name `path` as
    /// the file.
    ///
    /// # Errors
    /// [`Error::Tensor`] if two tensors have the same name, or the factors of one of int8 do not fit it; [`Error::Model`] if
    /// two prefixes have the same network.
    pub fn of(path: &Path, stored: Vec<Stored>) -> Result<Vec<Self>> {
        let mut sections: [Vec<(Stored, String)>; AVERAGED + 1] = Default::default();
        for tensor in Stored::with_factors(stored)? {
            let (section, name) = names::section(&tensor.name);
            sections[section].push((tensor, name));
        }
        let plain = std::mem::take(&mut sections[PLAIN]);
        let prefixes = names::prefixes(plain.iter().map(|(_, name)| name.as_str()));
        if prefixes.len() > MOST_PREFIXES {
            return Err(Error::Model {
                path: path.to_owned(),
                expected: format!("networks under at most {MOST_PREFIXES} prefixes"),
                found: format!("{}, like `{}`", prefixes.len(), short(&prefixes[0])),
            });
        }
        let mut others: Vec<Vec<(Stored, String)>> = prefixes.iter().map(|_| Vec::new()).collect();
        for (tensor, name) in plain {
            let inner = |(i, prefix): (usize, &String)| Some((i, name.strip_prefix(prefix)?.to_owned()));
            match prefixes.iter().enumerate().find_map(inner) {
                Some((i, inner)) => others[i].push((tensor, inner)),
                None => sections[PLAIN].push((tensor, name)),
            }
        }
        let mut averaged = Vec::new();
        let mut all = Vec::new();
        for (section, tensors) in sections.into_iter().enumerate().filter(|(_, tensors)| !tensors.is_empty()) {
            let into = if section == AVERAGED { &mut averaged } else { &mut all };
            into.push(Self::new(path, section < PLAIN, tensors)?);
        }
        let mut found: Vec<(NetworkKind, &str)> = Vec::new();
        for (prefix, tensors) in prefixes.iter().zip(others) {
            let network = Self::new(path, false, tensors)?;
            if names::is_averaged(prefix) {
                averaged.push(network);
                continue;
            }
            if let Some((kind, other)) = found.iter().find(|(kind, _)| *kind == network.kind) {
                return Err(Error::Model {
                    path: path.to_owned(),
                    expected: format!("one network of a kind, here {kind}"),
                    found: format!("two, under `{}` and `{}`; keep one of them", short(other), short(prefix)),
                });
            }
            found.push((network.kind, prefix));
            all.push(network);
        }
        all.extend(averaged);
        Ok(all)
    }

    fn new(path: &Path, combined: bool, tensors: Vec<(Stored, String)>) -> Result<Self> {
        let mut checkpoint = Self {
            path: path.to_owned(),
            original: combined,
            kind: NetworkKind::Unknown,
            tensors: BTreeMap::new(),
            changes: HashMap::new(),
        };
        for (stored, old) in tensors {
            match names::rename(&old) {
                Rename::To(name) => {
                    checkpoint.original |= name != old;
                    checkpoint.insert(name, stored, false)?;
                }
                Rename::Transpose(name) => checkpoint.insert(name, stored, true)?,
                Rename::SplitRows(names) => {
                    checkpoint.original = true;
                    for block in stored.split_rows(&names)? {
                        checkpoint.insert(block.name.clone(), block, false)?;
                    }
                }
            }
        }
        checkpoint.kind = NetworkKind::of(checkpoint.names());
        Ok(checkpoint)
    }

    fn insert(&mut self, name: String, stored: Stored, transposed: bool) -> Result<()> {
        match self.tensors.entry(name) {
            btree_map::Entry::Vacant(entry) => {
                entry.insert(Tensor { stored, transposed, narrow: false, weight: OnceLock::new() });
                Ok(())
            }
            btree_map::Entry::Occupied(entry) => Err(Error::Tensor {
                path: stored.path().to_owned(),
                name: entry.key().clone(),
                expected: "one tensor of this name".to_owned(),
                found: format!("a second one, stored as `{}`", stored.name),
            }),
        }
    }

    /// Which network this is.
    pub fn kind(&self) -> NetworkKind {
        self.kind
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether any name begins with `prefix`.
    pub fn starts_with(&self, prefix: &str) -> bool {
        let first = self.tensors.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)).next();
        first.is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// The stored dimensions of a tensor of any element type.
    pub fn dims(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.stored.dims)
    }

    /// How a tensor is stored: file, element type, size.
    pub fn stored(&self, name: &str) -> Option<&Stored> {
        Some(&self.tensors.get(name)?.stored)
    }

    /// A tensor of floats. `None` if there is no such tensor, or if it cannot be used as
    /// a weight because it has no elements or another element type.
    pub fn get(&self, name: &str) -> Option<&Weight> {
        let tensor = self.tensors.get(name)?;
        tensor.weight.get_or_init(|| tensor.view(name)).as_ref()
    }

    /// A tensor of floats with these dimensions. Dimensions of 1 are not
    /// compared, so that a 1×1 convolution `[o, i, 1, 1]` can be requested
    /// as the matrix `[o, i]`. The result has the dimensions `dims`.
    ///
    /// # Errors
    /// [`Error::Tensor`] with the file, the name, and what was expected and found.
    pub fn require(&self, name: &str, dims: &[usize]) -> Result<Weight> {
        let weight = self.unchanged(name, dims)?;
        Ok(self.changes.get(name).map_or_else(|| weight.clone(), |changes| changes.all(&weight)))
    }

    /// Like [`require`](Self::require), with those changes apart that may be computed beside the weight.
    ///
    /// # Errors
    /// Those of [`require`](Self::require).
    pub fn require_apart(&self, name: &str, dims: &[usize]) -> Result<(Weight, &[LowRank])> {
        let weight = self.unchanged(name, dims)?;
        match self.changes.get(name) {
            Some(changes) => Ok((changes.copy(&weight), &changes.low_rank)),
            None => Ok((weight, &[])),
        }
    }

    /// A tensor as it is stored, whatever adapters change.
    fn unchanged(&self, name: &str, dims: &[usize]) -> Result<Weight> {
        self.expect(name, dims, "")?;
        self.checked(name, dims, self.get(name).expect("a tensor of floats has a view"))
    }

    /// A tensor of floats with all changes, which are made anew: nothing of it is kept.
    pub fn changed(&self, name: &str) -> Option<Weight> {
        let weight = self.get(name)?;
        Some(self.changes.get(name).map_or_else(|| weight.clone(), |changes| changes.made_anew(weight)))
    }

    /// Whether a tensor's elements are those in the file, in their order.
    pub fn is_as_stored(&self, name: &str) -> bool {
        !self.changes.contains_key(name) && self.tensors.get(name).is_some_and(|tensor| !tensor.transposed)
    }

    /// Replaces all changes of its tensors.
    pub fn change(&mut self, changes: HashMap<String, Changes>) {
        self.changes = changes;
    }

    /// The checks of [`require`](Self::require), without accessing the data. `source` says where the dimensions come from,
    /// e.g. "as decoder/config.json says".
    ///
    /// # Errors
    /// Those of [`require`](Self::require).
    pub fn expect(&self, name: &str, dims: &[usize], source: &str) -> Result<()> {
        let stored = self.stored(name);
        if self.tensors.get(name).is_some_and(|tensor| tensor.is_usable() && same_dims(&tensor.dims(), dims)) {
            return Ok(());
        }
        let found = stored.map_or("nothing".to_owned(), |s| format!("{:?} in {:?}", s.dims, s.dtype));
        let remedy = match stored {
            Some(stored)
                if stored.dtype == safetensors::Dtype::I8 && stored.float().is_none() && stored.bytes() > 0 =>
            {
                "; weights of this type cannot be used unless an F32 tensor of the same name with `_scale` has their factors"
            }
            Some(stored) if stored.float().is_none() && stored.bytes() > 0 => {
                "; weights of this type cannot be used, take the model's file in bf16, f16 or f32"
            }
            _ if source.is_empty() => "",
            _ => "; use weights and config of the same model",
        };
        Err(Error::Tensor {
            path: stored.map_or(self.path.as_path(), Stored::path).to_owned(),
            name: name.to_owned(),
            expected: format!("{dims:?} in F64, F32, F16 or BF16{}", in_brackets(source)),
            found: found + remedy,
        })
    }

    /// Checks that the network has no blocks besides those of the tensors `known`. `source` is as for
    /// [`expect`](Self::expect).
    ///
    /// # Errors
    /// [`Error::Tensor`] for the first tensor that is not in `known`, but that only numbers tell from one that is, or
    /// that is a `weight` or a `bias` in the same module. Such tensors mean that the configuration is that of another
    /// network. Any others, such as counters, positions and statistics, are ignored.
    pub fn expect_no_more<'a>(&self, known: impl Iterator<Item = &'a str>, source: &str) -> Result<()> {
        fn module(name: &str) -> &str {
            name.split_once('.').map_or(name, |(module, _)| module)
        }
        fn without_numbers(name: &str) -> String {
            name.split('.').filter(|part| part.parse::<u64>().is_err()).collect::<Vec<_>>().join(".")
        }
        let known: BTreeSet<&str> = known.collect();
        let modules: BTreeSet<&str> = known.iter().map(|name| module(name)).collect();
        let patterns: BTreeSet<String> = known.iter().map(|name| without_numbers(name)).collect();
        for (name, tensor) in &self.tensors {
            let learned = || modules.contains(module(name)) && (name.ends_with(".weight") || name.ends_with(".bias"));
            if !known.contains(name.as_str()) && (learned() || patterns.contains(&without_numbers(name))) {
                return Err(Error::Tensor {
                    path: tensor.stored.path().to_owned(),
                    name: name.to_owned(),
                    expected: format!("no such tensor{}", in_brackets(source)),
                    found: format!("{:?}; use weights and config of the same model", tensor.stored.dims),
                });
            }
        }
        Ok(())
    }

    /// The files that contain its tensors.
    pub fn files(&self) -> BTreeSet<&Path> {
        self.tensors.values().map(|tensor| tensor.stored.path()).collect()
    }

    /// The first NaN or infinity, by tensor name and then index. Reads all data.
    pub fn first_non_finite(&self) -> Option<(&str, usize)> {
        let names: Vec<&str> = self.names().collect();
        names.into_par_iter().find_map_first(|name| {
            let mut before = 0;
            for part in self.get(name)?.parts() {
                let elements = part.elements();
                if let Some(i) = elements.first_non_finite() {
                    return Some((name, before + i));
                }
                before += elements.len();
            }
            None
        })
    }
}

impl Tensor {
    /// Whether it can be used as a weight: a transposed one must be a matrix.
    fn is_usable(&self) -> bool {
        self.stored.float().is_some() && (!self.transposed || self.dims().len() <= 2)
    }

    /// The dimensions of the view. Of a transposed one, those of 1 are left out.
    fn dims(&self) -> Vec<usize> {
        match self.transposed {
            true => self.stored.dims.iter().rev().copied().filter(|&dim| dim != 1).collect(),
            false => self.stored.dims.clone(),
        }
    }

    fn view(&self, name: &str) -> Option<Weight> {
        if !self.is_usable() {
            return None;
        }
        let weight = Weight::new(name, self.stored.dims.clone(), vec![self.stored.part()?]);
        match self.dims()[..] {
            [columns, rows] if self.transposed => {
                let values = weight.to_f32();
                let flipped = (0..rows * columns).map(|i| values[i % rows * columns + i / rows]).collect();
                Some(Weight::from_f32(name, &[columns, rows], flipped))
            }
            [_, _, ..] if self.narrow => Some(weight.to_int8()),
            _ => Some(weight),
        }
    }
}

fn in_brackets(source: &str) -> String {
    if source.is_empty() { String::new() } else { format!(" ({source})") }
}

/// Whether dimensions are equal, ignoring dimensions of 1.
fn same_dims(a: &[usize], b: &[usize]) -> bool {
    a.iter().filter(|&&d| d != 1).eq(b.iter().filter(|&&d| d != 1))
}
