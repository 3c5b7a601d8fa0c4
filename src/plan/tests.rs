use super::*;
use crate::spec::BindMount;

fn spec() -> SandboxSpec {
    SandboxSpec {
        root: Root::Overlay {
            lower: "/images/a/rootfs".into(),
            upper: Upper::Tmpfs,
        },
        network: Network::None,
        limits: Limits::default(),
        seccomp: Seccomp::default(),
        binds: vec![BindMount {
            source: "/etc/hosts".into(),
            target: "/etc/hosts".into(),
        }],
        env: vec![("PATH".into(), "/bin".into())],
        workdir: "/testbed".into(),
        hostname: "sandbox".into(),
        purpose: "test".into(),
    }
}

fn privileged() -> Allotment {
    Allotment {
        ids: IdMap {
            base: 0x7000_0000,
            count: 65536,
            shift_files: true,
        },
        privileged: true,
        networks_ahead: true,
        device: None,
        setgroups: true,
        disk_upper: None,
        pids_by_rlimit: false,
        landlock: 7,
        report_refusals: false,
    }
}

#[test]
fn the_plan_of_a_privileged_host() {
    insta::assert_json_snapshot!(plan(&spec(), &privileged()).unwrap());
}

#[test]
fn the_plan_of_an_ordinary_user_with_the_hosts_network() {
    let spec = SandboxSpec {
        network: Network::Host,
        ..spec()
    };
    let allotment = Allotment {
        ids: IdMap {
            base: 0,
            count: 1,
            shift_files: false,
        },
        privileged: false,
        networks_ahead: false,
        device: None,
        setgroups: false,
        disk_upper: None,
        pids_by_rlimit: true,
        landlock: 0,
        report_refusals: false,
    };
    insta::assert_json_snapshot!(plan(&spec, &allotment).unwrap());
}

#[test]
fn a_network_by_rules_has_a_device_of_the_zygotes_or_of_pid_1() {
    let device = Device {
        device: NetworkDevice {
            mtu: 1500,
            addresses: vec![("100.96.0.2".parse().unwrap(), 30)],
        },
        resolvers: vec!["100.96.0.1".parse().unwrap()],
    };
    let spec = SandboxSpec {
        network: Network::internet(),
        ..spec()
    };
    for networks_ahead in [true, false] {
        let allotment = Allotment {
            networks_ahead,
            device: Some(device.clone()),
            ..privileged()
        };
        let plan = plan(&spec, &allotment).unwrap();
        let own = SetupOp::NetworkDevice(device.device.clone());
        let at = |wanted: &SetupOp| plan.setup.iter().position(|op| op == wanted);
        let resolver = SetupOp::File {
            path: "/etc/resolv.conf".into(),
            content: "nameserver 100.96.0.1\n".into(),
        };
        // The node is the host's, the file is the sandbox's.
        assert!(at(&SetupOp::Pivot) < at(&resolver));
        if networks_ahead {
            assert_eq!(
                (plan.device.as_ref(), at(&own)),
                (Some(&device.device), None)
            );
        } else {
            assert_eq!(plan.device, None);
            assert!(at(&own).is_some() && at(&own) < at(&SetupOp::Pivot));
        }
    }
    assert_eq!(plan(&spec, &privileged()), Err(PlanError::NoDevice));
}

#[test]
fn filters_come_last_and_the_old_root_goes_before_capabilities() {
    let setup = plan(&spec(), &privileged()).unwrap().setup;
    let at = |wanted: fn(&SetupOp) -> bool| setup.iter().position(wanted).unwrap();
    let pivot = at(|op| matches!(op, SetupOp::Pivot));
    assert!(at(|op| matches!(op, SetupOp::Proc)) < pivot);
    assert!(at(|op| matches!(op, SetupOp::Device { .. })) < pivot);
    assert!(pivot < at(|op| matches!(op, SetupOp::Capabilities(_))));
    assert!(
        at(|op| matches!(op, SetupOp::Capabilities(_))) < at(|op| matches!(op, SetupOp::Guard))
    );
    assert!(matches!(setup.last(), Some(SetupOp::Seccomp(_))));
}

#[test]
fn contradictions_are_refused() {
    let mut greedy = spec();
    greedy.limits.disk_bytes = Some(3 << 30);
    assert!(matches!(
        plan(&greedy, &privileged()),
        Err(PlanError::DiskExceedsMemory { .. })
    ));
    for bad in ["testbed", "/a/../b", ""] {
        let spec = SandboxSpec {
            workdir: bad.into(),
            ..spec()
        };
        assert_eq!(
            plan(&spec, &privileged()),
            Err(PlanError::BadTarget(bad.into()))
        );
    }
}

#[test]
fn a_profile_is_one_filter_more_and_a_report_the_only_one() {
    let filters = |seccomp: Seccomp, report_refusals| {
        let spec = SandboxSpec { seccomp, ..spec() };
        let allotment = Allotment {
            report_refusals,
            ..privileged()
        };
        let setup = plan(&spec, &allotment).unwrap().setup;
        setup
            .into_iter()
            .filter_map(|op| {
                if let SetupOp::Seccomp(set) = op {
                    Some(set)
                } else {
                    None
                }
            })
            .collect::<Vec<_>>()
    };
    let seccomp = Seccomp {
        strict: true,
        deny: vec!["bpf".into()],
    };
    let profile = Profile {
        strict: true,
        deny: vec![policy::number("bpf").unwrap()],
    };
    assert_eq!(
        filters(seccomp.clone(), false),
        [
            FilterSet::SetupOnly,
            FilterSet::Profile(profile.clone()),
            FilterSet::Unknown
        ]
    );
    assert_eq!(filters(seccomp, true), [FilterSet::Reported(profile)]);
    let denies = |name: &str| Seccomp {
        strict: false,
        deny: vec![name.into()],
    };
    assert_eq!(
        super::profile(&denies("opn")),
        Err(PlanError::UnknownCall("opn".into()))
    );
    assert_eq!(
        super::profile(&denies("execve")),
        Err(PlanError::NeededCall("execve".into()))
    );
}
