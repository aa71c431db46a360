//! `cascade-rt pull`, `ls` and `rm`: models of a hub, in the cache that other programs share.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Write, stderr, stdin};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::inspect::size;
use super::{FILES, interrupt, note, printable, say};
use crate::error::{Error, Result};
use crate::hub::{Choice, Client, Plan, Settings, plan};
use crate::weights::Variant;
use crate::weights::cache::{Cache, Repository};

/// The license of the repositories that have a short name.
const LICENSE: &str = "Stability AI Non-Commercial Research Community License";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  HF_ENDPOINT=https://hub.example cascade-rt pull stable-cascade
  cascade-rt generate \"a fox\" -m stable-cascade

The hub is set by the variables that its other programs have: HF_ENDPOINT (its address), HF_TOKEN or HF_TOKEN_PATH, HF_HOME
or HF_HUB_CACHE (where the cache is), HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT and HF_HUB_DISABLE_PROGRESS_BARS.")]
pub(super) struct PullArgs {
    /// ORG/NAME, or stable-cascade, of which the prior is fetched as well; NAME:lite is the one with the small Stage B
    /// and Stage C.
    #[arg(value_name = "NAME")]
    name: String,
    /// Branch, tag or commit.
    #[arg(long, value_name = "NAME", default_value = "main")]
    revision: String,
    /// Which weights to fetch where there are several: `none`, or the name in a file's name. Without it bf16, else those
    /// without a name.
    #[arg(long, value_name = "NAME")]
    variant: Option<Variant>,
    /// Show what would be fetched, and fetch nothing.
    #[arg(long)]
    dry_run: bool,
    /// Accept the license of the weights without being asked.
    #[arg(long)]
    accept_license: bool,
    /// Print nothing but errors and where the files are.
    #[arg(short, long, help_heading = FILES)]
    quiet: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {}

#[derive(Debug, clap::Args)]
pub(super) struct RemoveArgs {
    /// ORG/NAME, or stable-cascade, of which the prior is removed as well.
    #[arg(value_name = "NAME")]
    name: Repository,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

pub(super) fn pull(args: &PullArgs) -> Result<()> {
    let (name, lite) = match args.name.split_once(':') {
        Some((name, "lite")) => (name, true),
        _ => (&args.name[..], false),
    };
    let repository: Repository = name.parse()?;
    let cache = cache()?;
    let client = Client::new(Settings::of_environment()?);
    let choice = Choice { variant: args.variant.clone().unwrap_or_default(), lite };
    let repositories: Vec<Repository> = [repository.known_prior(), Some(repository)].into_iter().flatten().collect();
    let ask = |one: &Repository| plan(&client, one, &args.revision, &choice, &interrupt::asked);
    let plans = repositories.iter().map(ask).collect::<Result<Vec<Plan>>>()?;
    if args.dry_run {
        for plan in &plans {
            for file in &plan.files {
                say(&printable(&format!("{:>10}  {}/{}", size(file.bytes as usize), plan.repository, file.name)))?;
            }
        }
    }
    let missing: u64 = plans.iter().map(|plan| plan.missing(&cache)).sum();
    let free = free_bytes(&cache);
    let has = free.map_or(String::new(), |free| format!("; the disk has {} free", size(free as usize)));
    if !args.quiet {
        note(&format!("{} to be fetched into {}{has}", size(missing as usize), cache.folder.display()));
    }
    if args.dry_run || missing == 0 && plans.iter().all(|plan| cache.snapshot(&plan.repository).is_some()) {
        return if args.dry_run { Ok(()) } else { fetch(args, &client, &cache, &plans, missing) };
    }
    if let Some(free) = free.filter(|free| *free < missing) {
        let found = format!("{} free, {} to be fetched", size(free as usize), size(missing as usize));
        let expected = "a disk with room for the files; HF_HUB_CACHE names a folder on another one".into();
        return Err(Error::Request { what: cache.folder.display().to_string(), expected, found });
    }
    accept(args, &cache, &plans)?;
    fetch(args, &client, &cache, &plans, missing)
}

/// Fetches the files, with a bar on a terminal, and prints where they are.
fn fetch(args: &PullArgs, client: &Client, cache: &Cache, plans: &[Plan], missing: u64) -> Result<()> {
    let set = |name: &str| {
        std::env::var(name)
            .is_ok_and(|value| !["", "0", "off", "no", "false"].contains(&&value.to_ascii_lowercase()[..]))
    };
    let shows = !args.quiet && stderr().is_terminal() && !set("HF_HUB_DISABLE_PROGRESS_BARS");
    let bar = if shows { ProgressBar::new(missing) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left  {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    let all: u64 = plans.iter().flat_map(|plan| &plan.files).map(|file| file.bytes).sum();
    // Bytes of each blob that are there, of which the bar shows those that were not there before.
    let mut there = BTreeMap::new();
    for plan in plans {
        let mut told = |file: &crate::hub::File, bytes: u64| {
            there.insert((plan.repository.folder(), file.hash.clone()), bytes);
            let have: u64 = there.values().sum();
            bar.set_message(printable(&file.name).into_owned());
            bar.set_position((have + missing).saturating_sub(all));
        };
        let folder = plan.fetch(client, cache, &mut told, &interrupt::asked)?;
        bar.suspend(|| say(&folder.display().to_string()))?;
    }
    bar.finish_and_clear();
    Ok(())
}

/// Asks whether the license is accepted, unless the model is there already.
fn accept(args: &PullArgs, cache: &Cache, plans: &[Plan]) -> Result<()> {
    let is_new = |plan: &&Plan| cache.snapshot(&plan.repository).is_none();
    let Some(plan) = plans.iter().find(is_new) else { return Ok(()) };
    let is_known = plans.iter().any(|plan| plan.repository.known_prior().is_some());
    let license = if is_known { Some(LICENSE.to_owned()) } else { plan.license.clone() };
    let Some(license) = license else { return Ok(()) };
    if !args.quiet {
        note(&format!("license of {}: {license}", plan.repository));
    }
    if args.accept_license || !is_known || agrees("Is it accepted?")? {
        return Ok(());
    }
    Err(Error::Request {
        what: format!("license of {}", plan.repository),
        expected: "that it is accepted, with --accept-license".into(),
        found: license,
    })
}

pub(super) fn list(_: &ListArgs) -> Result<()> {
    let entries = cache()?.entries()?;
    let width = entries.iter().map(|entry| entry.repository.to_string().len()).max().unwrap_or(0);
    entries.iter().try_for_each(|entry| {
        let commits = entry.commits.join(" ");
        let name = entry.repository.to_string();
        say(&printable(&format!("{name:width$}  {:>10}  {commits}", size(entry.bytes as usize))))
    })
}

pub(super) fn remove(args: &RemoveArgs) -> Result<()> {
    let cache = cache()?;
    let names: Vec<Repository> = [Some(args.name.clone()), args.name.known_prior()].into_iter().flatten().collect();
    let found: Vec<_> = cache.entries()?.into_iter().filter(|entry| names.contains(&entry.repository)).collect();
    if found.is_empty() {
        return cache.remove(&args.name);
    }
    let bytes: u64 = found.iter().map(|entry| entry.bytes).sum();
    let all = found.iter().map(|entry| entry.repository.to_string()).collect::<Vec<_>>().join(" and ");
    if !args.yes && !agrees(&format!("Remove {all} from {}, {}?", cache.folder.display(), size(bytes as usize)))? {
        let expected = "that it is confirmed, with --yes".into();
        return Err(Error::Request { what: format!("rm {}", args.name), expected, found: "no answer of yes".into() });
    }
    for entry in &found {
        cache.remove(&entry.repository)?;
        say(&format!("{}: {} freed", entry.repository, size(entry.bytes as usize)))?;
    }
    Ok(())
}

/// Asks a question, of somebody at a terminal; nobody agrees elsewhere.
fn agrees(question: &str) -> Result<bool> {
    if !stdin().is_terminal() || !stderr().is_terminal() {
        return Ok(false);
    }
    let disk = |source| Error::Disk { path: "terminal".into(), action: "read", source };
    let mut answer = String::new();
    write!(stderr(), "{} [y/N] ", printable(question)).map_err(disk)?;
    stdin().lock().read_line(&mut answer).map_err(disk)?;
    Ok(["y", "yes"].contains(&&answer.trim().to_ascii_lowercase()[..]))
}

fn cache() -> Result<Cache> {
    Cache::of_user().ok_or_else(|| Error::Request {
        what: "HF_HUB_CACHE".into(),
        expected: "the folder of the cache, for a user without a home".into(),
        found: "nothing".into(),
    })
}

/// Bytes that the disk of a cache has left, where the system says so.
fn free_bytes(cache: &Cache) -> Option<u64> {
    #[cfg(unix)]
    {
        let there = cache.folder.ancestors().find(|folder| folder.is_dir())?;
        let disk = nix::sys::statvfs::statvfs(there).ok()?;
        Some(disk.blocks_available() as u64 * disk.fragment_size() as u64)
    }
    #[cfg(not(unix))]
    None
}
