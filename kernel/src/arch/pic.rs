//! The two 8259 interrupt controllers: moved out of the way of exceptions and masked, or used where there is no APIC.
#![expect(unsafe_code, reason = "port I/O")]

use x86_64::instructions::port::Port;

/// Vector of line 0.
pub const FIRST_VECTOR: u8 = 0x20;
const MAIN_COMMAND: u16 = 0x20;
const MAIN_DATA: u16 = 0x21;
const SECOND_COMMAND: u16 = 0xa0;
const SECOND_DATA: u16 = 0xa1;
const CASCADE_LINE: u8 = 2;

const INIT_WITH_ICW4: u8 = 0x11;
const MODE_8086: u8 = 0x01;
const END_OF_INTERRUPT: u8 = 0x20;

fn write(port: u16, value: u8) {
    // SAFETY: the ports of the 8259s.
    unsafe { Port::<u8>::new(port).write(value) };
    // SAFETY: a port that no device uses; the write gives slow controllers time.
    unsafe { Port::<u8>::new(0x80).write(0) };
}

/// Lines 0-15 at vectors from [`FIRST_VECTOR`], all of them masked but those in `enabled_lines`.
pub fn init(enabled_lines: u16) {
    write(MAIN_COMMAND, INIT_WITH_ICW4);
    write(SECOND_COMMAND, INIT_WITH_ICW4);
    write(MAIN_DATA, FIRST_VECTOR);
    write(SECOND_DATA, FIRST_VECTOR + 8);
    write(MAIN_DATA, 1 << CASCADE_LINE);
    write(SECOND_DATA, CASCADE_LINE);
    write(MAIN_DATA, MODE_8086);
    write(SECOND_DATA, MODE_8086);
    let [main, second] = (!enabled_lines).to_le_bytes();
    write(MAIN_DATA, main);
    write(SECOND_DATA, second);
}

/// The interrupt of `line` has been handled.
pub fn end_of_interrupt(line: u8) {
    if line >= 8 {
        write(SECOND_COMMAND, END_OF_INTERRUPT);
    }
    write(MAIN_COMMAND, END_OF_INTERRUPT);
}
