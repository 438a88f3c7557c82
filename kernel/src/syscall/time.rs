//! Calls about time. There is no clock that knows the date: time starts in 1970, at boot.

use super::user;
use super::{Errno, Outcome};
use crate::arch::timer;
use crate::process::{self, Channel};

const NS_PER_S: u64 = 1_000_000_000;
const NS_PER_US: u64 = 1000;
const TIMER_ABSTIME: u64 = 1;

/// Seconds since 1970, as files tell when they were changed.
pub fn realtime_s() -> u64 {
    timer::now_ns() / NS_PER_S
}

/// A time to wait, from a `struct timespec`.
pub(super) fn duration_ns(addr: u64) -> Result<u64, Errno> {
    let [seconds, nanoseconds]: [u64; 2] = user::get(addr)?;
    if nanoseconds >= NS_PER_S || i64::try_from(seconds).is_err() {
        return Err(Errno::INVAL);
    }
    Ok(seconds.saturating_mul(NS_PER_S).saturating_add(nanoseconds))
}

/// A time to wait, from a `struct timeval`.
pub(super) fn timeval_ns(addr: u64) -> Result<u64, Errno> {
    let [seconds, microseconds]: [u64; 2] = user::get(addr)?;
    if i64::try_from(seconds).is_err() || i64::try_from(microseconds).is_err() {
        return Err(Errno::INVAL);
    }
    Ok(seconds
        .saturating_mul(NS_PER_S)
        .saturating_add(microseconds.saturating_mul(NS_PER_US)))
}

fn put_ns(addr: u64, ns: u64) -> Result<(), Errno> {
    user::put_words(addr, &[ns / NS_PER_S, ns % NS_PER_S])
}

pub(super) fn clock_gettime(clock: u64, addr: u64) -> Outcome {
    const CLOCKS: u64 = 12;
    if clock >= CLOCKS {
        return Err(Errno::INVAL);
    }
    put_ns(addr, timer::now_ns())?;
    Ok(0)
}

pub(super) fn clock_getres(addr: u64) -> Outcome {
    if addr != 0 {
        put_ns(addr, 1)?;
    }
    Ok(0)
}

pub(super) fn gettimeofday(addr: u64) -> Outcome {
    if addr != 0 {
        let ns = timer::now_ns();
        user::put_words(addr, &[ns / NS_PER_S, ns % NS_PER_S / NS_PER_US])?;
    }
    Ok(0)
}

pub(super) fn time(addr: u64) -> Outcome {
    user::put_if(addr, realtime_s())?;
    Ok(realtime_s())
}

pub(super) fn nanosleep(request: u64, remaining: u64) -> Outcome {
    sleep_until(
        timer::now_ns().saturating_add(duration_ns(request)?),
        remaining,
    )
}

pub(super) fn clock_nanosleep(flags: u64, request: u64, remaining: u64) -> Outcome {
    if flags & TIMER_ABSTIME != 0 {
        return sleep_until(duration_ns(request)?, 0);
    }
    nanosleep(request, remaining)
}

fn sleep_until(deadline_ns: u64, remaining: u64) -> Outcome {
    let slept = process::wait_until_deadline(Channel::TIME, Some(deadline_ns), || None::<()>);
    if slept.is_err() && remaining != 0 {
        put_ns(remaining, deadline_ns.saturating_sub(timer::now_ns()))?;
    }
    slept.map(|_| 0)
}
