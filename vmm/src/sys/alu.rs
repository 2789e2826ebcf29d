//! Arithmetic as this CPU does it, flags included: also those that the manual leaves open.

use std::arch::asm;

/// CF PF AF ZF SF OF.
pub(crate) const STATUS: u64 = 0x8d5;

/// An instruction with two operands, of which the first is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Shl,
    Shr,
    Sar,
    Rol,
    Ror,
    Bt,
    Bts,
    Btr,
    Btc,
    Imul,
    Bsf,
    Bsr,
    Inc,
    Dec,
    Neg,
}

/// `$name` on registers of each size: `$one` is the first operand, `$other` the text behind it.
macro_rules! widths {
    ($size:expr, $a:ident, $b:expr, $flags:ident, $name:literal, $($size_is:literal $first:literal $second:literal),+) => {
        match $size {
            $($size_is => {
                // SAFETY: only the named registers are changed, and of the flags those of arithmetic, which Rust
                // expects to be. What is pushed is popped again.
                unsafe {
                    asm!(
                        "push {f}",
                        "popfq",
                        concat!($name, " ", $first, $second),
                        "pushfq",
                        "pop {f}",
                        f = inout(reg) $flags,
                        a = inout(reg) $a,
                        in("rcx") $b,
                    );
                }
            })+
            _ => {}
        }
    };
}

macro_rules! two {
    ($size:expr, $a:ident, $b:expr, $flags:ident, $name:literal) => {
        widths!($size, $a, $b, $flags, $name, 1 "{a:l}" ", cl", 2 "{a:x}" ", cx", 4 "{a:e}" ", ecx", 8 "{a:r}" ", rcx")
    };
}

macro_rules! wide {
    ($size:expr, $a:ident, $b:expr, $flags:ident, $name:literal) => {
        widths!($size, $a, $b, $flags, $name, 2 "{a:x}" ", cx", 4 "{a:e}" ", ecx", 8 "{a:r}" ", rcx")
    };
}

macro_rules! shift {
    ($size:expr, $a:ident, $b:expr, $flags:ident, $name:literal) => {
        widths!($size, $a, $b, $flags, $name, 1 "{a:l}" ", cl", 2 "{a:x}" ", cl", 4 "{a:e}" ", cl", 8 "{a:r}" ", cl")
    };
}

macro_rules! one {
    ($size:expr, $a:ident, $b:expr, $flags:ident, $name:literal) => {
        widths!($size, $a, $b, $flags, $name, 1 "{a:l}" "", 2 "{a:x}" "", 4 "{a:e}" "", 8 "{a:r}" "")
    };
}

/// What `op` on operands of `size` bytes (1, 2, 4, 8; a bit's operation and a multiplication not 1) makes of `a`, and
/// of `flags`; above `size` bytes it is anything.
pub(crate) fn apply(op: Op, size: usize, a: u64, b: u64, flags: u64) -> (u64, u64) {
    let (mut a, mut status) = (a, flags & STATUS | 2);
    match op {
        Op::Add => two!(size, a, b, status, "add"),
        Op::Or => two!(size, a, b, status, "or"),
        Op::Adc => two!(size, a, b, status, "adc"),
        Op::Sbb => two!(size, a, b, status, "sbb"),
        Op::And => two!(size, a, b, status, "and"),
        Op::Sub => two!(size, a, b, status, "sub"),
        Op::Xor => two!(size, a, b, status, "xor"),
        Op::Shl => shift!(size, a, b, status, "shl"),
        Op::Shr => shift!(size, a, b, status, "shr"),
        Op::Sar => shift!(size, a, b, status, "sar"),
        Op::Rol => shift!(size, a, b, status, "rol"),
        Op::Ror => shift!(size, a, b, status, "ror"),
        Op::Bt => wide!(size, a, b, status, "bt"),
        Op::Bts => wide!(size, a, b, status, "bts"),
        Op::Btr => wide!(size, a, b, status, "btr"),
        Op::Btc => wide!(size, a, b, status, "btc"),
        Op::Bsf => wide!(size, a, b, status, "bsf"),
        Op::Bsr => wide!(size, a, b, status, "bsr"),
        Op::Imul => wide!(size, a, b, status, "imul"),
        Op::Inc => one!(size, a, b, status, "inc"),
        Op::Dec => one!(size, a, b, status, "dec"),
        Op::Neg => one!(size, a, b, status, "neg"),
    }
    (a, flags & !STATUS | status & STATUS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_flags_are_the_cpus() {
        let (cf, zf, sf, of, pf, af) = (1, 0x40, 0x80, 0x800, 4, 0x10);
        let low = |size: usize, (a, flags): (u64, u64)| (a & (u64::MAX >> (64 - 8 * size)), flags);
        assert_eq!(low(1, apply(Op::Add, 1, 0xff, 1, 0x200)), (0, 0x200 | cf | zf | pf | af));
        assert_eq!(low(4, apply(Op::Sub, 4, 0, 1, 0)), (0xffff_ffff, cf | sf | pf | af));
        assert_eq!(low(8, apply(Op::Adc, 8, 1, 1, cf)), (3, pf));
        assert_eq!(low(2, apply(Op::Add, 2, 0x7fff, 1, 0)), (0x8000, sf | of | pf | af));
        assert_eq!(low(8, apply(Op::Shl, 8, 1, 63, 0)).0, 1 << 63);
        assert_eq!(low(4, apply(Op::Bts, 4, 0, 5, cf)), (0x20, 0));
        assert_eq!(low(8, apply(Op::Imul, 8, 3, u64::MAX, 0)).0, (-3i64).cast_unsigned());
        assert_eq!(low(1, apply(Op::Inc, 1, 0xff, 0, cf)), (0, cf | zf | pf | af));
    }
}
