//! Runs a program under ptrace up to the signal that would kill it, and leaves it there.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use unifork_vmm::introspect::{Frame, ReadMemory, Registers, Symbols, unwind};

use crate::build::Program;

/// A program stopped at the signal that would kill it. It is killed when this is dropped.
pub(crate) struct Tracee {
    child: Child,
    pub(crate) registers: Registers,
    pub(crate) symbols: Symbols,
    /// `si_addr` of the signal.
    pub(crate) fault: u64,
}

/// The signals at which a program is left.
const FATAL: [i32; 5] = [libc::SIGSEGV, libc::SIGABRT, libc::SIGILL, libc::SIGFPE, libc::SIGBUS];

impl Tracee {
    /// Runs `program mode` until it crashes.
    pub(crate) fn crash(program: &Program, mode: &str) -> Self {
        let mut symbols = Symbols::new();
        symbols.load("app", program.bytes(), 0).unwrap();
        Self::crash_with(program, mode, symbols)
    }

    /// The same, with other symbols.
    pub(crate) fn crash_with(program: &Program, mode: &str, symbols: Symbols) -> Self {
        let mut command = Command::new(&program.path);
        command.arg(OsStr::new(mode)).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: `trace_me` makes one system call, which is allowed between fork and exec.
        unsafe { command.pre_exec(trace_me) };
        let child = command.spawn().unwrap();
        let mut tracee = Self { child, registers: Registers::default(), symbols, fault: 0 };
        // The first stop is at exec, and is not the program's.
        assert_eq!(tracee.wait(), libc::SIGTRAP);
        let mut deliver = 0;
        loop {
            tracee.request(libc::PTRACE_CONT, deliver);
            let signal = tracee.wait();
            if FATAL.contains(&signal) {
                break;
            }
            deliver = usize::try_from(signal).unwrap();
        }
        tracee.read_registers();
        tracee
    }

    /// The functions of the backtrace, innermost first.
    pub(crate) fn functions(&self) -> Vec<String> {
        self.frames().iter().map(|frame| frame.function().unwrap_or("??").to_owned()).collect()
    }

    pub(crate) fn frames(&self) -> Vec<Frame> {
        unwind(&self.registers, self, &self.symbols, 100_000)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Waits for the next stop and returns its signal.
    fn wait(&self) -> i32 {
        let mut status = 0;
        // SAFETY: `status` is valid for the call to write to.
        let pid = unsafe { libc::waitpid(self.pid(), &raw mut status, 0) };
        assert_eq!(pid, self.pid(), "{}", io::Error::last_os_error());
        assert!(libc::WIFSTOPPED(status), "the program ended without crashing: status {status:#x}");
        libc::WSTOPSIG(status)
    }

    /// A ptrace request whose data argument is a number or a pointer valid for that request.
    fn request(&self, request: libc::c_uint, data: usize) {
        // SAFETY: the callers pass either a signal number or a pointer to a struct of the type that the
        // request writes.
        let result = unsafe { libc::ptrace(request, self.pid(), 0usize, data) };
        assert_ne!(result, -1, "{}", io::Error::last_os_error());
    }

    fn read_registers(&mut self) {
        // SAFETY: all-zero is a value of this struct of integers.
        let mut from: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        self.request(libc::PTRACE_GETREGS, (&raw mut from).addr());
        // SAFETY: all-zero is a value of this struct of integers and padding.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        self.request(libc::PTRACE_GETSIGINFO, (&raw mut info).addr());
        if info.si_signo != libc::SIGABRT {
            // SAFETY: the other fatal signals are faults, which set `si_addr`.
            self.fault = unsafe { info.si_addr() }.addr() as u64;
        }
        self.registers = Registers {
            rax: from.rax,
            rbx: from.rbx,
            rcx: from.rcx,
            rdx: from.rdx,
            rsi: from.rsi,
            rdi: from.rdi,
            rbp: from.rbp,
            rsp: from.rsp,
            r8: from.r8,
            r9: from.r9,
            r10: from.r10,
            r11: from.r11,
            r12: from.r12,
            r13: from.r13,
            r14: from.r14,
            r15: from.r15,
            rip: from.rip,
            rflags: from.eflags,
            fs_base: from.fs_base,
            gs_base: from.gs_base,
        };
    }

    /// The lowest address at which the program itself is mapped.
    pub(crate) fn lowest_mapping(&self) -> u64 {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid())).unwrap();
        let line = maps.lines().find(|line| line.ends_with("/program")).unwrap();
        u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap()
    }
}

fn trace_me() -> io::Result<()> {
    // SAFETY: PTRACE_TRACEME ignores its other arguments.
    match unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0usize, 0usize) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Unlike `/proc/PID/mem`, this obeys the protection of the program's pages.
impl ReadMemory for Tracee {
    fn read(&self, gva: u64, out: &mut [u8]) -> bool {
        let Ok(address) = usize::try_from(gva) else { return false };
        let local = libc::iovec { iov_base: out.as_mut_ptr().cast(), iov_len: out.len() };
        let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(address), iov_len: out.len() };
        // SAFETY: `local` describes `out`, which is borrowed mutably for the call; `remote` is an address
        // in the other process, which the kernel checks.
        let read =
            unsafe { libc::process_vm_readv(self.pid(), &raw const local, 1, &raw const remote, 1, 0) };
        usize::try_from(read).is_ok_and(|read| read == out.len())
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has then said already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
