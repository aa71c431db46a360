//! The kernels that plans need, loaded into the driver by threads of their own, while the host reads and uploads weights.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use super::code;
use super::driver::{Driver, Image, Loader, Needs};
use super::fault::{Fault, Outcome, needed};
use crate::registry::cuda::Cuda;
use crate::registry::{Kernel, Launch};

/// Most threads that load kernels at the same time. Cubins take a driver milliseconds, PTX seconds.
const MOST_THREADS: usize = 16;

/// The kernels of one file.
pub(super) struct Module<D: Driver> {
    name: &'static str,
    cuda: Cuda,
    loader: D::Loader,
    loaded: OnceLock<Outcome<Arc<[D::Function]>>>,
}

impl<D: Driver> Module<D> {
    /// How they are launched.
    pub(super) fn cuda(&self) -> Cuda {
        self.cuda
    }

    /// They themselves, one for each pass. Whoever asks first loads them, the others wait.
    pub(super) fn functions(&self) -> Outcome<Arc<[D::Function]>> {
        self.loaded.get_or_init(|| self.load()).clone()
    }

    /// Loads the cubin for the device's GPU. Where there is none, or the driver refuses it, because it is older than what
    /// assembled the cubin, say, the driver compiles PTX.
    fn load(&self) -> Outcome<Arc<[D::Function]>> {
        let capability = self.loader.capability();
        let entries: Vec<_> = self.cuda.passes.iter().map(|pass| pass.entry).collect();
        let needs = Needs::of(&self.cuda);
        if let Some(cubin) = code::cubin(self.name, capability) {
            match self.loader.load(Image::Cubin(cubin), &entries, needs) {
                Err(Fault::Refused(_)) => {}
                done => return done,
            }
        }
        let Some(ptx) = code::ptx(self.name, capability) else {
            return Err(Fault::Refused(format!("{} was built without PTX; run `python3 tools/ptx`", self.name)));
        };
        self.loader.load(Image::Ptx(ptx), &entries, needs).map_err(|fault| match fault {
            Fault::Refused(said) => Fault::Refused(format!("{}: {said}; it needs {}", self.name, needed(ptx))),
            other => other,
        })
    }

    fn has_failed(&self) -> bool {
        self.loaded.get().is_some_and(|done| done.is_err())
    }
}

/// The modules of a device, and the threads that load them.
pub(super) struct Modules<D: Driver> {
    pub(super) loader: D::Loader,
    /// By the name of the kernel's row.
    known: Mutex<HashMap<&'static str, Arc<Module<D>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Whether threads shall begin with no other module.
    stop: Arc<AtomicBool>,
}

impl<D: Driver + 'static> Modules<D> {
    pub(super) fn new(loader: D::Loader) -> Self {
        Self { loader, known: Mutex::default(), threads: Mutex::default(), stop: Arc::default() }
    }

    /// The module of each of these kernels. Those that are not there begin to be loaded, in this order; none other is.
    pub(super) fn of(&self, kernels: &[&'static Kernel]) -> Vec<Arc<Module<D>>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing = Vec::new();
        let modules = kernels.iter().map(|kernel| {
            let there = known.get(kernel.name).filter(|module| !module.has_failed());
            there.cloned().unwrap_or_else(|| {
                let Launch::Cuda(cuda) = kernel.launch else { unreachable!("rows of CUDA are CUDA") };
                let (loader, loaded) = (self.loader.clone(), OnceLock::new());
                let module = Arc::new(Module { name: kernel.name, cuda, loader, loaded });
                known.insert(kernel.name, module.clone());
                missing.push(module.clone());
                module
            })
        });
        let modules = modules.collect();
        self.start(missing);
        modules
    }

    /// Starts threads that load modules. If there are none to be had, whoever needs a module loads it.
    fn start(&self, modules: Vec<Arc<Module<D>>>) {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let (modules, next) = (Arc::new(modules), Arc::new(AtomicUsize::new(0)));
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        for _ in 0..modules.len().min(cores).min(MOST_THREADS) {
            let (modules, next, stop) = (modules.clone(), next.clone(), self.stop.clone());
            let load = move || {
                while let Some(module) = modules.get(next.fetch_add(1, Ordering::Relaxed))
                    && !stop.load(Ordering::Relaxed)
                {
                    // An error is that of the program which needs the module.
                    let _ = module.functions();
                }
            };
            threads.extend(thread::Builder::new().name("kernels".into()).spawn(load));
        }
    }
}

impl<D: Driver> Drop for Modules<D> {
    /// Waits for calls of the driver that are under way, so that none is when the process ends.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It has said what it could: a panic's message, and nothing else is lost.
            let _ = thread.join();
        }
    }
}
