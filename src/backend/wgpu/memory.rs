//! How much of an adapter's memory this process may take: the driver's budget, which is less than what the card has
//! where other programs and the display use it too.

use wgpu::{Adapter, DeviceType};

use crate::backend::cpu;

/// Bytes that can be had now. Where the driver does not say, half of what the host has left.
pub(super) fn free(adapter: &Adapter) -> u64 {
    let host = cpu::memory::available();
    match adapter.get_info().device_type {
        DeviceType::Cpu => host,
        // Its memory is the host's.
        DeviceType::IntegratedGpu => left(adapter).unwrap_or(host / 2).min(host),
        _ => left(adapter).unwrap_or(host / 2),
    }
}

/// What the driver says that is left of this process's budget.
fn left(adapter: &Adapter) -> Option<u64> {
    #[cfg(target_vendor = "apple")]
    return metal(adapter);
    #[cfg(windows)]
    return vulkan(adapter).or_else(|| dx12(adapter));
    #[cfg(not(any(target_vendor = "apple", windows)))]
    vulkan(adapter)
}

/// `VK_EXT_memory_budget` for the largest heap of the device's own, else three quarters of that heap: drivers give no more
/// than about that before they move memory of others to the host.
#[cfg(not(target_vendor = "apple"))]
fn vulkan(adapter: &Adapter) -> Option<u64> {
    use ash::vk;
    let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
    let (memory, has_budget) = {
        #[expect(unsafe_code, reason = "wgpu knows no call for it")]
        // SAFETY: the raw handles are used while `adapter`, which owns them, lives, and only to read properties. The
        // second form of the call is there where either the extension or Vulkan 1.1 is, which has it.
        unsafe {
            let hal = adapter.as_hal::<wgpu::hal::api::Vulkan>()?;
            let (instance, device) = (hal.shared_instance(), hal.raw_physical_device());
            let has_budget = instance.instance_api_version() >= vk::API_VERSION_1_1
                && hal.physical_device_capabilities().properties().api_version >= vk::API_VERSION_1_1
                && hal.physical_device_capabilities().supports_extension(ash::ext::memory_budget::NAME);
            let mut memory = vk::PhysicalDeviceMemoryProperties2::default();
            match has_budget {
                true => {
                    memory = memory.push_next(&mut budget);
                    instance.raw_instance().get_physical_device_memory_properties2(device, &mut memory);
                }
                false => {
                    memory.memory_properties = instance.raw_instance().get_physical_device_memory_properties(device)
                }
            }
            (memory.memory_properties, has_budget)
        }
    };
    let own = |heap: &vk::MemoryHeap| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL);
    let heaps = memory.memory_heaps_as_slice().iter().enumerate().filter(|(_, heap)| own(heap));
    let (i, heap) = heaps.max_by_key(|(_, heap)| heap.size)?;
    Some(match has_budget {
        true => budget.heap_budget[i].saturating_sub(budget.heap_usage[i]),
        false => heap.size / 4 * 3,
    })
}

/// DXGI's budget of the adapter's own memory.
#[cfg(windows)]
fn dx12(adapter: &Adapter) -> Option<u64> {
    #[expect(unsafe_code, reason = "wgpu knows no call for it")]
    // SAFETY: the raw adapter is used while `adapter`, which owns it, lives, and only to read how much memory there is.
    let hal = unsafe { adapter.as_hal::<wgpu::hal::api::Dx12>()? };
    // The default is the group of local memory.
    let info = hal.raw_adapter().query_video_memory_info(Default::default()).ok()?;
    Some(info.Budget.saturating_sub(info.CurrentUsage))
}

/// What Metal recommends as the most that is in use at a time.
#[cfg(target_vendor = "apple")]
fn metal(adapter: &Adapter) -> Option<u64> {
    use objc2_metal::MTLDevice;
    #[expect(unsafe_code, reason = "wgpu knows no call for it")]
    // SAFETY: the raw device is used while `adapter`, which owns it, lives, and only to read how much memory there is.
    let hal = unsafe { adapter.as_hal::<wgpu::hal::api::Metal>()? };
    let device = hal.raw_device();
    Some(device.recommendedMaxWorkingSetSize().saturating_sub(device.currentAllocatedSize() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_endless() {
        for adapter in crate::backend::wgpu::adapter::all() {
            let name = adapter.get_info().name;
            assert!((1..1 << 50).contains(&free(adapter)), "{name}");
            assert!(left(adapter).is_none_or(|bytes| (1..1 << 50).contains(&bytes)), "{name}");
        }
    }
}
