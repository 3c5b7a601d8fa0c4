use super::*;

/// What the kernel would answer: the few instructions that seccomp programs use.
fn run(program: &[sock_filter], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = [0_u8; 64];
    data[0..4].copy_from_slice(&number.to_le_bytes());
    data[4..8].copy_from_slice(&arch.to_le_bytes());
    for (index, arg) in args.iter().enumerate() {
        data[16 + 8 * index..24 + 8 * index].copy_from_slice(&arg.to_le_bytes());
    }
    let (mut pc, mut a) = (0_usize, 0_u32);
    loop {
        let i = &program[pc];
        pc += 1;
        let jump = |taken: bool| usize::from(if taken { i.jt } else { i.jf });
        match i.code {
            0x20 => {
                a = u32::from_le_bytes(data[i.k as usize..i.k as usize + 4].try_into().unwrap());
            }
            0x05 => pc += i.k as usize,
            0x15 => pc += jump(a == i.k),
            0x25 => pc += jump(a > i.k),
            0x35 => pc += jump(a >= i.k),
            0x54 => a &= i.k,
            0x06 => return i.k,
            code => panic!("instruction {code:#x}"),
        }
    }
}

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const NATIVE: u32 = ARCH.1;

#[test]
fn unknown_numbers_are_not_implemented_and_known_ones_pass() {
    let program = unknown_filter();
    for number in (0..2048).chain([0x4000_0000, 0x4000_0039, u32::MAX]) {
        let known = KNOWN
            .iter()
            .any(|(first, end)| (*first..*end).contains(&number));
        let expected = if known && number != 435 {
            ALLOW
        } else {
            ENOSYS
        };
        assert_eq!(
            run(&program, NATIVE, number, [0; 6]),
            expected,
            "call {number}"
        );
    }
    let kill = 0x8000_0000;
    assert_eq!(
        run(&program, 0x4000_0003, 1, [0; 6]),
        kill,
        "i386 is a foreign architecture"
    );
}

#[test]
fn the_deny_list_refuses_exactly_its_calls() {
    let program = compile(inherited_rules().unwrap(), libc::EPERM).unwrap();
    for number in 0..512_u32 {
        let denied = DENIED.contains(&i64::from(number));
        // Neutral arguments: personality(0), prlimit64 of the caller.
        let args = [0; 6];
        let expected = if denied { EPERM } else { ALLOW };
        assert_eq!(
            run(&program, NATIVE, number, args),
            expected,
            "call {number}"
        );
    }
}

#[test]
fn arguments_are_compared_as_the_kernel_reads_them() {
    let program = compile(inherited_rules().unwrap(), libc::EPERM).unwrap();
    let call = |number: i64, args| run(&program, NATIVE, u32::try_from(number).unwrap(), args);
    for high in [0, 1 << 32, u64::MAX << 32] {
        assert_eq!(call(libc::SYS_ioctl, [0, high | 0x5412, 0, 0, 0, 0]), EPERM);
        assert_eq!(call(libc::SYS_ioctl, [0, high | 0x541C, 0, 0, 0, 0]), EPERM);
        assert_eq!(call(libc::SYS_ioctl, [0, high | 0x5423, 0, 0, 0, 0]), EPERM);
        assert_eq!(call(libc::SYS_prlimit64, [high | 1, 7, 0, 0, 0, 0]), EPERM);
    }
    assert_eq!(call(libc::SYS_ioctl, [0, 0x5413, 0, 0, 0, 0]), ALLOW);
    assert_eq!(call(libc::SYS_prlimit64, [0, 7, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn only_four_families_of_sockets_exist() {
    let program = compile(socket_rules().unwrap(), libc::EAFNOSUPPORT).unwrap();
    let call = |number: i64, args| run(&program, NATIVE, u32::try_from(number).unwrap(), args);
    let refused = 0x0005_0000 | 97;
    for (family, protocol, expected) in [
        (1, 0, ALLOW),
        (2, 6, ALLOW),
        (10, 0, ALLOW),
        (16, 0, ALLOW),
        (16, 9, refused),
        (17, 0, refused),
        (38, 0, refused),
        (40, 0, refused),
    ] {
        for number in [libc::SYS_socket, libc::SYS_socketpair] {
            assert_eq!(
                call(number, [family, 0, protocol, 0, 0, 0]),
                expected,
                "family {family}"
            );
        }
    }
}

#[test]
fn after_setup_neither_mounts_nor_namespaces() {
    let program = compile(last_rules().unwrap(), libc::EPERM).unwrap();
    let call = |number: i64, args| run(&program, NATIVE, u32::try_from(number).unwrap(), args);
    for number in SETUP_ONLY {
        assert_eq!(call(*number, [0; 6]), EPERM, "call {number}");
    }
    for flag in [
        0x80_u64,
        0x0002_0000,
        0x0200_0000,
        0x0400_0000,
        0x0800_0000,
        0x1000_0000,
        0x2000_0000,
        0x4000_0000,
    ] {
        assert_eq!(
            call(libc::SYS_clone, [flag | 17, 0, 0, 0, 0, 0]),
            EPERM,
            "flag {flag:#x}"
        );
    }
    assert_eq!(
        call(libc::SYS_clone, [0x3d_0f00, 0, 0, 0, 0, 0]),
        ALLOW,
        "a thread"
    );
    assert_eq!(call(libc::SYS_execve, [0; 6]), ALLOW);
}
