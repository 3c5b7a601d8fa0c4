use super::*;

const EPERM: Option<i32> = Some(libc::EPERM);
const NO_FAMILY: Option<i32> = Some(libc::EAFNOSUPPORT);
const HIGH: [u64; 3] = [0, 1 << 32, u64::MAX << 32];

fn told(call: c_long, arguments: [u64; 6]) -> Option<i32> {
    let call = u32::try_from(call).unwrap();
    refusal(false, &[], call, &arguments).map(|r| r.errno)
}

#[test]
fn high_bits_are_no_disguise() {
    for high in HIGH {
        for request in [0x5412, 0x541C, 0x5423] {
            assert_eq!(
                told(libc::SYS_ioctl, [0, high | request, 0, 0, 0, 0]),
                EPERM
            );
        }
        assert_eq!(told(libc::SYS_ioctl, [0, high | 0x5413, 0, 0, 0, 0]), None);
        assert_eq!(told(libc::SYS_ptrace, [16, high | 1, 0, 0, 0, 0]), EPERM);
        assert_eq!(
            told(libc::SYS_process_vm_readv, [high | 1, 0, 0, 0, 0, 0]),
            EPERM
        );
        assert_eq!(told(libc::SYS_prctl, [high | 35, 0, 0, 0, 0, 0]), EPERM);
    }
    assert_eq!(told(libc::SYS_ptrace, [0, 1, 0, 0, 0, 0]), None, "TRACEME");
    assert_eq!(
        told(libc::SYS_ptrace, [16, 2, 0, 0, 0, 0]),
        None,
        "a debugger"
    );
}

#[test]
fn only_four_families_and_few_protocols_of_sockets_exist() {
    for high in HIGH {
        for (family, kind, protocol, expected) in [
            (1, 1, 0, None),
            (2, 1, 6, None),
            (2, 2, 0, None),
            (2, 2, 1, None),
            (10, 0x8_0801, 0, None),
            (10, 2, 58, None),
            (16, 3, 0, None),
            (16, 3, 9, NO_FAMILY),
            (17, 3, 0, NO_FAMILY),
            (38, 5, 0, NO_FAMILY),
            (40, 1, 0, NO_FAMILY),
            (2, 1, 132, NO_FAMILY),
            (2, 0x8_0005, 0, NO_FAMILY),
            (10, 1, 262, NO_FAMILY),
            (2, 6, 0, NO_FAMILY),
            (2, 3, 255, NO_FAMILY),
        ] {
            let arguments = [high | family, high | kind, high | protocol, 0, 0, 0];
            assert_eq!(told(libc::SYS_socket, arguments), expected, "{arguments:?}");
        }
        assert_eq!(
            told(libc::SYS_socketpair, [high | 30, 1, 0, 0, 0, 0]),
            NO_FAMILY,
            "TIPC"
        );
        assert_eq!(told(libc::SYS_socketpair, [high | 1, 1, 0, 0, 0, 0]), None);
    }
}

#[test]
fn namespaces_are_refused_in_every_flag_and_threads_are_not() {
    let flags = [
        0x0002_0000_u64,
        0x0200_0000,
        0x0400_0000,
        0x0800_0000,
        0x1000_0000,
        0x2000_0000,
        0x4000_0000,
    ];
    for flag in flags {
        for high in HIGH {
            let arguments = [high | flag | 17, 0, 0, 0, 0, 0];
            assert_eq!(told(libc::SYS_clone, arguments), EPERM, "{flag:#x}");
        }
    }
    assert_eq!(told(libc::SYS_clone, [0x3d_0f00, 0, 0, 0, 0, 0]), None);
    assert_eq!(told(435, [0; 6]), Some(libc::ENOSYS));
}

#[test]
fn devices_cannot_be_made_and_fifos_can() {
    for (mode, expected) in [
        (0o020_666, EPERM),
        (0o060_666, EPERM),
        (0o010_666, None),
        (0o100_666, None),
    ] {
        assert_eq!(
            told(libc::SYS_mknodat, [0, 0, mode, 0, 0, 0]),
            expected,
            "{mode:o}"
        );
    }
}

#[test]
fn strict_and_lists_only_add() {
    let everything = (0..512).map(|n| (n, refusal(false, &[], n, &[0; 6])));
    for (number, default) in everything {
        let strict = refusal(true, &[39], number, &[0; 6]);
        assert!(default.is_none() || strict.is_some(), "call {number}");
    }
    let ptrace = u32::try_from(libc::SYS_ptrace).unwrap();
    assert!(refusal(true, &[], ptrace, &[0; 6]).is_some());
    let socket = u32::try_from(libc::SYS_socket).unwrap();
    assert!(refusal(true, &[], socket, &[2, 1, 0, 0, 0, 0]).is_some());
    assert!(refusal(true, &[], socket, &[1, 1, 0, 0, 0, 0]).is_none());
}

#[test]
fn names_and_numbers_are_the_kernels() {
    for call in [libc::SYS_bpf, libc::SYS_openat, libc::SYS_memfd_secret] {
        let call = u32::try_from(call).unwrap();
        assert_eq!(number(name(call).unwrap()), Some(call));
    }
    assert_eq!(number("openatt"), None);
    for needed in NEEDED {
        // Some exist on one architecture only.
        let known = number(needed).is_some() || cfg!(not(target_arch = "x86_64"));
        assert!(known, "{needed}");
    }
    for rule in [FAMILIES, DENIED, SETUP_ONLY, STRICT, STRICT_FAMILIES].concat() {
        for call in rule.calls {
            assert!(name(u32::try_from(*call).unwrap()).is_some(), "{call}");
        }
    }
}
