//! What compilers have made of the kernels, as far as it is part of the program: PTX of all, which any driver compiles for its GPU, and
//! cubins for GPUs that are common, which drivers take as they are. `tools/ptx` makes both; the build script checks them.

use std::collections::HashMap;
use std::sync::OnceLock;

#[path = "../../../build/archive.rs"]
mod archive;

/// Compute capability, major and minor.
pub type Capability = (u32, u32);

/// Files that are part of the program, unpacked when one of them is first asked for.
struct Archive {
    packed: &'static [u8],
    files: OnceLock<HashMap<String, Vec<u8>>>,
}

impl Archive {
    const fn new(packed: &'static [u8]) -> Self {
        Self { packed, files: OnceLock::new() }
    }

    fn file(&'static self, name: &str) -> Option<&'static [u8]> {
        let unpacked = || archive::unpack(self.packed).expect("the build script has unpacked it");
        self.files.get_or_init(unpacked).get(name).map(Vec::as_slice)
    }
}

macro_rules! archive {
    ($name:literal) => {
        Archive::new(include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".lzma")))
    };
}

static PTX: Archive = archive!("ptx");

/// The cubins by the compute capability that they are for, ascending.
static CUBINS: [(Capability, Archive); 5] = [
    ((8, 0), archive!("sm_80")),
    ((8, 6), archive!("sm_86")),
    ((9, 0), archive!("sm_90")),
    ((10, 0), archive!("sm_100")),
    ((12, 0), archive!("sm_120")),
];

/// The PTX of kernel `name`, for GPUs of this compute capability. From 9.0 on, its launches may begin before the one before
/// them is over, which older GPUs have no instructions for.
pub fn ptx(name: &str, capability: Capability) -> Option<&'static str> {
    let newer = if capability >= (9, 0) { PTX.file(&format!("{name}.sm90.ptx")) } else { None };
    let text = newer.or_else(|| PTX.file(&format!("{name}.ptx")))?;
    Some(std::str::from_utf8(text).expect("tools/ptx writes text"))
}

/// The cubin of kernel `name` that runs on GPUs of this compute capability: of those that are made, the latest minor version
/// of the same major one that is not later.
pub fn cubin(name: &str, capability: Capability) -> Option<&'static [u8]> {
    let runs = |(of, _): &&(Capability, Archive)| of.0 == capability.0 && of.1 <= capability.1;
    CUBINS.iter().rfind(runs)?.1.file(&format!("{name}.cubin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The machine that a cubin says it is for: `EF_CUDA_SM` of its header, which newer assemblers write elsewhere.
    fn machine(cubin: &[u8]) -> u32 {
        assert_eq!(&cubin[..4], b"\x7fELF");
        let flags = u32::from_le_bytes(cubin[48..52].try_into().unwrap());
        if cubin[8] < 8 { flags & 0xff } else { flags >> 8 & 0xff }
    }

    #[test]
    fn a_gpu_gets_the_cubin_that_runs_on_it() {
        for (gpu, want) in [
            ((7, 5), None),
            ((8, 0), Some(80)),
            ((8, 6), Some(86)),
            ((8, 7), Some(86)),
            ((8, 9), Some(86)),
            ((9, 0), Some(90)),
            ((10, 0), Some(100)),
            ((10, 3), Some(100)),
            ((11, 0), None),
            ((12, 1), Some(120)),
            ((13, 0), None),
        ] {
            assert_eq!(cubin("add", gpu).map(machine), want, "{gpu:?}");
        }
        let hopper = "linear.192x192.sm90a";
        assert_eq!(cubin(hopper, (9, 0)).map(machine), Some(90));
        for without in [(8, 9), (10, 0), (12, 0)] {
            assert!(cubin(hopper, without).is_none(), "it is for 9.0 alone");
        }
    }

    #[test]
    fn launches_overlap_from_hopper_on() {
        for (gpu, waits) in [((8, 0), false), ((8, 9), false), ((9, 0), true), ((13, 0), true)] {
            assert_eq!(ptx("add", gpu).unwrap().contains("griddepcontrol.wait"), waits, "{gpu:?}");
        }
        assert!(ptx("no_kernel", (8, 0)).is_none());
    }
}
