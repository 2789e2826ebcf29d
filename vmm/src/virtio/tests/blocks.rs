//! Disks.

use std::io::Write as _;
use std::sync::Arc;

use super::super::{DeviceConfig, Disk, Virtio};
use super::driver::{Buffer, Driver, WAYS, Way};

const HEADER: u64 = 0x20_0000;
const DATA: u64 = 0x21_0000;
const STATUS: u64 = 0x22_0000;
const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// An image whose sector N consists of the byte N, with an incomplete sector at its end.
struct Image {
    file: tempfile::NamedTempFile,
    disk: Arc<Disk>,
}

fn image(sectors: u8) -> Image {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for sector in 0..sectors {
        file.write_all(&[sector; 512]).unwrap();
    }
    file.write_all(&[0xee; 100]).unwrap();
    let disk = Disk::open(file.path()).unwrap();
    Image { file, disk }
}

fn disk(image: &Image) -> DeviceConfig {
    DeviceConfig::Disk { disk: Arc::clone(&image.disk), read_only: false }
}

/// A request; its status and the bytes of the answer.
fn request(driver: &mut Driver, kind: u32, sector: u64, data: Buffer) -> (u8, u32) {
    driver.put(HEADER, &[&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat());
    driver.put(STATUS, &[0xaa]);
    let buffers = [Buffer::Out(HEADER, 16), data, Buffer::In(STATUS, 1)];
    let bytes = driver.request(0, &buffers).expect("an answer");
    (driver.get(STATUS, 1)[0], bytes)
}

fn read(driver: &mut Driver, sector: u64, bytes: u32) -> Vec<u8> {
    assert_eq!(request(driver, 0, sector, Buffer::In(DATA, bytes)), (OK, bytes + 1));
    driver.get(DATA, bytes as usize)
}

fn write(driver: &mut Driver, sector: u64, data: &[u8]) -> u8 {
    driver.put(DATA, data);
    request(driver, 1, sector, Buffer::Out(DATA, data.len() as u32)).0
}

#[test]
fn what_is_written_is_read_again_and_the_image_stays_as_it_is() {
    for way in WAYS {
        let image = image(40);
        let before = std::fs::read(image.file.path()).unwrap();
        let mut driver = Driver::start(way, &[disk(&image)], 1);
        assert_eq!(driver.config(0, 4), 41, "{way:?}: sectors");
        assert_eq!(driver.config(20, 4), 512, "{way:?}: bytes of one");
        // Sectors 7 to 10: two clusters.
        let expected: Vec<u8> = (7..11u8).flat_map(|sector| [sector; 512]).collect();
        assert_eq!(read(&mut driver, 7, 2048), expected, "{way:?}");
        assert_eq!(driver.interrupts(), 1, "{way:?}");
        assert_eq!(driver.interrupts(), 0, "{way:?}");
        let new: Vec<u8> = (0..1024).map(|i| (i / 3) as u8 | 0x80).collect();
        assert_eq!(write(&mut driver, 7, &new), OK);
        let expected: Vec<u8> = [&[6; 512][..], &new, &[9; 512]].concat();
        assert_eq!(read(&mut driver, 6, 2048), expected, "{way:?}");
        let end = read(&mut driver, 40, 512);
        assert_eq!((&end[..100], &end[100..]), (&[0xee; 100][..], &[0; 412][..]), "{way:?}");
        assert_eq!(request(&mut driver, 4, 0, Buffer::Out(DATA, 0)).0, OK, "flush");
        assert_eq!(std::fs::read(image.file.path()).unwrap(), before);
    }
}

#[test]
fn what_a_disk_cannot_do_is_an_answer() {
    let image = image(8);
    let mut driver = Driver::start(Way::Modern, &[disk(&image)], 1);
    for (sector, bytes) in [(9, 512), (8, 1024), (0, 100), (u64::MAX, 512), (u64::MAX / 512 + 1, 512)] {
        assert_eq!(
            request(&mut driver, 0, sector, Buffer::In(DATA, bytes)),
            (IO_ERROR, 1),
            "{sector} {bytes}"
        );
        assert_eq!(
            request(&mut driver, 1, sector, Buffer::Out(DATA, bytes)),
            (IO_ERROR, 1),
            "{sector} {bytes}"
        );
    }
    assert_eq!(request(&mut driver, 99, 0, Buffer::In(DATA, 512)), (UNSUPPORTED, 1));
    assert_eq!(request(&mut driver, 8, 0, Buffer::In(DATA, 20)), (OK, 21));
    assert_eq!(driver.get(DATA, 20), b"unifork disk\0\0\0\0\0\0\0\0");
    assert_eq!(driver.status() & 0x40, 0, "nothing of it breaks the device");
}

#[test]
fn a_read_only_disk_says_so_and_is_not_written_to() {
    let image = image(8);
    let config = DeviceConfig::Disk { disk: Arc::clone(&image.disk), read_only: true };
    let mut driver = Driver::start(Way::Legacy, &[config], 1);
    assert_eq!(driver.features() >> 5 & 1, 1);
    assert_eq!(write(&mut driver, 1, &[9; 512]), IO_ERROR);
    assert_eq!(read(&mut driver, 1, 512), [1; 512]);
}

#[test]
fn a_disk_is_put_back_and_goes_into_a_file() {
    for way in WAYS {
        let image = image(16);
        let mut driver = Driver::start(way, &[disk(&image)], 1);
        assert_eq!(write(&mut driver, 3, &[0x33; 512]), OK);
        driver.interrupts();
        let snapshot = driver.virtio.snapshot();
        let (memory, queues) = (driver.memory.ram_bytes().to_vec(), driver.queues.clone());
        assert_eq!(write(&mut driver, 3, &[0x44; 512]), OK);
        assert_eq!(write(&mut driver, 12, &[0x55; 1024]), OK);
        assert!(driver.virtio != snapshot, "{way:?}");
        driver.virtio.put_back(&snapshot);
        driver.memory.write(crate::addr::Gpa(0), &memory).unwrap();
        driver.queues.clone_from(&queues);
        assert!(driver.virtio == snapshot, "{way:?}");
        assert_eq!(read(&mut driver, 3, 512), [0x33; 512], "{way:?}");
        assert_eq!(read(&mut driver, 12, 512), [12; 512], "{way:?}");

        let bytes = postcard::to_stdvec(&snapshot).unwrap();
        let mut copy: Virtio = postcard::from_bytes(&bytes).unwrap();
        assert!(copy == snapshot);
        assert!(copy.attach(&[Arc::clone(&image.disk)]));
        driver.memory.write(crate::addr::Gpa(0), &memory).unwrap();
        (driver.virtio, driver.queues) = (copy, queues);
        assert_eq!(read(&mut driver, 3, 1024), [[0x33; 512], [4; 512]].concat(), "{way:?}");
    }
}

#[test]
fn a_disk_of_another_size_does_not_fit() {
    let (small, large) = (image(4), image(5));
    let mut virtio = Virtio::new(Way::Mmio.transport(), &[disk(&small)]);
    assert!(virtio.attach(&[Arc::clone(&small.disk)]));
    assert!(!virtio.attach(&[Arc::clone(&large.disk)]));
    assert!(!virtio.attach(&[]));
    assert!(!virtio.attach(&[Arc::clone(&small.disk), Arc::clone(&small.disk)]));
    assert!(Disk::open(std::path::Path::new("/")).is_err(), "a directory");
}

#[test]
fn a_request_may_be_cut_anywhere() {
    let image = image(16);
    let mut driver = Driver::start(Way::Mmio, &[disk(&image)], 1);
    driver.put(HEADER, &[&0u32.to_le_bytes()[..], &[0; 4], &5u64.to_le_bytes()].concat());
    let buffers = [
        Buffer::Out(HEADER, 3),
        Buffer::Out(HEADER + 3, 13),
        Buffer::In(DATA, 700),
        Buffer::In(DATA + 0x1000, 0),
        Buffer::In(DATA + 0x2000, 325),
    ];
    assert_eq!(driver.request(0, &buffers), Some(1025));
    let mut seen = driver.get(DATA, 700);
    seen.extend(driver.get(DATA + 0x2000, 325));
    assert_eq!(seen, [&[5; 512][..], &[6; 512], &[OK]].concat());
}
