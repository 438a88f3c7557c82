//! Which interrupt means what: the tick, the serial line, and those to be ignored.

use super::trap::TrapFrame;
use super::{acpi, apic, interrupts, pic, serial, timer};
use crate::smp;

/// Vector of the local APIC's timer.
pub const TIMER_VECTOR: u8 = 0x40;
/// Vector of the serial line by way of the I/O APIC.
const SERIAL_VECTOR: u8 = 0x41;
/// Vector by which CPUs ask each other to look at what is wanted of them.
pub const REQUEST_VECTOR: u8 = 0x42;
const PIT_LINE: u8 = 0;

/// Chooses the interrupt controllers: APICs if the MADT has them, else the PICs.
pub fn init() {
    let apics = acpi::platform().and_then(|platform| Some((platform, apic::init_local(platform)?)));
    let Some((platform, local)) = apics else {
        pic::init(1 << PIT_LINE | 1 << serial::ISA_IRQ);
        println!("irq: legacy PICs");
        return;
    };
    pic::init(0);
    if !apic::init_io(
        platform,
        platform.isa_interrupt(serial::ISA_IRQ),
        SERIAL_VECTOR,
        local.id(),
    ) {
        println!("irq: no I/O APIC serves the serial line; it is polled by the tick");
    }
}

/// Handles the interrupt of `frame`, interrupts off.
pub(super) fn handle(frame: &mut TrapFrame) {
    const PIT_VECTOR: u8 = pic::FIRST_VECTOR + PIT_LINE;
    const PIC_SERIAL_VECTOR: u8 = pic::FIRST_VECTOR + serial::ISA_IRQ;
    const PIC_LAST_VECTOR: u8 = pic::FIRST_VECTOR + 15;
    interrupts::enter();
    match u8::try_from(frame.vector).unwrap_or(apic::SPURIOUS_VECTOR) {
        TIMER_VECTOR => {
            end_of_interrupt();
            timer::tick(frame);
        }
        SERIAL_VECTOR => {
            end_of_interrupt();
            serial::poll();
        }
        REQUEST_VECTOR => {
            end_of_interrupt();
            smp::on_request();
        }
        PIT_VECTOR => {
            pic::end_of_interrupt(PIT_LINE);
            timer::tick(frame);
        }
        PIC_SERIAL_VECTOR => {
            pic::end_of_interrupt(serial::ISA_IRQ);
            serial::poll();
        }
        // A PIC's or the APIC's spurious interrupt wants no end.
        pic::FIRST_VECTOR..=PIC_LAST_VECTOR | apic::SPURIOUS_VECTOR => {}
        vector => {
            end_of_interrupt();
            println!("irq: unexpected vector {vector:#x}");
        }
    }
    interrupts::leave();
}

fn end_of_interrupt() {
    if let Some(local) = apic::local() {
        local.end_of_interrupt();
    }
}
