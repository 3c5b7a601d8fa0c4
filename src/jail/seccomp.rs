//! Filters of [`crate::policy`], compiled by seccompiler.
//!
//! The kernel runs a new filter over all call numbers, so installing costs: the long tables go in
//! once, in the zygote, and are inherited. The strictest answer of all filters wins, and among
//! errors that of the newest.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};

use crate::policy::{
    CLONE3, DENIED, FAMILIES, KNOWN, Rule, SETUP_ONLY, STRICT, STRICT_FAMILIES, Test,
};
use crate::sys::seccomp::install_with_listener;
use crate::wire::{FilterSet, Profile};

#[cfg(target_arch = "x86_64")]
const ARCH: (TargetArch, u32) = (TargetArch::x86_64, 0xC000_003E);
#[cfg(target_arch = "aarch64")]
const ARCH: (TargetArch, u32) = (TargetArch::aarch64, 0xC000_00B7);

const NOT_PERMITTED: SeccompAction = SeccompAction::Errno(libc::EPERM.cast_unsigned());
const NO_SUCH_FAMILY: SeccompAction = SeccompAction::Errno(libc::EAFNOSUPPORT.cast_unsigned());

const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const NOT_IMPLEMENTED: u32 = 0x0005_0000 | libc::ENOSYS.cast_unsigned();
const ASK: u32 = 0x7fc0_0000;

/// Installs the long tables, in the zygote.
pub(super) fn install_inherited() -> io::Result<()> {
    apply(&compile(rules(&[FAMILIES])?, NO_SUCH_FAMILY)?)?;
    apply(&compile(rules(&[DENIED])?, NOT_PERMITTED)?)
}

/// Installs what PID 1 could not have before; gives the listener of [`FilterSet::Reported`].
pub(super) fn install_last(set: &FilterSet) -> io::Result<Option<OwnedFd>> {
    match set {
        FilterSet::SetupOnly => apply(&setup_only_filter()?)?,
        FilterSet::Profile(profile) => install_profile(profile)?,
        FilterSet::Unknown => apply(&unknown_filter(NOT_IMPLEMENTED))?,
        FilterSet::Reported(profile) => {
            let filter: Vec<_> = asking_filter(profile)?
                .iter()
                .map(|i| libc::sock_filter {
                    code: i.code,
                    jt: i.jt,
                    jf: i.jf,
                    k: i.k,
                })
                .collect();
            return install_with_listener(&filter).map(Some);
        }
    }
    Ok(None)
}

fn install_profile(profile: &Profile) -> io::Result<()> {
    let mut denied = rules(if profile.strict { &[STRICT] } else { &[] })?;
    add(&mut denied, &profile.deny);
    if profile.strict {
        apply(&compile(rules(&[STRICT_FAMILIES])?, NO_SUCH_FAMILY)?)?;
    }
    apply(&compile(denied, NOT_PERMITTED)?)
}

/// What nobody uses: seccompiler does not know [`ASK`], and no filter says this.
const UNUSED: u32 = 0x7ff0_0001;

/// Every refusal of a sandbox in one filter, for a process can have but one listener: unknown
/// numbers first, as in [`unknown_filter`], and then the tables.
fn asking_filter(profile: &Profile) -> io::Result<BpfProgram> {
    let mut tables = vec![FAMILIES, DENIED, SETUP_ONLY];
    if profile.strict {
        tables.extend([STRICT, STRICT_FAMILIES]);
    }
    let mut all = rules(&tables)?;
    add(&mut all, &profile.deny);
    let mut rest = compile(all, SeccompAction::Trace(UNUSED & 0xffff))?;
    for step in &mut rest {
        if (step.code, step.k) == (RETURN, UNUSED) {
            step.k = ASK;
        }
    }
    go_on(unknown_filter(ASK), ALLOW, rest)
}

/// The only filter that costs each start. The kernel runs it over all numbers, and seccompiler compares
/// a number with every call of the table: first, by ranges, whether the table knows it at all.
fn setup_only_filter() -> io::Result<BpfProgram> {
    let table = rules(&[SETUP_ONLY])?;
    let numbers = table.keys().map(|call| u32::try_from(*call));
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        let number = number.map_err(io::Error::other)?;
        match runs.last_mut() {
            Some((_, end)) if *end == number => *end += 1,
            _ => runs.push((number, number + 1)),
        }
    }
    let mut ranges = native_only();
    in_ranges(&mut ranges, &runs, UNUSED);
    ranges.push(step(RETURN, ALLOW, 0, 0));
    go_on(ranges, UNUSED, compile(table, NOT_PERMITTED)?)
}

/// A filter that continues with another where it would have given an answer.
fn go_on(mut filter: BpfProgram, answer: u32, mut rest: BpfProgram) -> io::Result<BpfProgram> {
    const JUMP: u16 = 0x05;
    let end = filter.len();
    for (at, step) in filter.iter_mut().enumerate() {
        if (step.code, step.k) == (RETURN, answer) {
            step.code = JUMP;
            step.k = u32::try_from(end - at - 1).map_err(io::Error::other)?;
        }
    }
    filter.append(&mut rest);
    Ok(filter)
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// For seccompiler: the rules of each call, of which one is enough; no rule means always.
fn rules(tables: &[&[Rule]]) -> io::Result<Rules> {
    let (mut all, mut always) = (Rules::new(), Vec::new());
    for rule in tables.iter().copied().flatten() {
        for call in rule.calls {
            if rule.when.is_empty() {
                always.push(*call);
            } else {
                all.entry(*call).or_default().push(conditions(rule.when)?);
            }
        }
    }
    all.extend(always.into_iter().map(|call| (call, Vec::new())));
    Ok(all)
}

fn add(rules: &mut Rules, numbers: &[u32]) {
    rules.extend(
        numbers
            .iter()
            .map(|number| (i64::from(*number), Vec::new())),
    );
}

fn conditions(tests: &[(u8, Test)]) -> io::Result<SeccompRule> {
    let conditions: Result<Vec<_>, _> = tests
        .iter()
        .map(|(argument, test)| {
            let (operator, value) = match *test {
                Test::Is(value) => (SeccompCmpOp::Eq, value),
                Test::Not(value) => (SeccompCmpOp::Ne, value),
                Test::Bits(mask, value) => (SeccompCmpOp::MaskedEq(mask.into()), value),
            };
            SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, operator, value.into())
        })
        .collect();
    SeccompRule::new(conditions.map_err(io::Error::other)?).map_err(io::Error::other)
}

fn compile(rules: Rules, refused: SeccompAction) -> io::Result<BpfProgram> {
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, ARCH.0);
    let filter = filter.map_err(io::Error::other)?;
    filter.try_into().map_err(io::Error::other)
}

fn apply(program: &BpfProgram) -> io::Result<()> {
    apply_filter(program).map_err(io::Error::other)
}

/// Refuses clone3 and unknown numbers, which seccompiler cannot say: it knows conditions on
/// arguments, not on the number. The x32 calls of x86-64 have bit 30 set in their numbers and so are
/// unknown ones.
fn unknown_filter(refused: u32) -> BpfProgram {
    let mut program = native_only();
    program.push(step(JUMP_EQUAL, CLONE3, 0, 1));
    program.push(step(RETURN, refused, 0, 0));
    in_ranges(&mut program, &KNOWN, ALLOW);
    program.push(step(RETURN, refused, 0, 0));
    program
}

fn step(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Kills foreign architectures, and loads the number.
fn native_only() -> BpfProgram {
    const LOAD: u16 = 0x20;
    const KILL_PROCESS: u32 = 0x8000_0000;
    vec![
        step(LOAD, 4, 0, 0), // seccomp_data.arch
        step(JUMP_EQUAL, ARCH.1, 1, 0),
        step(RETURN, KILL_PROCESS, 0, 0),
        step(LOAD, 0, 0, 0), // seccomp_data.nr
    ]
}

/// Gives an answer to numbers that lie in one of the ranges, each a first number and the one past its end.
fn in_ranges(program: &mut BpfProgram, ranges: &[(u32, u32)], answer: u32) {
    const JUMP_NOT_LESS: u16 = 0x35;
    for &(first, end) in ranges {
        program.push(step(JUMP_NOT_LESS, first, 0, 2));
        program.push(step(JUMP_NOT_LESS, end, 1, 0));
        program.push(step(RETURN, answer, 0, 0));
    }
}

#[cfg(test)]
mod tests;
