//! A tree of files in memory, and how it becomes an image.

use std::collections::BTreeMap;

use unifork_abi::{NO_LINK, ROOT_MAGIC, ROOT_VERSION, RootEntry, RootHeader};

/// Contents begin at a multiple of this, so that copying them is as fast as it can be.
const DATA_ALIGN: usize = 64;
/// Bytes of a name at most, as on Linux.
const NAME_MAX: usize = 255;

/// The directory bits of a mode.
pub(crate) const S_IFDIR: u32 = 0o040_000;
pub(crate) const S_IFREG: u32 = 0o100_000;
pub(crate) const S_IFLNK: u32 = 0o120_000;
pub(crate) const S_IFIFO: u32 = 0o010_000;
pub(crate) const S_IFMT: u32 = 0o170_000;

/// A file with its attributes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Item {
    /// Type and permissions.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime_seconds: i64,
    pub mtime_nanos: u32,
    /// Contents of a regular file, or a symbolic link's target.
    pub data: Vec<u8>,
}

#[derive(Debug)]
struct Node {
    item: Item,
    children: BTreeMap<Vec<u8>, usize>,
}

/// The tree. Directories that an archive does not mention are made as they are needed.
#[derive(Debug)]
pub(crate) struct Tree {
    // Invariant: node 0 is the root directory; only directories have children; the children of
    // different directories are the same node only if it is none itself.
    nodes: Vec<Node>,
    pub skipped: Vec<String>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let item = Item { mode: S_IFDIR | 0o755, ..Item::default() };
        Self { nodes: vec![Node { item, children: BTreeMap::new() }], skipped: Vec::new() }
    }

    /// Puts a file at `path`. What is there already is replaced, but a directory by a directory only
    /// in its attributes. Says which node it is, for [`Self::link`].
    pub(crate) fn insert(&mut self, path: &[u8], item: Item) -> Result<usize, String> {
        let Some((parent, name)) = self.place(path)? else {
            if item.mode & S_IFMT != S_IFDIR {
                return Err("it puts a file in place of the root directory".into());
            }
            self.nodes[0].item = item;
            return Ok(0);
        };
        let is_directory = item.mode & S_IFMT == S_IFDIR;
        if let Some(&there) = self.nodes[parent].children.get(name)
            && is_directory
            && self.is_directory(there)
        {
            self.nodes[there].item = item;
            return Ok(there);
        }
        let index = self.nodes.len();
        self.nodes.push(Node { item, children: BTreeMap::new() });
        self.nodes[parent].children.insert(name.to_vec(), index);
        Ok(index)
    }

    /// Makes `path` another name of the file `node`.
    pub(crate) fn link(&mut self, path: &[u8], node: usize) -> Result<(), String> {
        if self.is_directory(node) {
            return Err(format!("{} is a hard link to a directory", text(path)));
        }
        let Some((parent, name)) = self.place(path)? else {
            return Err("it puts a file in place of the root directory".into());
        };
        self.nodes[parent].children.insert(name.to_vec(), node);
        Ok(())
    }

    /// The node at `path`.
    pub(crate) fn find(&self, path: &[u8]) -> Option<usize> {
        components(path).ok()?.iter().try_fold(0, |at, &name| self.nodes[at].children.get(name).copied())
    }

    /// Takes out what lies in the directory `name` of the root, or lies there in its place, since the guest puts
    /// a file system of its own there.
    pub(crate) fn cover(&mut self, name: &str) {
        let Some(&node) = self.nodes[0].children.get(name.as_bytes()) else { return };
        if self.is_directory(node) && self.nodes[node].children.is_empty() {
            return;
        }
        self.nodes[0].children.remove(name.as_bytes());
        self.skipped.push(format!("{name} is left out: the guest has its own"));
    }

    /// Contents of a node, to replace.
    pub(crate) fn data_mut(&mut self, node: usize) -> &mut Vec<u8> {
        &mut self.nodes[node].item.data
    }

    fn is_directory(&self, node: usize) -> bool {
        self.nodes[node].item.mode & S_IFMT == S_IFDIR
    }

    /// The directory that `path` is in, made if need be, and its last component; `None` for the root.
    fn place<'p>(&mut self, path: &'p [u8]) -> Result<Option<(usize, &'p [u8])>, String> {
        let mut components = components(path)?;
        let Some(last) = components.pop() else { return Ok(None) };
        let mut at = 0;
        for name in components {
            at = match self.nodes[at].children.get(name) {
                Some(&next) if self.is_directory(next) => next,
                Some(_) => return Err(format!("{}: something above it is not a directory", text(path))),
                None => {
                    let item = Item { mode: S_IFDIR | 0o755, ..Item::default() };
                    let next = self.nodes.len();
                    self.nodes.push(Node { item, children: BTreeMap::new() });
                    self.nodes[at].children.insert(name.to_vec(), next);
                    next
                }
            };
        }
        Ok(Some((at, last)))
    }

    /// The image.
    pub(crate) fn pack(&self) -> Result<Vec<u8>, String> {
        // (directory's entry, name, node), in the order of entries.
        let mut order: Vec<(u32, &[u8], usize)> = vec![(0, b"", 0)];
        let mut next = 0;
        while next < order.len() {
            let index = u32::try_from(next).ok().filter(|&i| i != NO_LINK).ok_or("too many files")?;
            let node = order[next].2;
            order.extend(
                self.nodes[node].children.iter().map(|(name, &child)| (index, name.as_slice(), child)),
            );
            next += 1;
        }
        let mut entries = Vec::with_capacity(order.len());
        let data_start = size_of::<RootHeader>() + order.len() * size_of::<RootEntry>();
        let mut rest: Vec<u8> = Vec::new();
        let mut first: BTreeMap<usize, u32> = BTreeMap::new();
        for (i, &(parent, name, node)) in order.iter().enumerate() {
            let item = &self.nodes[node].item;
            let mut entry = RootEntry {
                parent,
                mode: item.mode,
                uid: item.uid,
                gid: item.gid,
                mtime_seconds: item.mtime_seconds,
                link: NO_LINK,
                mtime_nanos: item.mtime_nanos,
                name_offset: (data_start + rest.len()) as u64,
                name_bytes: name.len() as u64,
                data_offset: 0,
                data_bytes: 0,
            };
            rest.extend_from_slice(name);
            if let Some(&earlier) = first.get(&node) {
                entry.link = earlier;
            } else {
                first.insert(node, i as u32);
                let aligned = (data_start + rest.len()).next_multiple_of(DATA_ALIGN) - data_start;
                if !item.data.is_empty() {
                    rest.resize(aligned, 0);
                    entry.data_offset = (data_start + rest.len()) as u64;
                    entry.data_bytes = item.data.len() as u64;
                    rest.extend_from_slice(&item.data);
                }
            }
            entries.push(entry);
        }
        let header = RootHeader {
            magic: ROOT_MAGIC,
            version: ROOT_VERSION,
            entries: order.len() as u32,
            bytes: (data_start + rest.len()) as u64,
            reserved: 0,
        };
        let mut image = Vec::with_capacity(data_start + rest.len());
        image.extend_from_slice(&header.magic);
        image.extend_from_slice(&header.version.to_le_bytes());
        image.extend_from_slice(&header.entries.to_le_bytes());
        image.extend_from_slice(&header.bytes.to_le_bytes());
        image.extend_from_slice(&header.reserved.to_le_bytes());
        for entry in &entries {
            for word in [entry.parent, entry.mode, entry.uid, entry.gid] {
                image.extend_from_slice(&word.to_le_bytes());
            }
            image.extend_from_slice(&entry.mtime_seconds.to_le_bytes());
            image.extend_from_slice(&entry.link.to_le_bytes());
            image.extend_from_slice(&entry.mtime_nanos.to_le_bytes());
            for word in [entry.name_offset, entry.name_bytes, entry.data_offset, entry.data_bytes] {
                image.extend_from_slice(&word.to_le_bytes());
            }
        }
        image.extend_from_slice(&rest);
        Ok(image)
    }
}

/// The names in a path, without the slashes and dots that mean nothing.
fn components(path: &[u8]) -> Result<Vec<&[u8]>, String> {
    let names = path.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".");
    let names: Vec<&[u8]> = names.collect();
    if names.contains(&b"..".as_slice()) {
        return Err(format!("{}: a path with \"..\" in it", text(path)));
    }
    if names.iter().any(|name| name.len() > NAME_MAX || name.contains(&0)) {
        return Err(format!("{}: a name that Linux does not allow", text(path)));
    }
    Ok(names)
}

/// A path to show.
pub(crate) fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
