//! Waiting for several files at once.

use super::time::{duration_ns, timeval_ns};
use super::user;
use super::{Call, Errno, Outcome};
use crate::arch::timer;
use crate::process::{self, Channel, FILES_MAX, SignalSet};

const POLLIN: u16 = 0x1;
const POLLOUT: u16 = 0x4;
const POLLERR: u16 = 0x8;
const POLLHUP: u16 = 0x10;
const POLLNVAL: u16 = 0x20;
const POLLRDNORM: u16 = 0x40;
const POLLWRNORM: u16 = 0x100;
const NS_PER_MS: u64 = 1_000_000;
/// Number, wanted events, found events.
const POLLFD_BYTES: usize = 8;
const SET_WORDS: usize = FILES_MAX / 64;

/// What has happened to an open file, as `poll` says it.
fn events(call: &Call<'_>, fd: u64) -> u16 {
    let Ok(file) = user::file(&call.task.files, fd) else {
        return POLLNVAL;
    };
    let readiness = file.readiness();
    let mut events = 0;
    if readiness.can_read {
        events |= POLLIN | POLLRDNORM;
    }
    if readiness.can_write {
        events |= POLLOUT | POLLWRNORM;
    }
    if readiness.hung_up {
        events |= if file.can_write() { POLLERR } else { POLLHUP };
    }
    events
}

fn deadline(ns: Option<u64>) -> Option<u64> {
    ns.map(|ns| timer::now_ns().saturating_add(ns))
}

pub(super) fn poll(call: &Call<'_>, fds: u64, count: u64, timeout_ms: u64) -> Outcome {
    let timeout_ms = user::int(timeout_ms);
    wait(
        call,
        fds,
        count,
        u64::try_from(timeout_ms).ok().map(|ms| ms * NS_PER_MS),
    )
}

pub(super) fn ppoll(call: &Call<'_>, fds: u64, count: u64, timeout: u64, mask: u64) -> Outcome {
    let timeout_ns = if timeout == 0 {
        None
    } else {
        Some(duration_ns(timeout)?)
    };
    set_mask(call, mask)?;
    wait(call, fds, count, timeout_ns)
}

fn set_mask(call: &Call<'_>, mask: u64) -> Result<(), Errno> {
    if mask != 0 {
        call.task
            .signals
            .suspend_with(SignalSet::new(user::get(mask)?));
    }
    Ok(())
}

fn wait(call: &Call<'_>, addr: u64, count: u64, timeout_ns: Option<u64>) -> Outcome {
    let count = usize::try_from(count)
        .ok()
        .filter(|&count| count <= FILES_MAX)
        .ok_or(Errno::INVAL)?;
    let mut fds = user::bytes(addr, count * POLLFD_BYTES)?;
    let look = || {
        let mut ready = 0;
        for fd in fds.chunks_exact_mut(POLLFD_BYTES) {
            let number = u32::from_le_bytes([fd[0], fd[1], fd[2], fd[3]]);
            let wanted = u16::from_le_bytes([fd[4], fd[5]]) | POLLERR | POLLHUP | POLLNVAL;
            // Negative numbers are left out.
            let found = if (number as i32) < 0 {
                0
            } else {
                events(call, u64::from(number)) & wanted
            };
            fd[6..].copy_from_slice(&found.to_le_bytes());
            ready += u64::from(found != 0);
        }
        (ready != 0).then_some(ready)
    };
    let ready = process::wait_until_deadline(Channel::ANY, deadline(timeout_ns), look)?;
    user::put_bytes(addr, &fds)?;
    Ok(ready.unwrap_or(0))
}

pub(super) fn select(call: &Call<'_>, [count, read, write, except, timeout]: [u64; 5]) -> Outcome {
    let timeout_ns = if timeout == 0 {
        None
    } else {
        Some(timeval_ns(timeout)?)
    };
    select_sets(call, count, [read, write, except], timeout_ns)
}

pub(super) fn pselect6(
    call: &Call<'_>,
    [count, read, write, except, timeout, mask]: [u64; 6],
) -> Outcome {
    let timeout_ns = if timeout == 0 {
        None
    } else {
        Some(duration_ns(timeout)?)
    };
    if mask != 0 {
        let [set, _size]: [u64; 2] = user::get(mask)?;
        set_mask(call, set)?;
    }
    select_sets(call, count, [read, write, except], timeout_ns)
}

fn select_sets(call: &Call<'_>, count: u64, sets: [u64; 3], timeout_ns: Option<u64>) -> Outcome {
    const EVENTS: [u16; 3] = [POLLIN | POLLHUP | POLLERR, POLLOUT | POLLERR, 0];
    let count = usize::try_from(count & u64::from(u32::MAX))
        .ok()
        .filter(|&count| count <= FILES_MAX)
        .ok_or(Errno::INVAL)?;
    let nr_words = count.div_ceil(64);
    let mut wanted = [[0_u64; SET_WORDS]; 3];
    for (set, &addr) in wanted.iter_mut().zip(&sets) {
        for (at, word) in set.iter_mut().take(nr_words).enumerate() {
            if addr != 0 {
                *word = user::get(addr.checked_add(at as u64 * 8).ok_or(Errno::FAULT)?)?;
            }
        }
    }
    let look = || {
        let mut found = [[0_u64; SET_WORDS]; 3];
        let mut ready = 0;
        for fd in 0..count {
            let (word, bit) = (fd / 64, 1 << (fd % 64));
            if wanted.iter().all(|set| set[word] & bit == 0) {
                continue;
            }
            let events = events(call, fd as u64);
            if events == POLLNVAL {
                return Some(Err(Errno::BADF));
            }
            for ((set, want), mask) in found.iter_mut().zip(&wanted).zip(EVENTS) {
                if want[word] & bit != 0 && events & mask != 0 {
                    set[word] |= bit;
                    ready += 1;
                }
            }
        }
        (ready != 0).then_some(Ok((ready, found)))
    };
    let result = process::wait_until_deadline(Channel::ANY, deadline(timeout_ns), look)?;
    let (ready, found) = result.unwrap_or(Ok((0, [[0; SET_WORDS]; 3])))?;
    for (set, &addr) in found.iter().zip(&sets) {
        if addr != 0 {
            user::put_words(addr, &set[..nr_words])?;
        }
    }
    Ok(ready)
}
