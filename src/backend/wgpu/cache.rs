//! Compiled pipelines in a file, so that the next process need not compile them again: where Vulkan hands them out, in the
//! platform's folder for caches, one file for each kind of adapter. The driver compares its own version and that of the
//! device with those in the file. A file that is missing, damaged or another's is as good as none, and one that cannot be
//! written is not written.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use wgpu::{DeviceType, Features, PipelineCacheDescriptor};

/// How a file begins; then come eight bytes of a checksum, then what the driver wrote.
const MAGIC: &[u8; 8] = b"cascade1";

/// The pipelines of a device, and the file that keeps them.
pub(super) struct Cache {
    raw: wgpu::PipelineCache,
    path: PathBuf,
    /// Checksum of what the file holds.
    kept: Mutex<u64>,
}

impl Cache {
    /// That of a device, if it has one. Software adapters keep a cache of their own.
    pub(super) fn of(device: &wgpu::Device, adapter: &wgpu::AdapterInfo) -> Option<Self> {
        let folder = dirs::cache_dir().filter(|_| adapter.device_type != DeviceType::Cpu)?;
        Self::open(device, adapter, &folder.join("cascade-rt"))
    }

    fn open(device: &wgpu::Device, adapter: &wgpu::AdapterInfo, folder: &Path) -> Option<Self> {
        let name =
            wgpu::util::pipeline_cache_key(adapter).filter(|_| device.features().contains(Features::PIPELINE_CACHE))?;
        let path = folder.join(name);
        let file = std::fs::read(&path).unwrap_or_default();
        let data = contents(&file);
        let descriptor = PipelineCacheDescriptor { label: Some("pipelines"), data, fallback: true };
        #[expect(unsafe_code, reason = "a driver trusts the bytes of its cache")]
        // SAFETY: `data` is what `get_data` returned, because the checksum before it is right: `save` wrote both, into
        // a folder of the user's own. wgpu and the driver look at nothing of another adapter or driver.
        let raw = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(Self { raw, path, kept: Mutex::new(data.map_or(0, checksum)) })
    }

    /// What pipelines are made with.
    pub(super) fn raw(&self) -> &wgpu::PipelineCache {
        &self.raw
    }

    /// Writes what has been compiled, if that is more than the file holds.
    pub(super) fn save(&self) {
        let Some(data) = self.raw.get_data() else { return };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if checksum(&data) != *kept && self.write(&data).is_ok() {
            *kept = checksum(&data);
        }
    }

    /// Other processes see the file as it was or as it will be.
    fn write(&self, data: &[u8]) -> std::io::Result<()> {
        let folder = self.path.parent().expect("a file in a folder");
        std::fs::create_dir_all(folder)?;
        let new = self.path.with_extension(format!("{}.new", std::process::id()));
        std::fs::write(&new, [MAGIC.as_slice(), &checksum(data).to_le_bytes(), data].concat())?;
        std::fs::rename(&new, &self.path).inspect_err(|_| drop(std::fs::remove_file(&new)))
    }
}

/// What the driver wrote, if the file is whole.
fn contents(file: &[u8]) -> Option<&[u8]> {
    let (sum, data) = file.strip_prefix(MAGIC)?.split_first_chunk()?;
    (u64::from_le_bytes(*sum) == checksum(data)).then_some(data)
}

fn checksum(data: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::wgpu::adapter;

    /// Any adapter's device that hands its pipelines out; none is a machine without a driver.
    fn device() -> Option<(wgpu::Device, wgpu::AdapterInfo)> {
        let adapter = adapter::all().iter().find(|a| a.features().contains(Features::PIPELINE_CACHE))?;
        let descriptor = wgpu::DeviceDescriptor { required_features: Features::PIPELINE_CACHE, ..Default::default() };
        Some((pollster::block_on(adapter.request_device(&descriptor)).unwrap().0, adapter.get_info()))
    }

    #[test]
    fn a_file_is_read_again_and_a_damaged_or_foreign_one_is_not() {
        let Some((device, info)) = device() else { return };
        let folder = tempfile::tempdir().unwrap();
        let open = || Cache::open(&device, &info, folder.path()).unwrap();
        let cache = open();
        assert_eq!(*cache.kept.lock().unwrap(), 0, "there is no file");
        cache.save();
        let file = std::fs::read(&cache.path).unwrap();
        let data = contents(&file).unwrap();
        assert_eq!(data, cache.raw.get_data().unwrap());
        assert_eq!(*open().kept.lock().unwrap(), checksum(data));

        let mut damaged = file.clone();
        *damaged.last_mut().unwrap() ^= 1;
        for bad in [damaged, file[..file.len() - 1].to_vec(), data.to_vec(), b"cascade1".to_vec(), Vec::new()] {
            std::fs::write(&cache.path, &bad).unwrap();
            let again = open();
            assert_eq!(*again.kept.lock().unwrap(), 0);
            again.save();
            assert_eq!(std::fs::read(&cache.path).unwrap(), file, "it is written anew");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_error() {
        let Some((device, info)) = device() else { return };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "not a folder").unwrap();
        let cache = Cache::open(&device, &info, &file.join("cache")).unwrap();
        cache.save();
        assert!(!cache.path.exists());
    }
}
