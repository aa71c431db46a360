//! CPU kernels, one file per op. `launch` calls them for the nodes of a plan, through the interface in `call`.
//! They share three principles.
//!
//! - **One body, several instruction sets.** Element-wise loops are plain Rust,
//!   compiled once per [`Isa`] by `per_isa!` and vectorised by the compiler.
//!   Only the inner loops of products (`tile`, `dot`) and the transposition that packs
//!   operands (`pack`) are written with intrinsics.
//! - **No allocation.** Every kernel receives its scratch memory from the caller.
//!   A companion function `*_scratch` returns how many f32 it needs.
//! - **The same bits for any number of threads.** Each output element is computed
//!   by one task, in an order of summation that depends only on the shapes.
//!
//! Activations are `[n, h, w, c]` f32 with contiguous channels. Weights are
//! [`Weight`](crate::tensor::Weight)s and are read directly from the mapped file.
#![allow(unsafe_code, reason = "instruction sets are chosen at run time")]

pub mod attention;
pub mod call;
pub mod conv;
pub mod depthwise;
mod dot;
pub mod elementwise;
pub mod feed_forward;
mod few;
mod gemm;
pub mod grn;
pub mod group_norm;
mod int8;
pub mod launch;
pub mod linear;
mod math;
pub mod norm;
mod pack;
mod rows;
mod scratch;
mod softmax;
#[cfg(test)]
mod testing;
mod tile;
mod transpose;

/// An instruction set the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// The baseline of the build target: SSE2 on x86-64, NEON on aarch64.
    Portable,
    /// AVX2 with FMA, and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with BF16. GEMMs round both operands to bf16 and
    /// accumulate in f32; everything else is as with [`Isa::Avx512`].
    Avx512Bf16,
    /// The baseline, where GEMMs multiply int8 and accumulate in i32. Of all ops, only linear layers whose weights are
    /// int8 run with this and the following ones.
    PortableInt8,
    /// The same with [`Isa::Avx2`].
    Avx2Int8,
    /// The same with [`Isa::Avx2`] and AVX-VNNI.
    AvxVnni,
    /// The same with [`Isa::Avx512`] and AVX512-VNNI.
    Avx512Vnni,
}

impl Isa {
    /// Every instruction set that serves all ops, slowest first.
    pub const ALL: [Isa; 4] = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16];
    /// Those whose GEMMs multiply int8, slowest first.
    pub const INT8: [Isa; 4] = [Isa::PortableInt8, Isa::Avx2Int8, Isa::AvxVnni, Isa::Avx512Vnni];

    /// Whether this CPU supports the instruction set.
    #[cfg(target_arch = "x86_64")]
    pub fn available(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        match self {
            Isa::Portable | Isa::PortableInt8 => true,
            Isa::Avx2 | Isa::Avx2Int8 => has!("avx2") && has!("fma") && has!("f16c"),
            Isa::Avx512 => {
                let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
                Isa::Avx2.available() && avx512
            }
            Isa::Avx512Bf16 => Isa::Avx512.available() && has!("avx512bf16"),
            Isa::AvxVnni => Isa::Avx2.available() && has!("avxvnni"),
            Isa::Avx512Vnni => Isa::Avx512.available() && has!("avx512vnni"),
        }
    }

    /// Whether this CPU supports the instruction set.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn available(self) -> bool {
        matches!(self, Isa::Portable | Isa::PortableInt8)
    }

    /// The fastest instruction set of this CPU that computes in f32 throughout.
    pub fn detect() -> Isa {
        [Isa::Avx512, Isa::Avx2].into_iter().find(|isa| isa.available()).unwrap_or(Isa::Portable)
    }

    /// Proof that this CPU supports the instruction set, which calls of `unsafe` kernels require.
    ///
    /// # Panics
    /// If the CPU does not support it. Callers must check [`Isa::available`] first.
    pub(crate) fn verify(self) -> Verified {
        assert!(self.available(), "{self:?} was chosen on a CPU that lacks it");
        Verified(self)
    }
}

/// An [`Isa`] that this CPU supports. Only [`Isa::verify`] creates one, so it is safe
/// to call functions with the corresponding target features.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verified(Isa);

impl Verified {
    /// The instruction set.
    pub(crate) fn isa(self) -> Isa {
        self.0
    }

    /// Whether all of AVX-512 that kernels use for f32 is there.
    pub(crate) fn has_avx512(self) -> bool {
        matches!(self.0, Isa::Avx512 | Isa::Avx512Bf16 | Isa::Avx512Vnni)
    }
}

/// Compiles a function once per instruction set. Its first parameter, a
/// [`Verified`], selects the version that runs.
///
/// In the body, the constant `FMA` says whether the instruction set has fused
/// multiply-add; see [`math::fma`].
macro_rules! per_isa {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $([$($generic:ident: $bound:path),*])?
        ($cpu:ident $(, $arg:ident: $ty:ty)* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "a kernel's operands are its arguments")]
        $vis fn $name$(<$($generic: $bound),*>)?($cpu: $crate::cpu::Verified $(, $arg: $ty)*) $(-> $ret)? {
            #[allow(clippy::too_many_arguments, unused_variables, reason = "not every body uses `cpu`")]
            #[allow(clippy::extra_unused_type_parameters, reason = "not every body uses `FMA`")]
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
                // SAFETY: a `Verified` exists only for an instruction set that this CPU supports.
                #[cfg(target_arch = "x86_64")]
                _ if $cpu.has_avx512() => unsafe { avx512($cpu $(, $arg)*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::Isa::Avx2 | $crate::cpu::Isa::Avx2Int8 | $crate::cpu::Isa::AvxVnni => unsafe { avx2($cpu $(, $arg)*) },
                _ => body::<{ cfg!(target_arch = "aarch64") } $($(, $generic)*)?>($cpu $(, $arg)*),
            }
        }
    };
}
use per_isa;
