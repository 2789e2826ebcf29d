//! Shared memory for LLMP that nobody has to clean up.
//!
//! LibAFL's segments (System V) outlive a process that is killed. Linux lets a segment be attached that
//! is already marked for removal, and frees it when the last process that has it attached is gone
//! (shmctl(2), NOTES), so ours are marked as they are made.

use libafl_bolts::Error;
use libafl_bolts::shmem::unix_shmem::{UnixShMem, UnixShMemProvider};
use libafl_bolts::shmem::{ShMem as _, ShMemId, ShMemProvider};

/// Makes and attaches segments.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segments {
    inner: UnixShMemProvider,
}

impl ShMemProvider for Segments {
    type ShMem = UnixShMem;

    fn new() -> Result<Self, Error> {
        Ok(Self { inner: UnixShMemProvider::new()? })
    }

    fn new_shmem(&mut self, map_size: usize) -> Result<UnixShMem, Error> {
        let segment = self.inner.new_shmem(map_size)?;
        // SAFETY: IPC_RMID reads no buffer. The segment is ours and attached, so it stays until it is
        // detached.
        let result = unsafe { libc::shmctl(segment.id().into(), libc::IPC_RMID, std::ptr::null_mut()) };
        if result != 0 {
            return Err(Error::last_os_error("cannot mark shared memory for removal"));
        }
        Ok(segment)
    }

    fn shmem_from_id_and_size(&mut self, id: ShMemId, size: usize) -> Result<UnixShMem, Error> {
        self.inner.shmem_from_id_and_size(id, size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_shared_and_gone_with_its_last_user() {
        let mut segments = Segments::new().unwrap();
        let mut one = segments.new_shmem(8192).unwrap();
        let id = one.id();
        let other = segments.clone_ref(&one).unwrap();
        one[5000] = 7;
        drop(one);
        assert_eq!(other[5000], 7);
        drop(other);
        assert!(segments.shmem_from_id_and_size(id, 8192).is_err());
    }
}
