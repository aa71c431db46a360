//! The driver's library: looked through before anything of it is called, and what it says of its own errors.
#![allow(unsafe_code, reason = "the driver is a library of C")]

use std::ffi::{CStr, c_void};

use cudarc::driver::DriverError;
use cudarc::driver::sys::{self, CUresult};

/// All functions that are called here or by cudarc, which panics where one of them is missing.
const FUNCTIONS: &[&str] = &[
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventQuery",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphUpload",
    "cuInit",
    "cuLaunchKernelEx",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuTensorMapEncodeTiled",
];

/// What the driver's library lacks, if it is there at all; empty if nothing.
pub(super) fn missing() -> Option<Vec<&'static str>> {
    // SAFETY: it opens the library and closes it again; that library's start-up code is trusted.
    if !unsafe { sys::is_culib_present() } {
        return None;
    }
    // SAFETY: as above, and it stays open.
    let library = unsafe { sys::culib() };
    // SAFETY: the symbol is looked up and not called.
    let lacks = |name: &&&str| unsafe { library.get::<*const c_void>(name.as_bytes()) }.is_err();
    Some(FUNCTIONS.iter().filter(lacks).copied().collect())
}

/// What the driver says of a result, with its name: `out of memory (CUDA_ERROR_OUT_OF_MEMORY)`.
pub(super) fn words(error: DriverError) -> String {
    let text = |said: Result<&CStr, DriverError>| Some(said.ok()?.to_string_lossy().into_owned());
    match (text(error.error_string()), text(error.error_name())) {
        (Some(words), Some(name)) => format!("{words} ({name})"),
        (words, name) => words.or(name).unwrap_or_else(|| format!("error {} of the driver", number(error.0))),
    }
}

fn number(result: CUresult) -> u32 {
    result as u32
}
