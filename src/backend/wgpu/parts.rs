//! A grid of workgroups in parts that are dispatched one after the other, because it is longer than the device allows
//! along an axis, or would keep the device busy for too long. Shaders add the first workgroup of their part to their own
//! number (`common.wgsl`), so the results are the same bytes.

/// A box of workgroups within a grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Its first workgroup, along x, y and z.
    pub(super) first: [u32; 3],
    /// How many it has along each.
    pub(super) groups: [u32; 3],
}

impl Part {
    /// Workgroups of this part.
    pub(super) fn len(&self) -> u64 {
        self.groups.iter().map(|&g| u64::from(g)).product()
    }
}

/// Cuts a grid into parts of at most `most` workgroups, but at least one, and at most `limit` along each axis. Slices
/// along z come first, then along y, then along x, so that neighbours stay together.
pub(super) fn parts(grid: [u32; 3], most: u64, limit: u32) -> impl Iterator<Item = Part> {
    let mut room = most.max(1);
    // From x to z: an axis is cut only if the ones before it are whole.
    let lengths = grid.map(|groups| {
        let longest = room.min(u64::from(limit.min(groups).max(1)));
        room = if longest < u64::from(groups) { 1 } else { room / longest };
        // Parts of about the same length instead of a short last one.
        groups.div_ceil(u64::from(groups).div_ceil(longest).max(1) as u32)
    });
    let starts = move |axis: usize| (0..grid[axis]).step_by(lengths[axis].max(1) as usize);
    starts(2).flat_map(move |z| starts(1).flat_map(move |y| starts(0).map(move |x| [x, y, z]))).map(move |first| Part {
        first,
        groups: std::array::from_fn(|axis| lengths[axis].min(grid[axis] - first[axis])),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each workgroup of a grid is in a part.
    fn covered(grid: [u32; 3], parts: &[Part]) -> Vec<u32> {
        let mut times = vec![0; grid.iter().product::<u32>() as usize];
        for Part { first, groups } in parts {
            for z in first[2]..first[2] + groups[2] {
                for y in first[1]..first[1] + groups[1] {
                    for x in first[0]..first[0] + groups[0] {
                        times[((z * grid[1] + y) * grid[0] + x) as usize] += 1;
                    }
                }
            }
        }
        times
    }

    #[test]
    fn every_workgroup_is_in_one_part_and_no_part_is_too_large() {
        let sizes = [1, 2, 3, 7, 16, 33];
        for grid in sizes.iter().flat_map(|&x| sizes.iter().flat_map(move |&y| sizes.map(|z| [x, y, z]))) {
            for (most, limit) in
                [(0, 8), (1, 8), (5, 100), (16, 4), (40, 7), (1000, 16), (u64::MAX, 2), (u64::MAX, 65535)]
            {
                let parts: Vec<_> = parts(grid, most, limit).collect();
                assert!(covered(grid, &parts).iter().all(|&times| times == 1), "{grid:?}, {most}, {limit}: {parts:?}");
                for part in &parts {
                    assert!(part.len() <= most.max(1), "{grid:?}, {most}: {part:?}");
                    assert!(part.groups.iter().all(|&g| g <= limit), "{grid:?}, {limit}: {part:?}");
                }
            }
        }
    }

    #[test]
    fn what_fits_stays_whole_and_the_rest_is_cut_evenly() {
        let whole = |grid| Part { first: [0; 3], groups: grid };
        assert_eq!(parts([300, 200, 3], u64::MAX, 65535).collect::<Vec<_>>(), [whole([300, 200, 3])]);
        let lengths = |grid, most| parts(grid, most, 65535).map(|part| part.groups).collect::<Vec<_>>();
        assert_eq!(lengths([1, 65536, 1], u64::MAX), [[1, 32768, 1], [1, 32768, 1]]);
        assert_eq!(lengths([10, 9, 1], 45), [[10, 3, 1], [10, 3, 1], [10, 3, 1]]);
        assert_eq!(lengths([10, 1, 4], 20), [[10, 1, 2], [10, 1, 2]]);
    }

    #[test]
    fn a_grid_of_nothing_has_no_parts() {
        assert_eq!(parts([4, 0, 1], 10, 10).count(), 0);
    }
}
