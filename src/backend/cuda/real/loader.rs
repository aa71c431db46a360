//! Loading compiled kernels into the driver, on any thread.

use std::sync::Arc;

use cudarc::driver::sys::CUfunction_attribute;
use cudarc::driver::{CudaContext, CudaFunction, DriverError};
use cudarc::nvrtc::Ptx;

use super::fault_of;
use crate::backend::cuda::code::Capability;
use crate::backend::cuda::driver::{Image, Loader, Needs};
use crate::backend::cuda::fault::Outcome;

/// Loads modules into the context of a device.
#[derive(Clone)]
pub(in crate::backend::cuda) struct Modules {
    pub(super) context: Arc<CudaContext>,
    pub(super) capability: Capability,
}

impl Loader for Modules {
    type Function = CudaFunction;

    fn capability(&self) -> Capability {
        self.capability
    }

    fn load(&self, image: Image<'_>, entries: &[&str], needs: Needs) -> Outcome<Arc<[CudaFunction]>> {
        let image = match image {
            Image::Cubin(cubin) => Ptx::from_binary(cubin.to_vec()),
            Image::Ptx(ptx) => Ptx::from_src(ptx),
        };
        let module = self.context.load_module(image).map_err(|e| fault_of(e, 0))?;
        let load = |name: &&str| {
            let function = module.load_function(name)?;
            let attributes = [
                (
                    CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    Some(needs.shared).filter(|&bytes| bytes > 0),
                ),
                (CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, needs.carveout),
            ];
            for (attribute, value) in attributes {
                if let Some(value) = value {
                    function.set_attribute(attribute, value as i32)?;
                }
            }
            Ok(function)
        };
        entries.iter().map(load).collect::<std::result::Result<_, DriverError>>().map_err(|e| fault_of(e, 0))
    }
}
