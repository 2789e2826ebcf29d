use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Command, Stdio};

use unifork_fs::{FileSystem, NodeId, NodeKind};

use super::*;

/// Everything in an image, one line a file, as the guest will see it.
fn listing(image: &[u8]) -> Vec<String> {
    let mut model = FileSystem::new(1 << 24);
    model.load(image).unwrap();
    let mut lines = Vec::new();
    let root = model.root();
    walk(&mut model, root, "", &mut lines);
    lines
}

fn walk(model: &mut FileSystem<'_>, node: NodeId, path: &str, lines: &mut Vec<String>) {
    let stat = model.stat(node).unwrap();
    let mut line = format!("{path} {:o} {} {}", stat.mode, stat.mtime.seconds, stat.links);
    let mut names = Vec::new();
    match stat.kind {
        NodeKind::Directory => {
            let list = |entry: unifork_fs::Listed<'_>| {
                names.push(String::from_utf8(entry.name.to_vec()).unwrap());
                true
            };
            model.list(node, 2, list).unwrap();
        }
        NodeKind::Symlink => line += &format!(" -> {}", tree::text(model.read_link(node).unwrap())),
        NodeKind::Regular => {
            let mut data = Vec::new();
            model.read(node, 0, 1 << 20, |piece| data.extend_from_slice(piece)).unwrap();
            line += &format!(" {}", tree::text(&data));
        }
        _ => {}
    }
    lines.push(line);
    for name in names {
        let child = model.lookup(node, name.as_bytes(), false).unwrap();
        walk(model, child, &format!("{path}/{name}"), lines);
    }
}

fn sample() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("etc/empty")).unwrap();
    fs::write(at("etc/passwd"), "root:x:0:0\n").unwrap();
    fs::write(at("program"), "x".repeat(10_000)).unwrap();
    fs::set_permissions(at("program"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::hard_link(at("program"), at("again")).unwrap();
    symlink("/etc/passwd", at("link")).unwrap();
    symlink("nowhere", at("etc/dangling")).unwrap();
    let name = "n".repeat(200);
    fs::write(at(&name), "long").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::from(0o600)).unwrap();
    for name in ["etc/passwd", "program", &name, "pipe", "etc/empty", "etc", "."] {
        assert!(Command::new("touch").args(["-d", "@1000000000"]).arg(at(name)).status().unwrap().success());
    }
    for name in ["etc/dangling", "link"] {
        let touch = Command::new("touch").args(["-h", "-d", "@1000000000"]).arg(at(name)).status();
        assert!(touch.unwrap().success());
    }
    fs::set_permissions(at("."), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[test]
fn a_directory_and_archives_of_it_make_the_same_tree() {
    let folder = sample();
    let out = tempfile::tempdir().unwrap();
    let direct = RootImage::pack(folder.path()).unwrap();
    let expected = listing(direct.bytes());
    assert!(expected.iter().any(|line| line == "/link 120777 1000000000 1 -> /etc/passwd"), "{expected:#?}");
    assert!(expected.iter().any(|line| line.starts_with("/again 104755 1000000000 2 xxx")));
    assert_eq!(expected.iter().filter(|line| line.contains("/etc/")).count(), 3 + 1);
    for format in ["gnu", "pax"] {
        let path = out.path().join(format);
        let tar = Command::new("tar")
            .arg(format!("--format={format}"))
            .args(["--owner=0", "--group=0", "-cf"])
            .arg(&path)
            .arg("-C")
            .arg(folder.path())
            .arg(".")
            .status();
        assert!(tar.unwrap().success());
        assert_eq!(listing(RootImage::pack(&path).unwrap().bytes()), expected, "{format}");
    }
    let path = out.path().join("cpio");
    fs::write(&path, newc(folder.path())).unwrap();
    assert_eq!(listing(RootImage::pack(&path).unwrap().bytes()), expected);
}

#[test]
fn the_program_is_where_its_name_says_unless_something_is_there() {
    let folder = sample();
    let out = tempfile::tempdir().unwrap();
    let program = out.path().join("tool");
    fs::write(&program, "code").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(Command::new("touch").args(["-d", "@1000000000"]).arg(&program).status().unwrap().success());
    let with = |root, name: &str| listing(RootImage::with_program(root, name, &program).unwrap().bytes());
    let found = |lines: &[String], path: &str| {
        lines.iter().any(|line| line == &format!("{path} 100755 1000000000 1 code"))
    };

    let alone = with(None, "./tool");
    assert_eq!(alone.len(), 2, "{alone:?}");
    assert!(found(&alone, "/tool"), "{alone:?}");
    for (name, path) in
        [("tool", "/tool"), ("some/where/tool", "/tool"), ("/tool", "/tool"), ("/opt/x/tool", "/opt/x/tool")]
    {
        let lines = with(Some(folder.path()), name);
        assert!(found(&lines, path), "{name}: {lines:?}");
        assert!(lines.iter().any(|line| line.starts_with("/etc/passwd ")), "{name}: {lines:?}");
    }
    // A file of the root's own, a link in the way, a path that goes up, and one that is not.
    let as_it_is = listing(RootImage::pack(folder.path()).unwrap().bytes());
    for name in ["program", "/program", "/link/tool", "/etc/../tool", "/", ""] {
        assert_eq!(with(Some(folder.path()), name), as_it_is, "{name}");
    }
    let missing = out.path().join("missing");
    let refused = RootImage::with_program(None, "x", &missing).unwrap_err();
    assert!(matches!(refused, RootError::Read { path, .. } if path == missing));
}

/// The sample as `cpio -o -H newc` writes it: the contents of a file with two names come with its last.
fn newc(folder: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::MetadataExt as _;
    let find = Command::new("find").arg(".").current_dir(folder).stdout(Stdio::piped()).output().unwrap();
    let mut out = Vec::new();
    let mut seen = 0;
    let mut put = |name: &str, fields: [u64; 6], data: &[u8]| {
        let [inode, mode, links, mtime, major, minor] = fields;
        let bytes = data.len();
        out.extend_from_slice(
            format!(
                "070701{inode:08x}{mode:08x}{:08x}{:08x}{links:08x}{mtime:08x}{bytes:08x}{major:08x}{minor:08x}{:08x}{:08x}{:08x}{:08x}{name}\0",
                0, 0, 0, 0, name.len() + 1, 0
            )
            .as_bytes(),
        );
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(4), 0);
    };
    for name in String::from_utf8(find.stdout).unwrap().lines() {
        let path = folder.join(name);
        let metadata = fs::symlink_metadata(&path).unwrap();
        let mut data = match () {
            () if metadata.is_file() => fs::read(&path).unwrap(),
            () if metadata.is_symlink() => fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
            () => Vec::new(),
        };
        if metadata.is_file() && metadata.nlink() > 1 {
            seen += 1;
            if seen < metadata.nlink() {
                data.clear();
            }
        }
        let mtime = u64::try_from(metadata.mtime()).unwrap();
        let fields = [metadata.ino() & 0xffff_ffff, metadata.mode().into(), metadata.nlink(), mtime, 0, 1];
        put(name, fields, &data);
    }
    put("TRAILER!!!", [0, 0, 1, 0, 0, 0], b"");
    out
}

#[test]
fn packing_twice_gives_the_same_bytes() {
    let folder = sample();
    let [first, second] = [(); 2].map(|()| RootImage::pack(folder.path()).unwrap());
    assert_eq!(first.bytes(), second.bytes());
}

#[test]
fn sockets_are_left_out_with_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("s")).unwrap();
    fs::write(folder.path().join("f"), "").unwrap();
    let image = RootImage::pack(folder.path()).unwrap();
    assert_eq!(listing(image.bytes()).len(), 2);
    assert!(image.skipped()[0].ends_with("/s is a socket"), "{:?}", image.skipped());
}

#[test]
fn what_the_guest_would_cover_is_left_out_with_a_word() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("proc/self")).unwrap();
    fs::write(folder.path().join("proc/cpuinfo"), "another machine's").unwrap();
    let image = RootImage::pack(folder.path()).unwrap();
    assert_eq!(listing(image.bytes()).len(), 1, "{:?}", listing(image.bytes()));
    assert_eq!(image.skipped(), ["proc is left out: the guest has its own"]);
    fs::remove_dir_all(folder.path().join("proc/self")).unwrap();
    fs::remove_file(folder.path().join("proc/cpuinfo")).unwrap();
    assert_eq!(
        RootImage::pack(folder.path()).unwrap().skipped(),
        <[String; 0]>::default(),
        "an empty one stays"
    );
}

#[test]
fn what_is_no_archive_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let refused = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        RootImage::pack(&path).unwrap_err().to_string()
    };
    assert!(refused(b"hello").ends_with("is neither a directory nor a cpio (newc) or tar archive"));
    assert!(refused(&[0x1f, 0x8b, 8, 0]).ends_with("it is compressed; decompress it first"));
    assert!(refused(b"070707000000").contains("-H newc"));
    assert!(refused(b"070701").contains("cut off"));
    let mut escape = b"070701".to_vec();
    escape.extend_from_slice(format!("{:08x}{:08x}", 1, 0o100_644).as_bytes());
    escape.extend_from_slice("0".repeat(8 * 9).as_bytes());
    escape.extend_from_slice(format!("{:08x}{:08x}../escape\0", 10, 0).as_bytes());
    assert!(refused(&escape).contains("a path with \"..\""));
    let missing = RootImage::pack(&folder.path().join("nothing")).unwrap_err();
    assert!(missing.to_string().starts_with("cannot read"));
}

#[test]
fn no_cut_or_changed_archive_panics() {
    let folder = sample();
    let archive = newc(folder.path());
    let path = folder.path().join("archive");
    for at in (0..archive.len()).step_by(37) {
        fs::write(&path, &archive[..at]).unwrap();
        assert!(RootImage::pack(&path).is_err(), "cut at {at}");
    }
    let good = RootImage::pack(folder.path()).unwrap();
    for at in (0..good.bytes().len()).step_by(7) {
        let mut bad = good.bytes().to_vec();
        bad[at] ^= 0x81;
        // Damage in names and contents goes unnoticed; the guest must survive all of it.
        let _ = FileSystem::new(1 << 20).load(&bad);
    }
}
