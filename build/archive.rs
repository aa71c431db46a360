//! Archives of compiled kernels: files one after the other, each as a line `NAME BYTES` and so many bytes, compressed as
//! `xz --format=lzma` would. `tools/ptx/lock.py` writes them; the build script and the CUDA backend read them.

use std::collections::HashMap;
use std::io::Read;

/// KiB that unpacking may take, against a damaged header.
const LIMIT_KIB: u32 = 64 << 10;

/// The files of an archive by their names.
///
/// # Errors
/// What is wrong with it, in words.
pub fn unpack(packed: &[u8]) -> Result<HashMap<String, Vec<u8>>, String> {
    let mut data = Vec::new();
    lzma_rust2::LzmaReader::new_mem_limit(packed, LIMIT_KIB, None)
        .and_then(|mut reader| reader.read_to_end(&mut data))
        .map_err(|e| format!("it cannot be unpacked: {e}"))?;
    let mut files = HashMap::new();
    let mut rest = &data[..];
    while !rest.is_empty() {
        let (name, length, more) = header(rest).ok_or("a file in it has no name or no length")?;
        let file = more.get(..length).ok_or_else(|| format!("{name} ends early"))?;
        files.insert(name.to_owned(), file.to_vec());
        rest = &more[length..];
    }
    Ok(files)
}

/// The name and the length of the file that comes first, and all that follows its line.
fn header(data: &[u8]) -> Option<(&str, usize, &[u8])> {
    let end = data.iter().position(|&byte| byte == b'\n')?;
    let (name, length) = std::str::from_utf8(&data[..end]).ok()?.rsplit_once(' ')?;
    Some((name, length.parse().ok()?, &data[end + 1..]))
}
