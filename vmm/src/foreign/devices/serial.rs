//! COM1: vm-superio's 16550, whose output is kept until the run loop shows it.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial as Uart, SerialState};

/// The interrupt line: set by an edge, taken by the interrupt controller.
#[derive(Debug, Default)]
struct Line(AtomicBool);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// The first serial port.
#[derive(Debug)]
pub(crate) struct Serial {
    uart: Uart<Line, NoEvents, Vec<u8>>,
}

/// What a [`Serial`] remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SerialImage {
    registers: [u8; 9],
    input: Vec<u8>,
    edge: bool,
}

impl Serial {
    pub(crate) fn new() -> Self {
        Self { uart: Uart::new(Line::default(), Vec::new()) }
    }

    /// A port that remembers `image`; what it had written is gone.
    pub(crate) fn restore(image: &SerialImage) -> Self {
        let [low, high, ier, iir, lcr, lsr, mcr, msr, scratch] = image.registers;
        let state = SerialState {
            baud_divisor_low: low,
            baud_divisor_high: high,
            interrupt_enable: ier,
            interrupt_identification: iir,
            line_control: lcr,
            line_status: lsr,
            modem_control: mcr,
            modem_status: msr,
            scratch,
            in_buffer: image.input.clone(),
        };
        // The only error is an input longer than the FIFO; then the port starts afresh.
        let uart = Uart::from_state(&state, Line::default(), NoEvents, Vec::new());
        let uart = uart.unwrap_or_else(|_| Uart::new(Line::default(), Vec::new()));
        uart.interrupt_evt().0.store(image.edge, Ordering::Relaxed);
        Self { uart }
    }

    pub(crate) fn image(&self) -> SerialImage {
        let s = self.uart.state();
        SerialImage {
            registers: [
                s.baud_divisor_low,
                s.baud_divisor_high,
                s.interrupt_enable,
                s.interrupt_identification,
                s.line_control,
                s.line_status,
                s.modem_control,
                s.modem_status,
                s.scratch,
            ],
            input: s.in_buffer,
            edge: self.uart.interrupt_evt().0.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn read(&mut self, register: u8) -> u8 {
        self.uart.read(register)
    }

    pub(crate) fn write(&mut self, register: u8, value: u8) {
        // Writing to a Vec does not fail, nor does the line.
        let _infallible = self.uart.write(register, value);
    }

    /// How many bytes its FIFO takes.
    pub(crate) fn room(&self) -> usize {
        self.uart.fifo_capacity()
    }

    /// Gives it as much of `bytes` as its FIFO has room for; says how many.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> usize {
        let room = self.uart.fifo_capacity().min(bytes.len());
        self.uart.enqueue_raw_bytes(&bytes[..room]).unwrap_or(0)
    }

    /// A byte that went to another port that ends up on the same console.
    pub(crate) fn write_plain(&mut self, byte: u8) {
        self.uart.writer_mut().push(byte);
    }

    /// What was written since this was last called.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(self.uart.writer_mut())
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.uart.writer().is_empty()
    }

    /// Whether it has raised its interrupt since this was last asked.
    pub(crate) fn take_edge(&mut self) -> bool {
        self.uart.interrupt_evt().0.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_comes_out_and_a_copy_remembers_the_rest() {
        let mut serial = Serial::new();
        serial.write(1, 1); // interrupt on receive
        serial.write(7, 0x5a);
        for byte in b"hello" {
            serial.write(0, *byte);
        }
        assert_eq!(serial.take_output(), b"hello");
        assert_eq!(serial.receive(b"xyz"), 3);
        let mut copy = Serial::restore(&serial.image());
        assert_eq!(copy.image(), serial.image());
        assert!(copy.take_edge());
        assert_eq!((copy.read(7), copy.read(0), copy.read(0)), (0x5a, b'x', b'y'));
    }
}
