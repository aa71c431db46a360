//! `cascade-rt devices` and the list of `cascade-rt kernels`.

use super::{probe, say};
use crate::backend::cuda;
use crate::backend::devices::{self, Choice};
use crate::backend::{Device, Kind};
use crate::error::Result;
use crate::ops;
use crate::registry::{self, Caps, Kernel, Lang};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Lists devices and which would be chosen.
pub(super) fn devices(args: &Args) -> Result<()> {
    let (all, wrong) = probe::all();
    let preferred = devices::preferred(&all);
    if args.json {
        let entry = |(choice, device): &(Choice, Device)| {
            serde_json::json!({
                "name": choice.to_string(), "description": device.name, "capabilities": device.caps.to_string(),
                "free_mib": device.free_bytes >> 20, "chosen": *choice == preferred, "reason": reason(device, *choice == preferred),
            })
        };
        return say(&serde_json::Value::from_iter(all.iter().map(entry)).to_string());
    }
    for (choice, device) in &all {
        say(&format!("{:8} {}", choice.to_string(), device.name))?;
        say(&format!("         capabilities {}, {} MiB free", device.caps, device.free_bytes >> 20))?;
        say(&format!("         {}", reason(device, *choice == preferred)))?;
    }
    let has = |wanted: fn(&Choice) -> bool| all.iter().any(|(choice, _)| wanted(choice));
    if !has(|choice| matches!(choice, Choice::Wgpu(_))) {
        let why = wrong.as_deref().unwrap_or("no adapter answers through Vulkan, Metal or DX12");
        say(&format!("wgpu     {why}"))?;
    }
    match cuda::devices() {
        Err(why) => say(&format!("cuda     {why}")),
        Ok(devices) => devices.iter().filter_map(|device| device.as_ref().err()).try_for_each(|why| say(why)),
    }
}

/// Why `--device auto` takes a device or passes it over.
fn reason(device: &Device, chosen: bool) -> &'static str {
    match (device.kind, chosen) {
        (Kind::Gpu | Kind::Integrated, true) if device.lang == Lang::Cuda => {
            "chosen by --device auto: CUDA comes before wgpu"
        }
        (Kind::Gpu, true) => "chosen by --device auto: a GPU with memory of its own, and none serves through CUDA",
        (Kind::Integrated, true) => "chosen by --device auto: there is no other GPU",
        (Kind::Gpu | Kind::Integrated, false) => {
            "not chosen by --device auto: another comes first, or the same one through CUDA"
        }
        (Kind::Cpu, true) => "chosen by --device auto: there is no GPU",
        (Kind::Cpu, false) => "not chosen by --device auto: there is a GPU",
        (Kind::Software, _) => "never chosen by --device auto: software on the same cores is slower than cpu",
    }
}

/// Lists, for each op and device, the registry's kernels, and which one is used there.
pub(super) fn kernels(json: bool) -> Result<()> {
    let mut entries = Vec::new();
    let (devices, _) = probe::all();
    for op in ops::NAMES {
        for (choice, device) in &devices {
            let name = choice.to_string();
            let rows = explain(op, device.lang, device.caps);
            entries.extend(
                rows.into_iter()
                    .map(|(kernel, reason)| (*op, name.clone(), kernel.name, kernel.needs.to_string(), reason)),
            );
        }
    }
    if json {
        let json = |(op, device, kernel, needs, reason): &(&str, String, &str, String, String)| serde_json::json!({ "op": op, "device": device, "kernel": kernel, "needs": needs, "reason": reason });
        return say(&serde_json::Value::from_iter(entries.iter().map(json)).to_string());
    }
    say(&format!("{:20} {:8} {:28} {:36} reason", "op", "device", "kernel", "needs"))?;
    for (op, device, kernel, needs, reason) in &entries {
        say(&format!("{op:20} {device:8} {kernel:28} {needs:36} {reason}"))?;
    }
    Ok(())
}

/// The kernels of `op`, each with the reason why a device with these capabilities uses it or not.
fn explain(op: &str, lang: Lang, exact: Caps) -> Vec<(&'static Kernel, String)> {
    let rounding = exact.and(lang.rounding());
    let all: Vec<&Kernel> = registry::kernels(lang).filter(|k| k.op == op).collect();
    let first = |caps: Caps| all.iter().position(|k| caps.contains(k.needs));
    let (exact_row, rounding_row) = (first(exact), first(rounding));
    let int8_row = first(exact.and(Caps::ROUND_INT8)).filter(|&i| all[i].needs.contains(Caps::ROUND_INT8));
    let explain = |(i, kernel): (usize, &&'static Kernel)| {
        let lacking = kernel.needs.without(rounding);
        let reason = if Some(i) == exact_row && exact_row == rounding_row {
            "chosen".to_owned()
        } else if Some(i) == exact_row {
            "chosen by --dtype f32".to_owned()
        } else if Some(i) == rounding_row {
            format!("chosen by --dtype {}", if lang.rounding() == Caps::ROUND_F16 { "f16" } else { "bf16" })
        } else if Some(i) == int8_row {
            "chosen for int8 weights, but by --dtype f32, bf16 and f16".to_owned()
        } else if lacking == Caps::ROUND_INT8 {
            "an earlier row serves int8 weights".to_owned()
        } else if lacking != Caps::NONE {
            format!("this device lacks {lacking}")
        } else {
            "an earlier row serves".to_owned()
        };
        let fit = match kernel.fit {
            [] => String::new(),
            fit => format!(", where {fit:?}"),
        };
        (*kernel, format!("{reason}{fit}"))
    };
    all.iter().enumerate().map(explain).collect()
}
