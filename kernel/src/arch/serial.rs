//! The serial line COM1: output by waiting, input by interrupt (and by the tick) into a ring.
#![expect(unsafe_code, reason = "owns the UART's ports")]

use core::fmt::{self, Write};

use uart_16550::SerialPort;
use x86_64::instructions::port::Port;

use crate::sync::IrqSpinLock;

const COM1: u16 = 0x3f8;
const INTERRUPT_ENABLE: u16 = COM1 + 1;
const RECEIVED_DATA_AVAILABLE: u8 = 1;
/// COM1's line on the ISA bus.
pub const ISA_IRQ: u8 = 4;
const RING_LEN: usize = 1024;

static UART: IrqSpinLock<SerialPort> = IrqSpinLock::new({
    // SAFETY: the standard ports of COM1, used by nobody else.
    unsafe { SerialPort::new(COM1) }
});
static INPUT: IrqSpinLock<Ring> = IrqSpinLock::new(Ring {
    bytes: [0; RING_LEN],
    head: 0,
    len: 0,
});

struct Ring {
    bytes: [u8; RING_LEN],
    head: usize,
    len: usize,
}

impl Ring {
    fn push(&mut self, byte: u8) {
        self.bytes[(self.head + self.len) % RING_LEN] = byte;
        self.len += 1;
    }

    fn pop(&mut self) -> Option<u8> {
        if self.len == 0 {
            return None;
        }
        let byte = self.bytes[self.head];
        self.head = (self.head + 1) % RING_LEN;
        self.len -= 1;
        Some(byte)
    }
}

/// Speed, format, FIFO. The UART's interrupt stays off.
pub fn init() {
    UART.lock().init();
    set_interrupt_enable(0);
}

/// Lets the UART interrupt when a byte arrives.
pub fn enable_interrupt() {
    set_interrupt_enable(RECEIVED_DATA_AVAILABLE);
}

fn set_interrupt_enable(bits: u8) {
    // SAFETY: COM1's interrupt enable register.
    unsafe { Port::<u8>::new(INTERRUPT_ENABLE).write(bits) }
}

struct LineFeeds<'a>(&'a mut SerialPort);

impl Write for LineFeeds<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.0.send_raw(b'\r');
            }
            self.0.send_raw(byte);
        }
        Ok(())
    }
}

/// Writes formatted text; a line feed becomes carriage return and line feed.
pub fn write_fmt(args: fmt::Arguments<'_>) {
    let mut uart = UART.lock();
    // The writer above never fails; a `Display` that fails has printed what it could.
    let _ = LineFeeds(&mut uart).write_fmt(args);
}

/// Writes bytes as they are.
pub fn write_bytes(bytes: &[u8]) {
    let mut uart = UART.lock();
    for &byte in bytes {
        uart.send_raw(byte);
    }
}

/// Takes the lock away from whoever held it when the kernel panicked: nobody else will run again.
pub fn force_unlock() {
    if UART.is_locked() {
        // SAFETY: only the panic path calls this; the holder never continues.
        unsafe { UART.force_unlock() }
    }
}

/// Moves what the UART has received into the ring. Called by the interrupt and by the tick. What does not fit stays in the UART.
pub fn poll() {
    let mut input = INPUT.lock();
    let mut uart = UART.lock();
    while input.len < RING_LEN {
        let Ok(byte) = uart.try_receive() else { break };
        input.push(byte);
    }
}

/// The next byte that was typed, if there is one.
pub fn read_byte() -> Option<u8> {
    if let Some(byte) = INPUT.lock().pop() {
        return Some(byte);
    }
    poll();
    INPUT.lock().pop()
}
