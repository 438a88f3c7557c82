//! What is counted: names and order of Linux 6.1.
#![allow(missing_docs, reason = "tests")]

use kmm_frame::{NodeItem, NumaItem, VmEvent, VmEventCounts, ZoneCounts, ZoneItem, ZoneType};

#[test]
fn counters_have_linux_names_in_linux_order() {
    let first_and_last = [
        (ZoneItem::ALL[0].name(), ZoneItem::ALL[10].name()),
        (NumaItem::ALL[0].name(), NumaItem::ALL[5].name()),
        (NodeItem::ALL[0].name(), NodeItem::ALL[42].name()),
        (VmEvent::ALL[0].name(), VmEvent::ALL[4].name()),
    ];
    assert_eq!(
        first_and_last,
        [
            ("nr_free_pages", "nr_free_cma"),
            ("numa_hit", "numa_other"),
            ("nr_inactive_anon", "pgpromote_candidate"),
            ("pgpgin", "pgalloc_dma"),
        ]
    );
    assert_eq!(
        (ZoneItem::COUNT, NumaItem::COUNT, NodeItem::COUNT),
        (11, 6, 43)
    );
    for (index, event) in VmEvent::ALL.into_iter().enumerate() {
        assert_eq!(event.index(), index);
    }
}

#[test]
fn events_of_a_zone_have_its_name() {
    for zone in ZoneType::ALL {
        // 64-bit Linux has no HighMem; what we would count there goes to Normal.
        let shown = if zone == ZoneType::HighMem {
            ZoneType::Normal
        } else {
            zone
        };
        let name = shown.name().to_lowercase();
        assert_eq!(VmEvent::pgalloc(zone).name(), format!("pgalloc_{name}"));
        assert_eq!(
            VmEvent::allocstall(zone).name(),
            format!("allocstall_{name}")
        );
        assert_eq!(VmEvent::pgskip(zone).name(), format!("pgskip_{name}"));
    }
}

#[test]
fn counts_are_kept_by_counter() {
    let mut counts = ZoneCounts::from_fn(|item| item.index() as u64);
    counts[ZoneItem::Mlock] += 10;
    let mut sum = ZoneCounts::ZERO;
    sum.add(&counts);
    sum.add(&counts);
    assert_eq!(sum[ZoneItem::Mlock], 2 * (7 + 10));
    assert!(
        sum.iter()
            .eq(ZoneItem::ALL.map(|item| (item.name(), sum[item])))
    );
    assert_eq!(VmEventCounts::default(), VmEventCounts::ZERO);
}
