//! `cascade-rt kernels --check`: whether kernels compute what their ops' definitions say, on this device.

use std::collections::HashMap;

use serde_json::json;

use super::Args;
use crate::backend::Backend;
use crate::check::kernels::{Checked, Which, row};
use crate::cli::say;
use crate::error::{Error, Result};
use crate::registry::{self, Kernel};

pub(super) fn run(args: &Args) -> Result<()> {
    let backend = args.subject.setup.open_device()?;
    let device = backend.device();
    let rows: Vec<_> = registry::kernels(device.lang)
        .filter(|kernel| device.caps.contains(kernel.needs) && args.wants(kernel.op))
        .collect();
    if rows.is_empty() {
        return Err(args.no_op("that there is"));
    }
    let (mut entries, mut wrong, mut ran) = (Vec::new(), 0, 0);
    for kernel in &rows {
        let (checked, broken) = outcome(kernel, backend.as_ref(), Which::All)?;
        let faults: Vec<String> = checked.differences.iter().map(ToString::to_string).chain(broken.clone()).collect();
        wrong += usize::from(!faults.is_empty());
        ran += checked.ran;
        if args.json {
            entries.push(json!({ "op": kernel.op, "kernel": kernel.name, "cases": checked.ran, "wrong": faults }));
            continue;
        }
        let verdict = if faults.is_empty() { String::new() } else { format!(", {} WRONG", faults.len()) };
        say(&format!("{:20} {:28} {} cases{verdict}", kernel.op, kernel.name, checked.ran))?;
        faults.iter().try_for_each(|fault| say(&format!("  {}: {}", kernel.name, fault.trim_end())))?;
    }
    if args.json {
        say(&json!({ "device": device.name, "kernels": entries }).to_string())?;
    }
    match wrong {
        0 if args.json => Ok(()),
        0 => say(&format!("{}: {} kernels agree with their definitions on {ran} cases", device.name, rows.len())),
        _ => Err(Error::Check(format!(
            "{wrong} of {} kernels do not compute what their ops' definitions say on {}",
            rows.len(),
            device.name
        ))),
    }
}

/// What came of a kernel's cases, and why it does not compile, where that is the shader's fault.
fn outcome(kernel: &'static Kernel, backend: &dyn Backend, which: Which) -> Result<(Checked, Option<String>)> {
    match row(kernel, backend, which) {
        Ok(checked) => Ok((checked, None)),
        Err(error @ Error::Shader { .. }) => Ok((Checked::default(), Some(error.to_string()))),
        Err(error) => Err(error),
    }
}

/// What is wrong with kernels of a device, each tried once on the quick cases.
#[derive(Default)]
pub(super) struct Verdicts(HashMap<&'static str, Option<String>>);

impl Verdicts {
    /// What is wrong with this one, if anything is.
    pub(super) fn of(&mut self, kernel: &'static Kernel, backend: &dyn Backend) -> Result<Option<String>> {
        if let Some(known) = self.0.get(kernel.name) {
            return Ok(known.clone());
        }
        let (checked, broken) = outcome(kernel, backend, Which::Quick)?;
        let wrong = checked.differences.first().map(ToString::to_string).or(broken);
        self.0.insert(kernel.name, wrong.clone());
        Ok(wrong)
    }

    /// An error that counts what is wrong, if anything is.
    pub(super) fn conclude(&self, device: &str) -> Result<()> {
        let mut wrong: Vec<_> = self.0.iter().filter(|(_, wrong)| wrong.is_some()).map(|(name, _)| *name).collect();
        wrong.sort_unstable();
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(Error::Check(format!(
                "{} computes wrong results on {device}; `cascade-rt kernels --check` says more",
                wrong.join(", ")
            ))),
        }
    }
}
