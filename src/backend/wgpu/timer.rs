//! How long nodes take on the device.

use std::time::{Duration, Instant};

use wgpu::{BufferUsages, ComputePassDescriptor, ComputePassTimestampWrites, Features};

use super::program::{Piece, WgpuProgram};
use crate::error::Result;

/// Dispatches timed with one set of queries; each takes two.
const TIMED: usize = wgpu::QUERY_SET_MAX_QUERIES as usize / 2;

impl WgpuProgram {
    /// Runs dispatches whose weights are on the device, each in a pass of its own between two
    /// timestamps. Where the device has no timestamps it is submission and wait that are
    /// timed, which for small nodes is mostly waiting.
    pub(super) fn time_each(&self, pieces: &[Piece]) -> Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(pieces.len());
        for pieces in pieces.chunks(TIMED) {
            match self.context.device.features().contains(Features::TIMESTAMP_QUERY) {
                true => times.extend(self.stamped(pieces)?),
                false => times.extend(pieces.iter().map(|piece| self.waited(*piece)).collect::<Result<Vec<_>>>()?),
            }
        }
        Ok(times)
    }

    fn stamped(&self, pieces: &[Piece]) -> Result<Vec<Duration>> {
        let device = &self.context.device;
        let count = 2 * pieces.len() as u32;
        let query_set = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("times"),
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let bytes = u64::from(count) * u64::from(wgpu::QUERY_SIZE);
        let resolved = self.context.buffer("times", bytes, BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC)?;
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (query, piece) in (0..count).step_by(2).zip(pieces) {
            let timestamp_writes = Some(ComputePassTimestampWrites {
                query_set: &query_set,
                beginning_of_pass_write_index: Some(query),
                end_of_pass_write_index: Some(query + 1),
            });
            let mut pass = encoder.begin_compute_pass(&ComputePassDescriptor { label: None, timestamp_writes });
            self.dispatch(&mut pass, *piece);
        }
        encoder.resolve_query_set(&query_set, 0..count, &resolved, 0);
        self.context.queue.submit([encoder.finish()]);
        let mut ticks = vec![0u64; count as usize];
        self.context.fetch(&resolved, 0, bytemuck::cast_slice_mut(&mut ticks))?;
        let period = f64::from(self.context.queue.get_timestamp_period());
        let time = |pair: &[u64]| Duration::from_secs_f64(pair[1].saturating_sub(pair[0]) as f64 * period * 1e-9);
        Ok(ticks.chunks_exact(2).map(time).collect())
    }

    fn waited(&self, piece: Piece) -> Result<Duration> {
        let start = Instant::now();
        self.submit(&[piece], 0);
        self.context.wait()?;
        Ok(start.elapsed())
    }
}
