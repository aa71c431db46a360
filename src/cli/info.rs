//! `cascade-rt devices` and `cascade-rt kernels`.

use super::say;
use crate::backend::{Backend, cpu::Cpu};
use crate::error::Result;
use crate::ops;
use crate::registry::{Caps, Kernel, Lang, kernels as rows};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Lists devices and which would be chosen.
pub(super) fn devices(args: &Args) -> Result<()> {
    let cpu = Cpu::new(false);
    let device = cpu.device();
    if args.json {
        let entry = serde_json::json!({
            "name": "cpu", "description": device.name, "capabilities": device.caps.to_string(),
            "free_mib": device.free_bytes >> 20, "chosen": true,
        });
        return say(&serde_json::json!([entry]).to_string());
    }
    say(&format!("cpu    {}", device.name))?;
    say(&format!("       capabilities {}, {} MiB free", device.caps, device.free_bytes >> 20))?;
    say("       chosen by --device auto: the one device that this program runs on")?;
    let bf16 = device.caps.contains(Caps::AVX512_BF16);
    say(if bf16 {
        "       --dtype bf16 is faster here"
    } else {
        "       --dtype bf16 changes nothing here: no AVX512-BF16"
    })
}

/// Lists, for each op, the rows and the one that this machine uses.
pub(super) fn kernels(args: &Args) -> Result<()> {
    let [exact, rounding] = [Cpu::new(false), Cpu::new(true)].map(|cpu| cpu.device().caps);
    let mut entries = Vec::new();
    for op in ops::NAMES {
        let all: Vec<&Kernel> = rows(Lang::Cpu).filter(|k| k.op == *op).collect();
        let first = |caps: Caps| all.iter().position(|k| caps.contains(k.needs));
        let (exact_row, rounding_row) = (first(exact), first(rounding));
        for (i, kernel) in all.iter().enumerate() {
            let lacking = kernel.needs.without(rounding);
            let reason = if Some(i) == exact_row && exact_row == rounding_row {
                "chosen".to_owned()
            } else if Some(i) == exact_row {
                "chosen by --dtype f32".to_owned()
            } else if Some(i) == rounding_row {
                "chosen by --dtype bf16".to_owned()
            } else if lacking != Caps::NONE {
                format!("this machine lacks {lacking}")
            } else {
                "an earlier row serves".to_owned()
            };
            let fit = match kernel.fit {
                [] => String::new(),
                fit => format!(", where {fit:?}"),
            };
            entries.push((*op, kernel.name, kernel.needs.to_string(), format!("{reason}{fit}")));
        }
    }
    if args.json {
        let json = |(op, kernel, needs, reason): &(&str, &str, String, String)| serde_json::json!({ "op": op, "device": "cpu", "kernel": kernel, "needs": needs, "reason": reason });
        return say(&serde_json::Value::from_iter(entries.iter().map(json)).to_string());
    }
    say(&format!("{:20} {:6} {:26} {:36} reason", "op", "device", "kernel", "needs"))?;
    for (op, kernel, needs, reason) in &entries {
        say(&format!("{op:20} {:6} {kernel:26} {needs:36} {reason}", "cpu"))?;
    }
    Ok(())
}
