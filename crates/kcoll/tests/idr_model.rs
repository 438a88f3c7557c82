//! Random operations on [`Idr`] against a `BTreeMap`, with allocations that fail.

use std::collections::BTreeMap;

use kmm_kcoll::idr::{Idr, IdrError};
use kmm_sim::{FailingHeap, Rng, seeded};

#[global_allocator]
static HEAP: FailingHeap = FailingHeap;

fn lowest_free(model: &BTreeMap<u32, u64>, ids: core::ops::RangeInclusive<u32>) -> Option<u32> {
    ids.into_iter().find(|id| !model.contains_key(id))
}

fn run(rng: &mut Rng, first: u32, last: u32) {
    let mut idr = Idr::new(first..=last);
    let mut model = BTreeMap::new();
    let mut last_cyclic = None;
    let mut failures = 0;
    for op in 0..20_000 {
        let id = first.saturating_add(u32::try_from(rng.below(400)).unwrap());
        let growing = (op / 1500) % 2 == 0;
        match rng.below(if growing { 4 } else { 9 }) {
            choice @ 0..=2 => {
                let cyclic = choice == 0;
                let value = rng.next_u64();
                let expected = if cyclic {
                    let above = last_cyclic.map_or(Some(first), |id: u32| id.checked_add(1));
                    above
                        .and_then(|above| lowest_free(&model, above..=last))
                        .or_else(|| lowest_free(&model, first..=last))
                } else {
                    lowest_free(&model, first..=last)
                };
                let allowed = if rng.one_in(3) { 100 } else { 0 };
                let done = FailingHeap::after(allowed, || {
                    if cyclic {
                        idr.alloc_cyclic(value)
                    } else {
                        idr.alloc(value)
                    }
                });
                match done {
                    Ok(id) => {
                        assert_eq!(Some(id), expected);
                        model.insert(id, value);
                        if cyclic {
                            last_cyclic = Some(id);
                        }
                    }
                    Err(refused) => {
                        assert_eq!(refused.value, value);
                        if refused.error == IdrError::OutOfMemory {
                            assert_eq!(allowed, 0);
                            failures += 1;
                        } else {
                            assert_eq!((refused.error, expected), (IdrError::NoFreeId, None));
                        }
                    }
                }
            }
            3 => {
                if let Some(value) = idr.get_mut(id) {
                    *value += 1;
                }
                model.entry(id).and_modify(|value| *value += 1);
            }
            _ => assert_eq!(FailingHeap::after(0, || idr.remove(id)), model.remove(&id)),
        }
        assert_eq!(idr.len(), model.len());
        assert_eq!(idr.is_empty(), model.is_empty());
        assert_eq!(idr.get(id), model.get(&id));
        let next = model.range(id..).next();
        assert_eq!(idr.next(id), next.map(|(&id, value)| (id, value)));
        if op % 16 == 0 {
            assert!(idr.iter().eq(model.iter().map(|(&id, value)| (id, value))));
        }
    }
    assert!(failures > 0, "no allocation failed");
}

#[test]
fn random_operations_match_the_model() {
    seeded(1, |rng| {
        run(rng, 1, 300);
        run(rng, 0, 0);
        run(rng, 300, 100_000);
        run(rng, u32::MAX - 200, u32::MAX);
    });
}

#[test]
fn a_cyclic_id_rests_until_the_circle_closes() {
    let mut idr = Idr::new(2..=5);
    let mut seen = Vec::new();
    for _ in 0..8 {
        let id = idr.alloc_cyclic(()).unwrap();
        seen.push(id);
        idr.remove(id);
    }
    assert_eq!(seen, [2, 3, 4, 5, 2, 3, 4, 5]);
}

#[test]
fn overhead_is_as_documented() {
    let mut idr = Idr::new(1..=32_768);
    assert_eq!(idr.heap_bytes(), 0);
    for n in 0..32_768_u64 {
        idr.alloc(n).unwrap();
    }
    assert_eq!(idr.alloc(0).unwrap_err().error, IdrError::NoFreeId);
    // 32 768 places of 4 bytes; 512 + 8 + 1 words of free bits; values of 16 bytes with their tags, 256 to a page, and 24
    // bytes of directory for each page.
    let table = 32_768 * 4 + (512 + 8 + 1) * 8;
    let values = 32_768 * 16 + 128 * 24;
    assert_eq!(idr.heap_bytes(), table + values);
}

#[test]
#[should_panic(expected = "no ids to hand out")]
#[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
fn an_empty_range_of_ids_is_refused() {
    _ = Idr::<()>::new(5..=4);
}
