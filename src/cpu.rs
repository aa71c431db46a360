//! CPU kernels: one file per op, with `call` and `launch` between them and a plan. All share three ideas.
//!
//! - **One body, several instruction sets.** Element-wise loops are plain Rust,
//!   compiled once per [`Isa`] by `per_isa!` and vectorised by the compiler.
//!   Only the matrix tiles (`tile`) and the transposition that feeds them
//!   (`pack`) are written in intrinsics.
//! - **No allocation.** Every kernel takes its scratch memory, and has a
//!   companion `*_scratch` that says how many f32 it needs.
//! - **Any thread count, the same bits.** Work is cut so that each output
//!   element is computed by one task, in an order that depends on shapes alone.
//!
//! Activations are `[n, h, w, c]` f32 with contiguous channels, weights are
//! [`Weight`](crate::tensor::Weight)s, read where they lie.
#![allow(unsafe_code, reason = "instruction sets are chosen at run time")]

pub mod attention;
pub mod call;
pub mod conv;
pub mod depthwise;
pub mod elementwise;
pub mod feed_forward;
mod gemm;
pub mod grn;
pub mod group_norm;
pub mod launch;
pub mod linear;
mod math;
pub mod norm;
mod pack;
mod scratch;
mod softmax;
#[cfg(test)]
mod testing;
mod tile;

/// An instruction set the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// What the build's target guarantees: SSE2 on x86-64, NEON on aarch64.
    Portable,
    /// AVX2 with FMA, and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with BF16. GEMMs round both operands to bf16 and
    /// accumulate in f32; everything else is as with [`Isa::Avx512`].
    Avx512Bf16,
}

impl Isa {
    /// Every instruction set, slowest first.
    pub const ALL: [Isa; 4] = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16];

    /// Whether this CPU has it.
    #[cfg(target_arch = "x86_64")]
    pub fn available(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        match self {
            Isa::Portable => true,
            Isa::Avx2 => has!("avx2") && has!("fma") && has!("f16c"),
            Isa::Avx512 => {
                let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
                Isa::Avx2.available() && avx512
            }
            Isa::Avx512Bf16 => Isa::Avx512.available() && has!("avx512bf16"),
        }
    }

    /// Whether this CPU has it.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn available(self) -> bool {
        self == Isa::Portable
    }

    /// The fastest one of this CPU that computes in f32 throughout.
    pub fn detect() -> Isa {
        [Isa::Avx512, Isa::Avx2].into_iter().find(|isa| isa.available()).unwrap_or(Isa::Portable)
    }

    /// The proof that this CPU has it.
    ///
    /// # Panics
    /// If it does not; whoever chose it has not asked [`Isa::available`].
    pub(crate) fn verify(self) -> Verified {
        assert!(self.available(), "{self:?} was chosen on a CPU that lacks it");
        Verified(self)
    }
}

/// An [`Isa`] this CPU has. Only [`Isa::verify`] makes one, which is what calls
/// of functions with target features rely on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verified(Isa);

impl Verified {
    /// The instruction set.
    pub(crate) fn isa(self) -> Isa {
        self.0
    }
}

/// Compiles a function once per instruction set; its first parameter, `cpu`,
/// is the [`Verified`] that says which one runs.
///
/// Inside, `FMA` is a constant that says whether fused multiply-add is an
/// instruction; see [`math::fma`].
macro_rules! per_isa {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $([$($generic:ident: $bound:path),*])?
        ($cpu:ident $(, $arg:ident: $ty:ty)* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "kernels take what they compute on")]
        $vis fn $name$(<$($generic: $bound),*>)?($cpu: $crate::cpu::Verified $(, $arg: $ty)*) $(-> $ret)? {
            #[allow(clippy::too_many_arguments, unused_variables, reason = "not every body asks for `cpu`")]
            #[allow(clippy::extra_unused_type_parameters, reason = "not every body multiplies and adds")]
            #[inline(always)]
            fn body<const FMA: bool $($(, $generic: $bound)*)?>($cpu: $crate::cpu::Verified $(, $arg: $ty)*) $(-> $ret)?
                $body

            #[cfg(target_arch = "x86_64")]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            fn avx512$(<$($generic: $bound),*>)?($cpu: $crate::cpu::Verified $(, $arg: $ty)*) $(-> $ret)? {
                body::<true $($(, $generic)*)?>($cpu $(, $arg)*)
            }

            #[cfg(target_arch = "x86_64")]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2$(<$($generic: $bound),*>)?($cpu: $crate::cpu::Verified $(, $arg: $ty)*) $(-> $ret)? {
                body::<true $($(, $generic)*)?>($cpu $(, $arg)*)
            }

            match $cpu.isa() {
                // SAFETY: a `Verified` exists only for an instruction set of this CPU.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::Isa::Avx512 | $crate::cpu::Isa::Avx512Bf16 => unsafe { avx512($cpu $(, $arg)*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::Isa::Avx2 => unsafe { avx2($cpu $(, $arg)*) },
                _ => body::<{ cfg!(target_arch = "aarch64") } $($(, $generic)*)?>($cpu $(, $arg)*),
            }
        }
    };
}
use per_isa;
