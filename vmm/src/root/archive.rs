//! Reads tar archives, with the extensions of GNU and POSIX.

use std::io::Read as _;

use tar::EntryType;

use super::tree::{Item, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, Tree, text};

/// All of an archive.
pub(super) fn read(bytes: &[u8]) -> Result<Tree, String> {
    let mut tree = Tree::new();
    let mut archive = tar::Archive::new(bytes);
    let damaged = |error: std::io::Error| format!("the tar archive is damaged: {error}");
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let path = entry.path_bytes().into_owned();
        let header = entry.header();
        let kind = header.entry_type();
        let target = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
        let target = || target.ok_or_else(|| format!("{} leads nowhere", text(&path)));
        let type_bits = match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => S_IFREG,
            EntryType::Directory => S_IFDIR,
            EntryType::Symlink => S_IFLNK,
            EntryType::Fifo => S_IFIFO,
            EntryType::Link => {
                let target = target()?;
                let missing =
                    || format!("{} is a hard link to {}, which is not there", text(&path), text(&target));
                let node = tree.find(&target).ok_or_else(missing)?;
                tree.link(&path, node)?;
                continue;
            }
            EntryType::XGlobalHeader => continue,
            EntryType::Char | EntryType::Block => {
                tree.skipped.push(format!("{} is a device node", text(&path)));
                continue;
            }
            _ => {
                tree.skipped.push(format!("{} is of an unknown kind", text(&path)));
                continue;
            }
        };
        let mut item = Item {
            mode: type_bits | header.mode().map_err(damaged)? & 0o7777,
            uid: u32::try_from(header.uid().map_err(damaged)?).unwrap_or(0),
            gid: u32::try_from(header.gid().map_err(damaged)?).unwrap_or(0),
            mtime_seconds: i64::try_from(header.mtime().map_err(damaged)?).unwrap_or(0),
            mtime_nanos: 0,
            data: Vec::new(),
        };
        if type_bits == S_IFLNK {
            item.data = target()?;
        } else if type_bits == S_IFREG {
            entry.read_to_end(&mut item.data).map_err(damaged)?;
        }
        tree.insert(&path, item)?;
    }
    Ok(tree)
}
