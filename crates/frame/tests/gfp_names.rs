//! Flags print by the names of Linux 6.1. `linux-6.1/gfp-names` was read from that kernel's tracing/events/kmem.
#![allow(missing_docs, reason = "tests")]

use kmm_frame::Gfp;

const TABLE: &str = include_str!("linux-6.1/gfp-names");

fn table() -> Vec<(u32, &'static str)> {
    let entry = |line: &'static str| {
        let (bits, name) = line.split_once(' ').unwrap();
        let bits = u32::from_str_radix(bits.trim_start_matches("0x"), 16).unwrap();
        (bits, name)
    };
    TABLE.lines().map(entry).collect()
}

/// What Linux's `format_flags` prints, told from its table alone.
fn expected(mut bits: u32) -> String {
    let mut words = Vec::new();
    for (mask, name) in table() {
        if bits & mask == mask {
            words.push(name.to_owned());
            bits &= !mask;
        }
    }
    if bits != 0 {
        words.push(format!("{bits:#x}"));
    }
    words.join("|")
}

#[test]
fn every_flag_has_its_bit_and_its_name() {
    for (bits, name) in table() {
        // NOWAIT, which comes first, is the bit of KSWAPD_RECLAIM, and NOIO the two bits of RECLAIM.
        let first = table()
            .into_iter()
            .find(|(mask, _)| *mask == bits)
            .unwrap()
            .1;
        assert_eq!(Gfp::from_bits(bits).unwrap().to_string(), first);
        assert!(
            first == name
                || [
                    ("GFP_NOWAIT", "__GFP_KSWAPD_RECLAIM"),
                    ("GFP_NOIO", "__GFP_RECLAIM")
                ]
                .contains(&(first, name))
        );
    }
    let single: u32 = table()
        .iter()
        .filter(|(bits, _)| bits.count_ones() == 1)
        .map(|(bits, _)| bits)
        .sum();
    assert_eq!(single, Gfp::all().bits() + Gfp::NOWAIT.bits());
}

#[test]
fn sets_of_flags_print_as_in_linux() {
    for (gfp, text) in [
        (Gfp::KERNEL, "GFP_KERNEL"),
        (Gfp::KERNEL | Gfp::COMP, "GFP_KERNEL|__GFP_COMP"),
        (
            Gfp::KERNEL_ACCOUNT | Gfp::ZERO,
            "GFP_KERNEL_ACCOUNT|__GFP_ZERO",
        ),
        (Gfp::NOWAIT | Gfp::NOWARN, "GFP_NOWAIT|__GFP_NOWARN"),
        (Gfp::empty(), ""),
    ] {
        assert_eq!(gfp.to_string(), text);
    }
    // Every pair of bits and every composition with any bit, those without a name too.
    for high in 0..32 {
        for low in 0..32 {
            let bits = 1 << high | 1 << low;
            assert_eq!(Gfp::from_bits_retain(bits).to_string(), expected(bits));
        }
        for (mask, _) in table() {
            let bits = mask | 1 << high;
            assert_eq!(Gfp::from_bits_retain(bits).to_string(), expected(bits));
        }
    }
}

#[test]
fn names_of_old_are_todays_flags() {
    assert_eq!(Gfp::WAIT, Gfp::DIRECT_RECLAIM | Gfp::KSWAPD_RECLAIM);
    assert_eq!(Gfp::REPEAT, Gfp::RETRY_MAYFAIL);
    assert_eq!(Gfp::KERNEL | Gfp::COLD, Gfp::KERNEL);
    assert_eq!(Gfp::KERNEL, Gfp::WAIT | Gfp::IO | Gfp::FS);
}
