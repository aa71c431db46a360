//! Adapters: the GPUs, and programs that behave like one, that wgpu can reach.

use std::sync::OnceLock;

use wgpu::{
    Adapter, Backends, CooperativeScalarType, DeviceType, Features, Instance, InstanceDescriptor,
    MemoryBudgetThresholds,
};

use super::memory;
use crate::backend::{Device, Kind};
use crate::registry::{Caps, Lang};

/// Every adapter of this machine, in the order of their numbers. Asked for once.
pub(super) fn all() -> &'static [Adapter] {
    static ALL: OnceLock<Vec<Adapter>> = OnceLock::new();
    ALL.get_or_init(|| {
        let instance = Instance::new(InstanceDescriptor {
            // What exceeds the driver's budget is refused instead of moved to the host and back.
            memory_budget_thresholds: MemoryBudgetThresholds { for_resource_creation: Some(97), for_device_loss: None },
            ..InstanceDescriptor::new_without_display_handle_from_env()
        });
        pollster::block_on(instance.enumerate_adapters(Backends::PRIMARY))
    })
}

/// What an adapter says of itself.
pub(super) fn describe(adapter: &Adapter) -> Device {
    let info = adapter.get_info();
    let kind = match info.device_type {
        DeviceType::Cpu => Kind::Software,
        DeviceType::IntegratedGpu => Kind::Integrated,
        _ => Kind::Gpu,
    };
    Device {
        name: format!("{} ({}, {})", info.name, info.backend, info.driver_info),
        lang: Lang::Wgsl,
        kind,
        caps: caps(adapter),
        sms: 0,
        free_bytes: memory::free(adapter),
        faults: Vec::new(),
        copies_weights: true,
    }
}

/// What an adapter can do, of what some kernel asks for.
fn caps(adapter: &Adapter) -> Caps {
    let features = adapter.features();
    let wanted = [
        (Caps::SUBGROUP, features.contains(Features::SUBGROUP)),
        (Caps::F16, features.contains(Features::SHADER_F16)),
        (Caps::COOPERATIVE, has_f16_tiles(adapter, 16)),
        (Caps::COOPERATIVE_8, has_f16_tiles(adapter, 8)),
        (Caps::SOFTWARE, adapter.get_info().device_type == DeviceType::Cpu),
    ];
    wanted.into_iter().filter(|(_, has)| *has).fold(Caps::NONE, |all, (caps, _)| all.and(caps))
}

/// Whether there are cooperative matrices of `size` in each dimension, f16 with sums in f32. How many subgroups share them
/// out is for kernels to ask.
fn has_f16_tiles(adapter: &Adapter, size: u32) -> bool {
    adapter.features().contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
        && adapter.cooperative_matrix_properties().iter().any(|p| {
            (p.m_size, p.n_size, p.k_size) == (size, size, size)
                && p.ab_type == CooperativeScalarType::F16
                && p.cr_type == CooperativeScalarType::F32
        })
}

/// The features of wgpu behind capabilities.
pub(super) fn features(caps: Caps) -> Features {
    let wanted = [
        (Caps::SUBGROUP, Features::SUBGROUP),
        (Caps::F16, Features::SHADER_F16),
        (Caps::COOPERATIVE, Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
        (Caps::COOPERATIVE_8, Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
    ];
    // What tells a shader which part of its grid it computes; Vulkan, Metal and DX12 always have it.
    let always = Features::IMMEDIATES;
    wanted.into_iter().filter(|(cap, _)| caps.contains(*cap)).fold(always, |all, (_, f)| all | f)
}
