//! Whether the device has done what it was given. A driver may give up a submission that takes too long and go on with
//! the next, and not all of them say so: Metal marks it as failed, which wgpu takes for done. So the last thing that a
//! submission does is to count itself, on the device, and whoever reads results compares that count.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use wgpu::{BindGroup, Buffer, BufferUsages, ComputePipeline, Device};

/// One lane adds one. Submissions run one after the other.
const COUNT: &str = "
    @group(0) @binding(0) var<storage, read_write> done: u32;
    @compute @workgroup_size(1) fn main() { done += 1u; }
";

/// A device's count of submissions, beside the host's.
pub(super) struct Tally {
    pipeline: ComputePipeline,
    bind_group: BindGroup,
    /// One u32, 0 at first.
    pub(super) done: Buffer,
    submitted: AtomicU32,
    /// Whether the next submission is to be lost, for tests.
    loses: AtomicBool,
}

impl Tally {
    /// Bytes of the count.
    pub(super) const BYTES: u64 = 4;

    pub(super) fn new(device: &Device) -> Self {
        let label = Some("finished submissions");
        let source = wgpu::ShaderSource::Wgsl(COUNT.into());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC;
        let (size, mapped_at_creation) = (Self::BYTES, false);
        let done = device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation });
        let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: done.as_entire_binding() }],
        });
        Self { pipeline, bind_group, done, submitted: AtomicU32::new(0), loses: AtomicBool::new(false) }
    }

    /// Records the last dispatch of a submission.
    pub(super) fn count(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    }

    /// Notes down a submission that ends with [`count`](Self::count); whether it is to be handed over at all.
    pub(super) fn submitted(&self) -> bool {
        self.submitted.fetch_add(1, Ordering::Relaxed);
        !self.loses.swap(false, Ordering::Relaxed)
    }

    /// Loses the next submission, as a driver might that gives it up.
    pub(super) fn lose_next(&self) {
        self.loses.store(true, Ordering::Relaxed);
    }

    /// How many submissions were given up since this was last asked, as the device has finished `done` of all.
    pub(super) fn missing(&self, done: u32) -> u32 {
        self.submitted.swap(done, Ordering::Relaxed).wrapping_sub(done)
    }
}
