//! How much memory this process can still take: what the machine has left, and what its limits leave it.

use std::fs;
use std::path::Path;

/// Bytes that can be taken without swapping and within the limits of this process and of its control groups
/// (those of a container, for instance); everything, where the system does not say.
pub fn available() -> u64 {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let bounds =
        [proc_kib("/proc/meminfo", "MemAvailable"), address_space(), cgroups(Path::new("/sys/fs/cgroup"), &groups)];
    bounds.into_iter().flatten().min().unwrap_or(u64::MAX)
}

/// A field of a file of `/proc`, where there is such a thing.
pub fn proc_field(file: &str, field: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// The same in bytes, of a field in kB.
pub fn proc_kib(file: &str, field: &str) -> Option<u64> {
    Some(proc_field(file, field)?.trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// What the limit of address space (`ulimit -v`) leaves.
fn address_space() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?.split_whitespace().next()?;
    Some(soft.parse::<u64>().ok()?.saturating_sub(proc_kib("/proc/self/status", "VmSize")?))
}

/// What the tightest control group leaves. `groups` is `/proc/self/cgroup`: lines of `number:controllers:path`, of
/// version 2 without controllers. Pages of files count as free, since they can be read again.
fn cgroups(root: &Path, groups: &str) -> Option<u64> {
    let left = |group: &Path, [limit, used, inactive, active]: [&str; 4]| {
        let number = |name| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let pages =
            |name| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok()).unwrap_or(0);
        Some(number(limit)?.saturating_sub(number(used)?.saturating_sub(pages(inactive) + pages(active))))
    };
    let lines = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        Some((parts.next()?, parts.next()?.trim_start_matches('/')))
    });
    let of_line = |(controllers, path): (&str, &str)| {
        let (root, names) = match controllers {
            "" => (root.to_owned(), ["memory.max", "memory.current", "inactive_file ", "active_file "]),
            "memory" => {
                let names =
                    ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ", "total_active_file "];
                (root.join("memory"), names)
            }
            _ => return None,
        };
        Path::new(path).ancestors().filter_map(|group| left(&root.join(group), names)).min()
    };
    lines.filter_map(of_line).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_control_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            fs::create_dir_all(root.path().join(name).parent().unwrap()).unwrap();
            fs::write(root.path().join(name), text).unwrap();
        };
        assert_eq!(cgroups(root.path(), "0::/a/b\n"), None);
        write("a/b/memory.max", "max\n");
        write("a/memory.max", "1000\n");
        write("a/memory.current", "700\n");
        write("a/memory.stat", "anon 400\nactive_file 100\ninactive_file 200\n");
        assert_eq!(cgroups(root.path(), "4:pids:/x\n0::/a/b\n"), Some(600));
        write("memory/memory.limit_in_bytes", "500");
        write("memory/memory.usage_in_bytes", "550");
        assert_eq!(cgroups(root.path(), "0::/a/b\n5:memory:/elsewhere\n"), Some(0));
    }

    #[test]
    fn this_machine_says_something() {
        assert!(!cfg!(target_os = "linux") || (1 << 20..u64::MAX).contains(&available()));
    }
}
