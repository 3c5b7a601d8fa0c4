use super::*;
use crate::policy::refusal;

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

/// The filters of a sandbox, newest last.
fn stack(profile: &Profile) -> Vec<BpfProgram> {
    vec![
        inherited_filter().unwrap(),
        unknown_filter().unwrap(),
        setup_only_filter().unwrap().clone(),
        profile_filter(profile).unwrap(),
    ]
}

/// The answer of several filters: the smallest action, and of the same one the newest.
fn verdict(stack: &[BpfProgram], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let answers = stack.iter().rev().map(|p| run(p, arch, number, args));
    answers
        .min_by_key(|answer| (answer & 0xffff_0000).cast_signed())
        .unwrap()
}

/// Arguments that decide something, and neighbours of them, in every position that is looked at.
fn samples() -> Vec<[u64; 6]> {
    let values: &[u64] = &[
        0,
        1,
        2,
        3,
        5,
        6,
        8,
        10,
        16,
        17,
        35,
        38,
        40,
        58,
        132,
        136,
        262,
        0x5411,
        0x5412,
        0x541C,
        0x5423,
        0x2000,
        0x6000,
        0x8000,
        0x2_0000,
        0x2_0008,
        0x4_0000,
        0x0200_0000,
        0x1000_0011,
        0x4000_0000,
        0x3d_0f00,
        0xffff_ffff,
    ];
    let mut samples = Vec::new();
    for one in values {
        for other in values {
            for high in [0, 1 << 32, u64::MAX << 32] {
                samples.push([high | one, high | other, 0, 0, 0, 0]);
                samples.push([high | one, 2, high | other, 0, 0, 0]);
            }
        }
    }
    samples
}

/// The table in the host's words, the filters in the kernel's, and the one filter that asks: the same.
#[test]
fn table_and_filters_agree_over_all_numbers() {
    let numbers = (0..=512).chain([0x4000_0000, 0x4000_0039, 0x4000_0200, u32::MAX]);
    let profiles = [
        Profile::default(),
        Profile {
            strict: true,
            deny: vec![59, 41],
        },
        // Halves that are too far for one jump.
        Profile {
            strict: false,
            deny: (0..334).step_by(2).collect(),
        },
    ];
    let samples = samples();
    for (profile, number) in profiles
        .iter()
        .flat_map(|p| numbers.clone().map(move |n| (p, n)))
    {
        let (stack, asking) = (stack(profile), asking_filter(profile).unwrap());
        // Calls without conditions need no more than a few samples.
        let looked_at = [FAMILIES, DENIED, SETUP_ONLY].concat();
        let conditional = looked_at
            .iter()
            .any(|r| !r.when.is_empty() && r.calls.contains(&i64::from(number)));
        let step = if conditional { 1 } else { 500 };
        for args in samples.iter().step_by(step) {
            let told = refusal(profile.strict, &profile.deny, number, args);
            let expected = told.map_or(ALLOW, |r| 0x0005_0000 | r.errno.cast_unsigned());
            let found = verdict(&stack, ARCH, number, *args);
            assert_eq!(found, expected, "call {number} {args:x?}");
            let asked = run(&asking, ARCH, number, *args);
            let asks = if told.is_some() { ASK } else { ALLOW };
            assert_eq!(asked, asks, "call {number} {args:x?}");
        }
    }
}

#[test]
fn other_architectures_are_killed() {
    let profile = Profile::default();
    for arch in [0x4000_0003, 0, 0xC000_0015] {
        assert_eq!(verdict(&stack(&profile), arch, 1, [0; 6]), KILL_PROCESS);
        assert_eq!(
            run(&asking_filter(&profile).unwrap(), arch, 1, [0; 6]),
            KILL_PROCESS
        );
    }
}
