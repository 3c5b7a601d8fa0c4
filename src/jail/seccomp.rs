//! The system call policy, as data, compiled by seccompiler.
//!
//! Four filters, because a filter has one answer and because installing costs: the kernel runs a new
//! filter over all call numbers, so the long list goes in once, in the zygote, and is inherited.
//!
//! | filter | where | answer | what |
//! |---|---|---|---|
//! | sockets | zygote, inherited | `EAFNOSUPPORT` | families but UNIX, INET, INET6 and the routes of NETLINK |
//! | deny | zygote, inherited | `EPERM` | [`DENIED`] and argument checks: nothing that the zygote or PID 1 needs |
//! | setup | PID 1, last | `EPERM` | [`SETUP_ONLY`]: what PID 1 needed to build the sandbox, and new namespaces |
//! | unknown | PID 1, last | `ENOSYS` | `clone3`, and every number that did not exist when this was written |
//!
//! `clone3` has its flags in memory, where no filter can see them: glibc falls back to `clone` on
//! `ENOSYS`, and only on that. The strictest answer of all filters wins.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};

use crate::wire::FilterSet;

#[cfg(target_arch = "x86_64")]
const ARCH: (TargetArch, u32) = (TargetArch::x86_64, 0xC000_003E);
#[cfg(target_arch = "aarch64")]
const ARCH: (TargetArch, u32) = (TargetArch::aarch64, 0xC000_00B7);

/// The numbers that exist up to Linux 6.18 on this architecture, as half-open ranges.
#[cfg(target_arch = "x86_64")]
const KNOWN: [(u32, u32); 2] = [(0, 335), (424, 470)];
#[cfg(target_arch = "aarch64")]
const KNOWN: [(u32, u32); 3] = [(0, 244), (260, 295), (424, 470)];

/// Refused to everybody, the zygote included.
const DENIED: &[libc::c_long] = &[
    // Another kernel, or code in this one.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    // Large attack surface, no use in a sandbox.
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    // Keys are not namespaced; joining a keyring is PID 1's last use of keyctl, see SETUP_ONLY.
    libc::SYS_add_key,
    libc::SYS_request_key,
    // Files by handle: past every mount namespace (CVE-2014-3519 and the "shocker").
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // Descriptors and memory of other processes.
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // Takes from fs.aio-max-nr, one number for the whole host.
    libc::SYS_io_setup,
    // The host's clocks, logs, disks and power.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    443, // quotactl_fd
    libc::SYS_vhangup,
    libc::SYS_lookup_dcookie,
    // Mounts of the whole namespace, by number (Linux 6.8).
    457, // statmount
    458, // listmount
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Refused from the moment PID 1 is ready.
const SETUP_ONLY: &[libc::c_long] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    467, // open_tree_attr
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_keyctl,
];

const NAMESPACE_FLAGS: u64 = 0x7E02_0080;
/// Faking input of the terminal (CVE-2017-5226), selecting text on a console, and other line
/// disciplines, which the kernel loads on demand (CVE-2017-2636).
const TERMINAL_IOCTLS: [u64; 3] = [0x5412, 0x541C, 0x5423];
const FAMILIES: [i32; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

/// Installs the long list, in the zygote.
pub(super) fn install_inherited() -> io::Result<()> {
    apply(&compile(socket_rules()?, libc::EAFNOSUPPORT)?)?;
    apply(&compile(inherited_rules()?, libc::EPERM)?)
}

/// Installs what PID 1 could not have before.
pub(super) fn install_last(set: FilterSet) -> io::Result<()> {
    match set {
        FilterSet::SetupOnly => apply(&compile(last_rules()?, libc::EPERM)?),
        FilterSet::Unknown => apply(&unknown_filter()),
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn inherited_rules() -> io::Result<Rules> {
    let mut rules: Rules = DENIED.iter().map(|number| (*number, Vec::new())).collect();
    // Compared as 32 bits, as the kernel does: high bits are no disguise (CVE-2019-10063).
    rules.insert(
        libc::SYS_ioctl,
        TERMINAL_IOCTLS
            .iter()
            .map(|request| rule(&[(1, SeccompCmpOp::Eq, *request)]))
            .collect::<io::Result<_>>()?,
    );
    // PER_LINUX, PER_LINUX32, UNAME26 and the query; the rest changes how memory is laid out.
    let personalities: Vec<_> = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff]
        .iter()
        .map(|p| (0, SeccompCmpOp::Ne, *p))
        .collect();
    rules.insert(libc::SYS_personality, vec![rule(&personalities)?]);
    // PID 1 has the ids of the sandbox's root, who could have the kernel kill it by RLIMIT_CPU, or
    // take its descriptors by RLIMIT_NOFILE: a command's doing that looks like the host's.
    rules.insert(
        libc::SYS_prlimit64,
        vec![rule(&[(0, SeccompCmpOp::Eq, 1)])?],
    );
    Ok(rules)
}

/// Answered as by a kernel without them: programs go on without audit or packet sockets (shadow's
/// `groupadd` stops at any other answer).
fn socket_rules() -> io::Result<Rules> {
    let other_families: Vec<_> = FAMILIES
        .iter()
        .map(|f| (0, SeccompCmpOp::Ne, family(*f)))
        .collect();
    let not_route = [
        (0, SeccompCmpOp::Eq, family(libc::AF_NETLINK)),
        (2, SeccompCmpOp::Ne, family(libc::NETLINK_ROUTE)),
    ];
    let rules = vec![rule(&other_families)?, rule(&not_route)?];
    // A pair makes both sockets before the kernel finds that the family has none; TIPC has.
    Ok(Rules::from([
        (libc::SYS_socketpair, rules.clone()),
        (libc::SYS_socket, rules),
    ]))
}

fn last_rules() -> io::Result<Rules> {
    let mut rules: Rules = SETUP_ONLY
        .iter()
        .map(|number| (*number, Vec::new()))
        .collect();
    let mut namespaces = Vec::new();
    for bit in 0..32 {
        let flag = 1_u64 << bit;
        if NAMESPACE_FLAGS & flag != 0 {
            namespaces.push(rule(&[(0, SeccompCmpOp::MaskedEq(flag), flag)])?);
        }
    }
    rules.insert(libc::SYS_clone, namespaces);
    Ok(rules)
}

fn family(number: i32) -> u64 {
    u64::from(number.cast_unsigned())
}

fn rule(conditions: &[(u8, SeccompCmpOp, u64)]) -> io::Result<SeccompRule> {
    let conditions: Result<Vec<_>, _> = conditions
        .iter()
        .map(|(argument, op, value)| {
            SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, op.clone(), *value)
        })
        .collect();
    SeccompRule::new(conditions.map_err(io::Error::other)?).map_err(io::Error::other)
}

fn compile(rules: Rules, errno: i32) -> io::Result<BpfProgram> {
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(errno.cast_unsigned()),
        ARCH.0,
    )
    .map_err(io::Error::other)?;
    filter.try_into().map_err(io::Error::other)
}

fn apply(program: &BpfProgram) -> io::Result<()> {
    apply_filter(program).map_err(io::Error::other)
}

/// Answers `ENOSYS` to clone3 and to unknown numbers, which seccompiler cannot say: it knows
/// conditions on arguments, not on the number. The x32 calls of x86-64 have bit 30 set in their
/// numbers and so are unknown ones. A test compares its verdict with the table for all numbers.
fn unknown_filter() -> BpfProgram {
    const LOAD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_NOT_LESS: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const KILL_PROCESS: u32 = 0x8000_0000;
    const NOT_IMPLEMENTED: u32 = 0x0005_0000 | libc::ENOSYS.cast_unsigned();
    let step = |code, k, jt, jf| sock_filter { code, jt, jf, k };
    let mut program = vec![
        step(LOAD, 4, 0, 0), // seccomp_data.arch
        step(JUMP_EQUAL, ARCH.1, 1, 0),
        step(RETURN, KILL_PROCESS, 0, 0),
        step(LOAD, 0, 0, 0),         // seccomp_data.nr
        step(JUMP_EQUAL, 435, 0, 1), // clone3
        step(RETURN, NOT_IMPLEMENTED, 0, 0),
    ];
    for (first, end) in KNOWN {
        program.push(step(JUMP_NOT_LESS, first, 0, 2));
        program.push(step(JUMP_NOT_LESS, end, 1, 0));
        program.push(step(RETURN, ALLOW, 0, 0));
    }
    program.push(step(RETURN, NOT_IMPLEMENTED, 0, 0));
    program
}

#[cfg(test)]
mod tests;
