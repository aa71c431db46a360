//! Kernels whose launches may begin early do so as [`early`](super::early) says, and those broken on purpose are found.

use cascade_rt::registry::cuda::Cuda;
use cascade_rt::registry::{Kernel, Lang, Launch, kernels};

use super::early::{Early, Entry, MAP, NEXT, OPERANDS, WAIT};
use super::{HOPPER, OLDEST, code};

/// The PTX of a kernel for GPUs whose launches may overlap.
fn newer(kernel: &Kernel) -> &'static str {
    code::ptx(kernel.name, HOPPER).expect("it has PTX")
}

/// The rows of CUDA, with how they are launched.
fn rows() -> impl Iterator<Item = (&'static Kernel, Cuda)> {
    kernels(Lang::Cuda).map(|kernel| {
        let Launch::Cuda(cuda) = kernel.launch else { panic!("rows of CUDA are CUDA") };
        (kernel, cuda)
    })
}

#[test]
fn what_begins_early_reads_only_what_no_launch_writes() {
    let mut seen = 0;
    for (kernel, cuda) in rows() {
        let early = Early::of(kernel, &cuda);
        for (name, entry) in Entry::all(newer(kernel)) {
            assert_eq!(entry.hurries(&early), None, "{name}");
            seen += 1;
        }
        let of_hopper = kernel.name.ends_with(".sm90a");
        let older = code::ptx(kernel.name, OLDEST).expect("it has PTX");
        assert_eq!(older == newer(kernel), of_hopper, "{}", kernel.name);
        assert_eq!(older.contains("griddepcontrol"), of_hopper, "{}: older machines do not know it", kernel.name);
    }
    assert!(seen > 50, "entries are found");
}

/// What needs no other launch's results is done while that launch ends: barriers, the meeting of a cluster's blocks, maps and
/// weights. Before the wait is every copy of the weights that fill the stages first.
#[test]
fn hopper_kernels_prepare_before_they_wait() {
    let mut seen = 0;
    for (kernel, cuda) in rows().filter(|(kernel, _)| kernel.name.ends_with(".sm90a")) {
        let (name, entry) = Entry::all(newer(kernel)).pop().expect("the last pass is the op");
        let (before, _) = entry.before_wait();
        let counted = |word: &str| before.iter().filter(|i| entry.0[**i].contains(word)).count();
        let clusters = cuda.number("CLUSTER_X").unwrap() * cuda.number("CLUSTER_Y").unwrap_or(1) > 1;
        let Early { operands, maps } = Early::of(kernel, &cuda);
        assert_eq!(counted("barrier.cluster.wait") > 0, clusters, "{name}");
        assert_eq!(counted("mbarrier.init") > 0, !cuda.tiles.is_empty(), "{name}");
        assert_eq!(counted("prefetch.tensormap"), cuda.tiles.len(), "{name}");
        assert_eq!(counted("cp.async.bulk.tensor") > 0, !maps.is_empty(), "{name}");
        assert_eq!(counted("ld.global") > 0, operands.len() > maps.len(), "{name}");
        seen += 1;
    }
    assert_eq!(seen, 12 + 2 + 3 + 2 + 2);
}

/// A GPU waits for all writes of a warp where a barrier of the cluster releases them: only where one publishes stores.
#[test]
fn barriers_of_clusters_release_where_there_is_something_to_publish() {
    let mut releasing = 0;
    for (kernel, _) in rows() {
        for (name, entry) in Entry::all(newer(kernel)) {
            let counted = |word: &str| entry.0.iter().filter(|i| i.contains(word)).count();
            let releases = counted("barrier.cluster.arrive.release");
            assert_eq!(releases > 0, counted("st.shared::cluster") > 0, "{name}");
            assert_eq!(counted("barrier.cluster.arrive"), counted("barrier.cluster.wait.acquire"), "{name}");
            releasing += releases;
        }
    }
    assert_eq!(releasing, 2, "the norms whose blocks exchange statistics");
}

#[test]
fn what_does_not_wait_is_found() {
    let hurries = |instructions: &[&str], early: &Early| Entry(instructions.to_vec()).hurries(early);
    let none = Early::default();
    let good = ["ld.param.u64 %rd1, [a_param_0+16];", WAIT, "bar.sync \t0;", NEXT, "ret;"];
    assert_eq!(hurries(&good, &none), None);
    for early in ["ld.global.f32 %f1, [%rd1];", "st.global.f32 [%rd1], %f1;", "@%p1 griddepcontrol.wait;"] {
        let found = hurries(&[&[early][..], &good].concat(), &none).expect("something comes before the wait");
        assert!(found.contains(early), "{found}");
    }
    // Round the wait: by a branch, or by an end.
    let round = [&["@%p1 bra \t$L__BB0_2;"], &good[..2], &["$L__BB0_2:"], &good[2..]].concat();
    let no_wait = [&good[..1], &good[2..]].concat();
    for bad in [round, no_wait, [&["ret;"], &good[..]].concat(), [&good[..2], &good[1..]].concat()] {
        assert!(hurries(&bad, &none).is_some_and(|found| found.contains("does not wait")), "{bad:?}");
    }
    // One of two ways to the wait stores.
    let branches = ["@%p1 bra \t$L__BB0_2;", "st.global.f32 [%rd1], %f1;", "$L__BB0_2:"];
    assert!(hurries(&[&branches, &good[..]].concat(), &none).is_some_and(|found| found.contains("st.global")));
    let without = |gone: &str| good.iter().copied().filter(|i| *i != gone).collect::<Vec<_>>();
    let later = [&good[..4], &["st.global.f32 [%rd1], %f1;", "ret;"]].concat();
    let elsewhere = [&good[..2], &["@%p1 ret;"], &good[2..]].concat();
    for bad in [without(good[2]), without(good[3]), later, elsewhere] {
        assert!(hurries(&bad, &none).is_some_and(|found| found.contains("not let in")), "{bad:?}");
    }
    let stale = [&good[..2], &["ld.global.nc.f32 %f1, [%rd1];"], &good[2..]].concat();
    assert!(hurries(&stale, &none).is_some_and(|found| found.contains("may find")));
}

#[test]
fn only_learned_operands_are_read_early() {
    let early = Early { operands: [OPERANDS + 8].into(), maps: [MAP].into() };
    let end = [WAIT, "bar.sync \t0;", NEXT, "ret;"];
    let hurries = |before: &[&str]| Entry([before, &end].concat()).hurries(&early);
    let index = "ld.param.u32 %r1, [a_param_0+80];";
    let copy = "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd3, {%r2, %r3, %r4}], [%r5];";
    let weight = [
        index,
        "ld.param.u64 %rd1, [a_param_0+16];",
        "mul.wide.u32 \t%rd2, %r1, 4;",
        "add.s64 \t%rd3, %rd1, %rd2;",
        "ld.global.f32 %f1, [%rd3+8];",
    ];
    let map = ["mov.b64 \t%rd1, a_param_1;", "add.s64 \t%rd2, %rd1, 128;", "cvta.param.u64 \t%rd3, %rd2;", copy];
    assert_eq!((hurries(&weight), hurries(&map)), (None, None));
    let from_behind = ["mov.b64 \t%rd5, a_param_0;", "add.s64 \t%rd6, %rd5, 88;", "ld.param.u64 %rd1, [%rd6+-72];"];
    assert_eq!(hurries(&[&from_behind[..], &weight[2..]].concat()), None);
    // Another operand, a pair of addresses of which one is another, one that may be either, one that comes from memory.
    let instead = |all: &[&'static str], i: usize, by: &[&'static str]| [&all[..i], by, &all[i + 1..]].concat();
    let bad = [
        instead(&weight, 1, &["ld.param.u64 %rd1, [a_param_0+8];"]),
        instead(&weight, 1, &["ld.param.v2.u64 {%rd9, %rd1}, [a_param_0+16];"]),
        instead(
            &weight,
            1,
            &[weight[1], "@%p1 ld.param.u64 %rd1, [a_param_0+24];", "ld.param.u64 %rd1, [a_param_0+24];"],
        ),
        instead(&weight, 1, &["ld.shared.u64 %rd1, [%r1];"]),
        instead(&weight, 1, &["mov.u64 \t%rd1, 0;"]),
        instead(&map, 1, &["add.s64 \t%rd2, %rd1, 0;"]),
        instead(&map, 1, &["add.s64 \t%rd2, %rd1, %rd9;"]),
    ];
    for before in bad {
        let found = hurries(&before).unwrap_or_else(|| panic!("{before:?} reads what a launch may write"));
        assert!(found.contains("comes before the wait"), "{found}");
    }
}

/// The same in the PTX of real kernels, broken on purpose: x for the weight, and the wait behind the first loads of x.
#[test]
fn kernels_that_read_activations_early_are_found() {
    let row = |name: &str| rows().find(|(kernel, _)| kernel.name == name).expect("there is such a row");
    let broken = |name: &str, change: &dyn Fn(&str) -> String| {
        let (kernel, cuda) = row(name);
        let (before, after) = newer(kernel).split_once(WAIT).expect("it waits");
        let ptx = change(before) + after;
        assert_ne!(ptx, newer(kernel), "{name}");
        Entry::all(&ptx)[0].1.hurries(&Early::of(kernel, &cuda))
    };
    let x_for_weight = |before: &str| {
        let (start, copies) = before.rsplit_once("barrier.cluster.wait").unwrap();
        format!("{start}barrier.cluster.wait{}{WAIT}", copies.replace(", 128;", ", 0;"))
    };
    for name in ["linear.192x192.sm90a", "linear.128x80.split4.sm90a", "conv_transpose2d.128x160.sm90a"] {
        let found = broken(name, &x_for_weight).expect("it copies x early");
        assert!(found.contains("cp.async.bulk.tensor") && found.contains("before the wait"), "{name}: {found}");
    }
    // A launch that packs the weight writes what the next one copies.
    let (_, cuda) = row("conv_transpose2d.4x4.sm90a");
    let (kernel, of_others) = row("conv_transpose2d.128x160.sm90a");
    assert!(Early::of(kernel, &cuda).maps.is_empty() && !Early::of(kernel, &of_others).maps.is_empty());
    // Without its wait, and with one at the end instead.
    for name in ["attention.192.sm90a", "depthwise_norm.512.sm90a", "feed_forward.384.sm90a"] {
        let (kernel, cuda) = row(name);
        let late = newer(kernel).replacen(WAIT, "", 1).replacen(NEXT, &format!("{WAIT}\n{NEXT}"), 1);
        let found = Entry::all(&late)[0].1.hurries(&Early::of(kernel, &cuda)).expect("it waits too late");
        assert!(found.contains("before the wait"), "{name}: {found}");
    }
}
