//! The kernels of the emulated GPU, as its driver loads them.

use std::ffi::CString;
use std::sync::Arc;

use crate::backend::cuda::code::Capability;
use crate::backend::cuda::driver::{Image, Loader, Needs};
use crate::backend::cuda::fault::{Fault, Outcome};

/// A kernel of a module.
#[derive(Debug, Clone)]
pub(in crate::backend::cuda) struct Function {
    pub(super) name: CString,
    /// Whether it waits for the launch before.
    pub(super) waits: bool,
    pub(super) needs: Needs,
}

/// What finds kernels by name; they are part of this program, whatever image of them is loaded.
#[derive(Debug, Clone)]
pub(in crate::backend::cuda) struct Kernels {
    pub(in crate::backend::cuda) capability: Capability,
}

impl Loader for Kernels {
    type Function = Function;

    fn capability(&self) -> Capability {
        self.capability
    }

    fn load(&self, image: Image<'_>, entries: &[&str], needs: Needs) -> Outcome<Arc<[Function]>> {
        let function = |entry: &&str| {
            let waits = match image {
                Image::Ptx(ptx) => {
                    let body = ptx.split(&format!(".entry {entry}(")).nth(1);
                    let body = body.and_then(|rest| rest.split(".entry ").next());
                    body.map(|body| body.contains("griddepcontrol.wait;"))
                }
                // Made of PTX for this GPU, which tests/ptx.rs looks at.
                Image::Cubin(cubin) => {
                    let section = format!(".text.{entry}\0");
                    let has_it = cubin.windows(section.len()).any(|name| name == section.as_bytes());
                    has_it.then_some(self.capability >= (9, 0))
                }
            };
            let name = CString::new(*entry).expect("names have no zero bytes");
            let missing = || Fault::Other(format!("named symbol not found: {entry}"), "");
            Ok(Function { name, waits: waits.ok_or_else(missing)?, needs })
        };
        entries.iter().map(function).collect()
    }
}
