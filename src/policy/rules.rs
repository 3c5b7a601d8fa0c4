//! The system call policy, as data: what is refused, in groups whose names a report shows.
//!
//! Everything that is not named here and existed in Linux 6.18 is allowed: the images hold arbitrary
//! software. Tests hold this table beside the filters that are made of it.

use libc::c_long;

use super::Test::{Bits, Is, Not};
use super::{Rule, Test};

/// The numbers that exist up to Linux 6.18 on this architecture, as half-open ranges.
#[cfg(target_arch = "x86_64")]
pub const KNOWN: [(u32, u32); 2] = [(0, 335), (424, 470)];
/// The numbers that exist up to Linux 6.18 on this architecture, as half-open ranges.
#[cfg(target_arch = "aarch64")]
pub const KNOWN: [(u32, u32); 3] = [(0, 244), (260, 295), (424, 470)];

const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;
const NETLINK_ROUTE: u32 = 0;
/// The kernel looks at these bits of a socket's type.
const TYPE: u32 = 0xf;
const SOCK_SEQPACKET: u32 = 5;
const SOCK_DCCP: u32 = 6;
const SOCKETS: &[c_long] = &[libc::SYS_socket, libc::SYS_socketpair];

/// `PER_LINUX`, `PER_LINUX32`, each also with `UNAME26`, and the query; the rest changes how memory is
/// laid out, `ADDR_NO_RANDOMIZE` and `READ_IMPLIES_EXEC` among it.
const PERSONALITIES: &[(u8, Test)] = &[
    (0, Not(0)),
    (0, Not(8)),
    (0, Not(0x2_0000)),
    (0, Not(0x2_0008)),
    (0, Not(0xffff_ffff)),
];

/// 0, ICMP, TCP, UDP, UDP-Lite and ICMPv6: SCTP, MPTCP, L2TP and the rest load modules with much code
/// that no task needs, and can be named by anybody.
const OTHER_PROTOCOLS: &[(u8, Test)] = &[
    (2, Not(0)),
    (2, Not(1)),
    (2, Not(6)),
    (2, Not(17)),
    (2, Not(58)),
    (2, Not(136)),
    (0, Not(AF_UNIX)),
    (0, Not(AF_NETLINK)),
];

/// Refused from the zygote on, as by a kernel without them: programs go on without audit or packet
/// sockets (shadow's `groupadd` stops at any other answer).
pub const FAMILIES: &[Rule] = &[
    Rule {
        name: "socket families but UNIX, INET, INET6 and NETLINK",
        calls: SOCKETS,
        when: &[
            (0, Not(AF_UNIX)),
            (0, Not(AF_INET)),
            (0, Not(AF_INET6)),
            (0, Not(AF_NETLINK)),
        ],
    },
    Rule {
        name: "netlink but its routes",
        calls: SOCKETS,
        when: &[(0, Is(AF_NETLINK)), (2, Not(NETLINK_ROUTE))],
    },
    Rule {
        name: "internet protocols but ICMP, TCP and UDP",
        calls: &[libc::SYS_socket],
        when: OTHER_PROTOCOLS,
    },
    Rule {
        name: "internet protocols but ICMP, TCP and UDP",
        calls: &[libc::SYS_socket],
        when: &[(0, Is(AF_INET)), (1, Bits(TYPE, SOCK_SEQPACKET))],
    },
    Rule {
        name: "internet protocols but ICMP, TCP and UDP",
        calls: &[libc::SYS_socket],
        when: &[(0, Is(AF_INET6)), (1, Bits(TYPE, SOCK_SEQPACKET))],
    },
    Rule {
        name: "internet protocols but ICMP, TCP and UDP",
        calls: &[libc::SYS_socket],
        when: &[(0, Not(AF_UNIX)), (1, Bits(TYPE, SOCK_DCCP))],
    },
];

/// Refused to everybody, the zygote included.
pub const DENIED: &[Rule] = &[
    Rule::always(
        "another kernel, or code in this one",
        &[
            libc::SYS_kexec_load,
            libc::SYS_kexec_file_load,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
            libc::SYS_bpf,
        ],
    ),
    // io_uring also does what filters refuse elsewhere, out of their sight. vmsplice: CVE-2020-29374
    // and its kin; programs that use it fall back.
    Rule::always(
        "large attack surface, no use in a sandbox",
        &[
            libc::SYS_perf_event_open,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
            libc::SYS_userfaultfd,
            libc::SYS_fanotify_init,
            libc::SYS_fanotify_mark,
            libc::SYS_vmsplice,
        ],
    ),
    // keyctl is PID 1's to join a new keyring with, see SETUP_ONLY.
    Rule::always(
        "keys are not namespaced",
        &[libc::SYS_add_key, libc::SYS_request_key],
    ),
    // CVE-2014-3519 and the "shocker".
    Rule::always(
        "files by handle, past every mount namespace",
        &[libc::SYS_open_by_handle_at, libc::SYS_name_to_handle_at],
    ),
    Rule::always(
        "descriptors and memory of other processes",
        &[
            libc::SYS_pidfd_getfd,
            libc::SYS_kcmp,
            libc::SYS_process_madvise,
        ],
    ),
    // Placement on the host's memory nodes is the host's; cachestat tells which files of the shared
    // image others have read (CVE-2025-21691); pages of memfd_secret cannot be reclaimed or moved.
    Rule::always(
        "the host's memory",
        &[
            libc::SYS_move_pages,
            libc::SYS_migrate_pages,
            libc::SYS_mbind,
            libc::SYS_set_mempolicy,
            450, // set_mempolicy_home_node
            451, // cachestat
            libc::SYS_memfd_secret,
        ],
    ),
    // It takes from fs.aio-max-nr, one number for the whole host.
    Rule::always("asynchronous I/O of old", &[libc::SYS_io_setup]),
    Rule::always(
        "the host's clocks, logs, disks and power",
        &[
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
        ],
    ),
    // By number, whether or not they can be reached by a path (Linux 6.8).
    Rule::always(
        "mounts of the whole namespace",
        &[
            457, // statmount
            458, // listmount
        ],
    ),
    #[cfg(target_arch = "x86_64")]
    Rule::always(
        "ports, segments and formats of old",
        &[
            libc::SYS_iopl,
            libc::SYS_ioperm,
            libc::SYS_uselib,
            libc::SYS_modify_ldt,
            libc::SYS_ustat,
            libc::SYS_sysfs,
        ],
    ),
    // PID 1 is not dumpable, and its memory belongs to the outer user namespace: the kernel refuses
    // already. PTRACE_TRACEME (0) has no pid. There is no other name for PID 1: it has one thread,
    // and nobody inside can make a pid namespace.
    Rule {
        name: "PID 1",
        calls: &[libc::SYS_ptrace],
        when: &[(0, Not(0)), (1, Is(1))],
    },
    // prlimit64 is what the kernel does allow: root inside could take PID 1 its descriptors or its
    // CPU time, and a sandbox that is dead by the model's doing would look like a fault of the host.
    Rule {
        name: "PID 1",
        calls: &[
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_prlimit64,
        ],
        when: &[(0, Is(1))],
    },
    // Typing into a terminal (CVE-2017-5226), selecting text on a console, and line disciplines,
    // which load modules (CVE-2017-2636 in n_hdlc). Compared as 32 bits, as the kernel does: high
    // bits are no disguise (CVE-2019-10063).
    Rule {
        name: "TIOCSTI",
        calls: &[libc::SYS_ioctl],
        when: &[(1, Is(0x5412))],
    },
    Rule {
        name: "TIOCLINUX",
        calls: &[libc::SYS_ioctl],
        when: &[(1, Is(0x541C))],
    },
    Rule {
        name: "TIOCSETD",
        calls: &[libc::SYS_ioctl],
        when: &[(1, Is(0x5423))],
    },
    Rule {
        name: "personalities that change the layout of memory",
        calls: &[libc::SYS_personality],
        when: PERSONALITIES,
    },
    // PR_SET_MM: another program's file and arguments in one's own place, for checkpoints.
    Rule {
        name: "PR_SET_MM",
        calls: &[libc::SYS_prctl],
        when: &[(0, Is(35))],
    },
    // The kernel refuses them in a user namespace, but for device 0:0, the whiteout of overlayfs.
    #[cfg(target_arch = "x86_64")]
    Rule {
        name: "device nodes",
        calls: &[libc::SYS_mknod],
        when: &[(1, Bits(libc::S_IFMT, libc::S_IFCHR))],
    },
    #[cfg(target_arch = "x86_64")]
    Rule {
        name: "device nodes",
        calls: &[libc::SYS_mknod],
        when: &[(1, Bits(libc::S_IFMT, libc::S_IFBLK))],
    },
    Rule {
        name: "device nodes",
        calls: &[libc::SYS_mknodat],
        when: &[(2, Bits(libc::S_IFMT, libc::S_IFCHR))],
    },
    Rule {
        name: "device nodes",
        calls: &[libc::SYS_mknodat],
        when: &[(2, Bits(libc::S_IFMT, libc::S_IFBLK))],
    },
];

macro_rules! new_namespace {
    ($($flag:literal),*) => { &[
        Rule::always("mounts", &[
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
        ]),
        Rule::always("namespaces", &[
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_sethostname,
            libc::SYS_setdomainname,
        ]),
        Rule::always("keys are not namespaced", &[libc::SYS_keyctl]),
        $(Rule { name: "namespaces", calls: &[libc::SYS_clone], when: &[(0, Bits($flag, $flag))] },)*
    ] };
}

/// Refused from the moment PID 1 is ready: what it needed to build the sandbox.
///
/// `clone` has its flags in the first argument on both architectures (only s390 and CRIS swap them).
/// The bit of `CLONE_NEWTIME` is part of a signal's number there.
pub const SETUP_ONLY: &[Rule] = new_namespace!(
    0x0002_0000, // NEWNS
    0x0200_0000, // NEWCGROUP
    0x0400_0000, // NEWUTS
    0x0800_0000, // NEWIPC
    0x1000_0000, // NEWUSER
    0x2000_0000, // NEWPID
    0x4000_0000  // NEWNET
);

/// Refused by `strict`: all sockets that leave the machine, or could.
pub const STRICT_FAMILIES: &[Rule] = &[Rule {
    name: "strict: socket families but UNIX",
    calls: SOCKETS,
    when: &[(0, Not(AF_UNIX))],
}];

/// Refused by `strict`: processes that look into others, and another root directory.
pub const STRICT: &[Rule] = &[
    Rule::always(
        "strict: other processes",
        &[
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_open,
        ],
    ),
    Rule::always("strict: another root", &[libc::SYS_chroot]),
];
