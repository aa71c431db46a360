//! What a driver reports, by what it means for whoever called it.

use cudarc::driver::sys::CUresult;

/// Why a call of a driver failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no memory for so many bytes.
    OutOfMemory(u64),
    /// The device does nothing more for this process, whatever it is asked: what happened, and what to do.
    Lost(String, &'static str),
    /// The driver does not take these kernels.
    Refused(String),
    /// This call failed: what happened, and what to do.
    Other(String, &'static str),
}

/// What a driver's call gives.
pub(super) type Outcome<T> = std::result::Result<T, Fault>;

const KERNEL: &str = "this is a fault of a kernel: `check_nodes` names it, `without sm_90a` (on Hopper), `device wgpu` and `device cpu` do without it";
const HARDWARE: &str = "the hardware reports damage: reset the GPU (nvidia-smi --gpu-reset) or use another device";
const WATCHDOG: &str = "a display's watchdog stopped it: use a GPU without a display, a smaller size, or `device wgpu`";
const AGAIN: &str = "run again; if it happens again restart the machine, or use `device cpu`";
const OTHERS: &str = "other programs take its memory (`nvidia-smi` lists them): end them, or use another device";
const HIDDEN: &str =
    "`nvidia-smi` lists what the driver sees, and CUDA_VISIBLE_DEVICES may hide devices; or use `device cpu`";
const EXCLUSIVE: &str =
    "another program may have it for itself alone (`nvidia-smi -q -d COMPUTE`): end it, or use another device";
const STUB: &str = "this library is a stub that comes with the CUDA toolkit: take its folder out of LD_LIBRARY_PATH, so that the driver's own is found";
const COMPAT: &str = "this library is of a package for forward compatibility, which this GPU does not support: take its folder out of LD_LIBRARY_PATH";
const MISMATCH: &str = "the driver's library and its kernel module are of different versions: restart the machine, or install the driver again";
const FABRIC: &str = "a service of the machine is not running: start nvidia-fabricmanager where GPUs are linked by NVSwitch, or restart the machine";
const LICENCE: &str = "this virtual GPU has no licence: ask who runs the machine, or use `device cpu`";
const MPS: &str = "the Multi-Process Service failed: restart it (`nvidia-cuda-mps-control`), or run without it";
const UPDATE: &str = "update the NVIDIA driver, or use `device cpu`";

/// What to do about a driver's result.
pub(super) fn advice(result: CUresult) -> &'static str {
    use CUresult::*;
    match result {
        CUDA_ERROR_ILLEGAL_ADDRESS
        | CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUDA_ERROR_MISALIGNED_ADDRESS
        | CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUDA_ERROR_INVALID_PC
        | CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUDA_ERROR_ASSERT
        | CUDA_ERROR_LAUNCH_FAILED => KERNEL,
        CUDA_ERROR_ECC_UNCORRECTABLE | CUDA_ERROR_NVLINK_UNCORRECTABLE => HARDWARE,
        CUDA_ERROR_LAUNCH_TIMEOUT => WATCHDOG,
        CUDA_ERROR_CONTEXT_IS_DESTROYED
        | CUDA_ERROR_DEINITIALIZED
        | CUDA_ERROR_EXTERNAL_DEVICE
        | CUDA_ERROR_NOT_INITIALIZED
        | CUDA_ERROR_OPERATING_SYSTEM
        | CUDA_ERROR_UNKNOWN => AGAIN,
        CUDA_ERROR_OUT_OF_MEMORY => OTHERS,
        CUDA_ERROR_NO_DEVICE | CUDA_ERROR_INVALID_DEVICE => HIDDEN,
        CUDA_ERROR_DEVICE_UNAVAILABLE => EXCLUSIVE,
        CUDA_ERROR_STUB_LIBRARY => STUB,
        CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => COMPAT,
        CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => MISMATCH,
        CUDA_ERROR_SYSTEM_NOT_READY => FABRIC,
        CUDA_ERROR_DEVICE_NOT_LICENSED => LICENCE,
        CUDA_ERROR_MPS_CONNECTION_FAILED
        | CUDA_ERROR_MPS_RPC_FAILURE
        | CUDA_ERROR_MPS_SERVER_NOT_READY
        | CUDA_ERROR_MPS_MAX_CLIENTS_REACHED
        | CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED
        | CUDA_ERROR_MPS_CLIENT_TERMINATED => MPS,
        _ => UPDATE,
    }
}

impl Fault {
    /// What a driver's result means; `said` is what the driver calls it, and `bytes` what was asked for.
    pub(super) fn of(result: CUresult, said: String, bytes: u64) -> Self {
        use CUresult::*;
        let lost = match result {
            CUDA_ERROR_OUT_OF_MEMORY => return Fault::OutOfMemory(bytes),
            CUDA_ERROR_INVALID_IMAGE
            | CUDA_ERROR_INVALID_SOURCE
            | CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | CUDA_ERROR_INVALID_PTX
            | CUDA_ERROR_NO_BINARY_FOR_GPU
            | CUDA_ERROR_JIT_COMPILER_NOT_FOUND
            | CUDA_ERROR_JIT_COMPILATION_DISABLED => return Fault::Refused(said),
            CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_DEINITIALIZED
            | CUDA_ERROR_DEVICE_UNAVAILABLE
            | CUDA_ERROR_EXTERNAL_DEVICE
            | CUDA_ERROR_MPS_CLIENT_TERMINATED
            | CUDA_ERROR_NO_DEVICE
            | CUDA_ERROR_UNKNOWN => true,
            _ => [KERNEL, HARDWARE, WATCHDOG].contains(&advice(result)),
        };
        if lost { Fault::Lost(said, advice(result)) } else { Fault::Other(said, advice(result)) }
    }
}

/// Major and minor.
type Version = (u32, u32);

/// The CUDA version of which the calls are: the driver must be that of this version or a later one.
pub(super) const CALLS: Version = (12, 0);

/// The first version that records launches which may begin before the one before them is over: edges of a graph say so.
pub(super) const DEPENDENT_LAUNCHES: Version = (12, 3);

/// Versions of CUDA, with that of their PTX and the first driver that has them.
const VERSIONS: &[(Version, Version, u32)] = &[
    ((12, 0), (8, 0), 525),
    ((12, 1), (8, 1), 530),
    ((12, 2), (8, 2), 535),
    ((12, 3), (8, 3), 545),
    ((12, 4), (8, 4), 550),
    ((12, 5), (8, 5), 555),
    ((12, 7), (8, 6), 565),
    ((12, 8), (8, 7), 570),
    ((12, 9), (8, 8), 575),
    ((13, 0), (9, 0), 580),
];

/// The driver that takes this PTX and has all calls, in words.
pub(super) fn needed(ptx: &str) -> String {
    let version = |text: &str| {
        let (major, minor) = text.trim().split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let of_ptx = ptx.lines().find_map(|line| line.strip_prefix(".version ")).and_then(version).unwrap_or((0, 0));
    let serves = |(cuda, ptx, _): &&(Version, Version, u32)| *cuda >= CALLS && *ptx >= of_ptx;
    match VERSIONS.iter().find(serves) {
        Some(((major, minor), _, driver)) => format!("driver {driver} (CUDA {major}.{minor}) or above"),
        None => format!("a driver for PTX {}.{}", of_ptx.0, of_ptx.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_told_apart() {
        let of = |result| Fault::of(result, "said".into(), 7);
        assert_eq!(of(CUresult::CUDA_ERROR_OUT_OF_MEMORY), Fault::OutOfMemory(7));
        for (result, remedy) in [
            (CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, KERNEL),
            (CUresult::CUDA_ERROR_LAUNCH_FAILED, KERNEL),
            (CUresult::CUDA_ERROR_ECC_UNCORRECTABLE, HARDWARE),
            (CUresult::CUDA_ERROR_LAUNCH_TIMEOUT, WATCHDOG),
            (CUresult::CUDA_ERROR_UNKNOWN, AGAIN),
        ] {
            assert_eq!(of(result), Fault::Lost("said".into(), remedy));
        }
        // A cubin that is newer than the driver, or of another GPU; PTX that is newer.
        for result in [
            CUresult::CUDA_ERROR_INVALID_IMAGE,
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU,
            CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
        ] {
            assert_eq!(of(result), Fault::Refused("said".into()));
        }
        for (result, remedy) in [
            (CUresult::CUDA_ERROR_INVALID_VALUE, UPDATE),
            (CUresult::CUDA_ERROR_STUB_LIBRARY, STUB),
            (CUresult::CUDA_ERROR_SYSTEM_NOT_READY, FABRIC),
        ] {
            assert_eq!(of(result), Fault::Other("said".into(), remedy));
        }
    }

    #[test]
    fn drivers_are_named() {
        assert_eq!(needed("// made\n.version 7.0\n.target sm_80\n"), "driver 525 (CUDA 12.0) or above");
        assert_eq!(needed(".version 8.7"), "driver 570 (CUDA 12.8) or above");
        assert_eq!(needed(".version 99.1"), "a driver for PTX 99.1");
    }
}
