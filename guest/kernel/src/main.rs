//! The kernel's binary: the libOS, its entry points and its panic handler, linked together.
#![no_std]
#![no_main]

use core::fmt::Write as _;
use core::panic::PanicInfo;

unifork_hal::handlers!(unifork_kernel::start, unifork_kernel::serve, unifork_kernel::allows);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut text = unifork_kernel::Text::<512>::new();
    let _cut_off = write!(text, "{info}");
    unifork_hal::panicked(text.as_str())
}
