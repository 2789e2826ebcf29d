//! Reads cpio's "new ASCII" format. Linux `Documentation/driver-api/early-userspace/
//! buffer-format.rst`.
//!
//! ```text
//! 0       6       14    22   30   38     46     54        62 .. 94        94        102    110
//! │070701 │ inode │mode │uid │gid │links │mtime │file size│ device numbers│name size│check │ name…
//! ```
//!
//! All numbers are hexadecimal digits. Name and contents are each padded to a multiple of four.

use std::collections::HashMap;

use super::tree::{Item, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, Tree, text};

const HEADER_BYTES: usize = 110;
const TRAILER: &[u8] = b"TRAILER!!!";

/// All of an archive.
pub(super) fn read(bytes: &[u8]) -> Result<Tree, String> {
    let mut tree = Tree::new();
    // Files with several names: only the last of them comes with the contents.
    let mut seen: HashMap<[u32; 3], usize> = HashMap::new();
    let mut at = 0;
    loop {
        let cut = || format!("the archive is cut off at byte {at}");
        let header = bytes.get(at..at + HEADER_BYTES).ok_or_else(cut)?;
        if !matches!(&header[..6], b"070701" | b"070702") {
            return Err(format!("there is no cpio header at byte {at}"));
        }
        let mut fields = [0; 13];
        for (field, digits) in fields.iter_mut().zip(header[6..].chunks(8)) {
            let digits = std::str::from_utf8(digits).ok();
            let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
            *field = number.ok_or_else(|| format!("the cpio header at byte {at} is damaged"))?;
        }
        let [inode, mode, uid, gid, links, mtime, data_bytes, major, minor, _, _, name_bytes, _] = fields;
        let name_at = at + HEADER_BYTES;
        let name_end = name_at + name_bytes as usize;
        let name = bytes.get(name_at..name_end).and_then(|name| name.strip_suffix(b"\0"));
        let name = name.ok_or_else(cut)?;
        if name == TRAILER {
            return Ok(tree);
        }
        let data_at = name_end.next_multiple_of(4);
        let data = bytes.get(data_at..data_at + data_bytes as usize).ok_or_else(cut)?;
        at = (data_at + data_bytes as usize).next_multiple_of(4);
        match mode & S_IFMT {
            S_IFDIR | S_IFREG | S_IFLNK | S_IFIFO => {}
            _ => {
                tree.skipped.push(format!("{} is a device node or a socket", text(name)));
                continue;
            }
        }
        let key = [inode, major, minor];
        let several = links > 1 && mode & S_IFMT != S_IFDIR;
        if let Some(&first) = seen.get(&key).filter(|_| several) {
            tree.link(name, first)?;
            if !data.is_empty() {
                *tree.data_mut(first) = data.to_vec();
            }
            continue;
        }
        let item = Item { mode, uid, gid, mtime_seconds: mtime.into(), mtime_nanos: 0, data: data.to_vec() };
        let node = tree.insert(name, item)?;
        if several {
            seen.insert(key, node);
        }
    }
}
