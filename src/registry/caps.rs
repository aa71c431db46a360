//! What devices can do and kernels need.

/// What a device can do, as a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Caps(u32);

impl Caps {
    /// Nothing beyond the language itself.
    pub const NONE: Caps = Caps(0);
    /// x86 AVX2 and FMA.
    pub const AVX2: Caps = Caps(1);
    /// x86 AVX-512 F, BW, VL and DQ.
    pub const AVX512: Caps = Caps(1 << 1);
    /// x86 AVX512-BF16.
    pub const AVX512_BF16: Caps = Caps(1 << 2);
    /// The user allows GEMM inputs to be rounded to bf16 (`--dtype bf16`).
    pub const ROUND_BF16: Caps = Caps(1 << 3);
    /// WGSL subgroup operations.
    pub const SUBGROUP: Caps = Caps(1 << 4);
    /// WGSL 16-bit floats.
    pub const F16: Caps = Caps(1 << 5);
    /// WGSL cooperative matrices, 16×16×16, f16 operands and f32 accumulators.
    pub const COOPERATIVE: Caps = Caps(1 << 6);
    /// WGSL run on the host's cores: a subgroup is a vector register, and asking its lanes is cheaper than memory.
    pub const SOFTWARE: Caps = Caps(1 << 7);
    /// CUDA compute capability 9.0 and what only it has: wgmma, setmaxnreg.
    pub const SM90A: Caps = Caps(1 << 8);
    /// CUDA compute capability 9.0 or above, and a driver that records it: a launch may begin before the one before it
    /// is over (programmatic dependent launch).
    pub const DEPENDENT_LAUNCH: Caps = Caps(1 << 9);

    /// WGSL cooperative matrices, 8×8×8, f16 operands and f32 accumulators.
    pub const COOPERATIVE_8: Caps = Caps(1 << 10);

    /// x86 AVX-VNNI: products of int8 in registers of 256 bits.
    pub const AVX_VNNI: Caps = Caps(1 << 11);
    /// x86 AVX512-VNNI: the same in registers of 512 bits.
    pub const AVX512_VNNI: Caps = Caps(1 << 12);
    /// The user allows what is multiplied by int8 weights to be rounded to int8 (not `--dtype f32`).
    pub const ROUND_INT8: Caps = Caps(1 << 13);
    /// The user allows GEMM inputs to be rounded to f16 (`--dtype f16`).
    pub const ROUND_F16: Caps = Caps(1 << 14);

    const NAMES: &[(Caps, &str)] = &[
        (Caps::AVX2, "avx2"),
        (Caps::AVX512, "avx512"),
        (Caps::AVX512_BF16, "avx512_bf16"),
        (Caps::ROUND_BF16, "round_bf16"),
        (Caps::AVX_VNNI, "avx_vnni"),
        (Caps::AVX512_VNNI, "avx512_vnni"),
        (Caps::ROUND_INT8, "round_int8"),
        (Caps::ROUND_F16, "round_f16"),
        (Caps::SUBGROUP, "subgroup"),
        (Caps::F16, "f16"),
        (Caps::COOPERATIVE, "cooperative_matrix"),
        (Caps::COOPERATIVE_8, "cooperative_matrix_8"),
        (Caps::SOFTWARE, "software"),
        (Caps::SM90A, "sm_90a"),
        (Caps::DEPENDENT_LAUNCH, "dependent_launch"),
    ];

    /// Every way in which a user may allow GEMM inputs to be rounded.
    pub const ROUNDING: Caps = Caps::ROUND_BF16.and(Caps::ROUND_F16).and(Caps::ROUND_INT8);

    /// All that there is.
    pub const ALL: Caps = Caps(u32::MAX);

    /// Both sets together.
    pub const fn and(self, other: Caps) -> Caps {
        Caps(self.0 | other.0)
    }

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: Caps) -> bool {
        self.0 & other.0 == other.0
    }

    /// What is in both sets.
    pub const fn common(self, other: Caps) -> Caps {
        Caps(self.0 & other.0)
    }

    /// What is in this set and not in `other`.
    pub const fn without(self, other: Caps) -> Caps {
        Caps(self.0 & !other.0)
    }
}

/// Names with commas between.
impl std::str::FromStr for Caps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = |name: &str| Self::NAMES.iter().find(|(_, known)| *known == name).map(|(caps, _)| *caps);
        let caps: Option<Vec<Caps>> = text.split(',').map(named).collect();
        let known: Vec<_> = Self::NAMES.iter().map(|(_, name)| *name).collect();
        let caps = caps.ok_or_else(|| format!("expected some of {}, with commas between", known.join(", ")))?;
        Ok(caps.into_iter().fold(Caps::NONE, Caps::and))
    }
}

impl std::fmt::Display for Caps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = Self::NAMES.iter().filter(|(c, _)| self.contains(*c)).map(|(_, name)| *name).collect();
        f.write_str(if names.is_empty() { "nothing" } else { "" })?;
        f.write_str(&names.join(" + "))
    }
}
