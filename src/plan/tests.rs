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
        record_effects: false,
    }
}

const RANGE: IdMap = IdMap {
    base: 0x7000_0000,
    count: 65536,
    shift_files: true,
};

fn privileged() -> Host {
    Host {
        privileged: true,
        networks_ahead: true,
        device: NetworkDevice {
            mtu: 1500,
            addresses: vec![("100.96.0.2".parse().unwrap(), 30)],
        },
        resolvers: vec!["100.96.0.1".parse().unwrap()],
        setgroups: true,
        pids_by_rlimit: false,
        landlock: 7,
        report_refusals: false,
    }
}

/// All that is done for a sandbox.
#[derive(serde::Serialize)]
struct Everything {
    groundwork: Groundwork,
    mounts: Mounts,
    root: Vec<SetupOp>,
    setup: Setup,
}

fn everything(spec: &SandboxSpec, host: &Host, ids: IdMap) -> Everything {
    let SetupPlan {
        mounts,
        root,
        setup,
    } = plan(spec, host, None).unwrap();
    Everything {
        groundwork: groundwork(host, ids, network(&spec.network, host)),
        mounts,
        root,
        setup,
    }
}

#[test]
fn the_plan_of_a_privileged_host() {
    insta::assert_json_snapshot!(everything(&spec(), &privileged(), RANGE));
}

#[test]
fn the_plan_of_an_ordinary_user_with_the_hosts_network() {
    let spec = SandboxSpec {
        network: Network::Host,
        ..spec()
    };
    let host = Host {
        privileged: false,
        networks_ahead: false,
        setgroups: false,
        pids_by_rlimit: true,
        landlock: 0,
        ..privileged()
    };
    let ids = IdMap {
        base: 0,
        count: 1,
        shift_files: false,
    };
    insta::assert_json_snapshot!(everything(&spec, &host, ids));
}

#[test]
fn a_network_by_rules_has_a_device_of_the_zygotes_or_of_pid_1() {
    let spec = SandboxSpec {
        network: Network::internet(),
        ..spec()
    };
    for networks_ahead in [true, false] {
        let host = Host {
            networks_ahead,
            ..privileged()
        };
        let everything = everything(&spec, &host, RANGE);
        let steps = &everything.groundwork.steps;
        let own = SetupOp::NetworkDevice(host.device.clone());
        let at = |steps: &[SetupOp], wanted: &SetupOp| steps.iter().position(|op| op == wanted);
        if networks_ahead {
            assert_eq!(everything.groundwork.device, Some(host.device));
            assert_eq!(at(steps, &own), None);
        } else {
            // The node is the host's.
            assert_eq!(everything.groundwork.device, None);
            assert!(at(steps, &own).is_some() && at(steps, &own) < at(steps, &SetupOp::Pivot));
        }
        let resolver = SetupOp::File {
            path: "/etc/resolv.conf".into(),
            content: "nameserver 100.96.0.1\n".into(),
        };
        assert_eq!(everything.root.last(), Some(&SetupOp::ChangeRoot));
        assert!(at(&everything.setup.steps, &resolver).is_some());
    }
}

#[test]
fn filters_come_last_and_the_old_root_goes_before_capabilities() {
    let everything = everything(&spec(), &privileged(), RANGE);
    let before = everything.groundwork.steps;
    let after = [everything.root, everything.setup.steps].concat();
    let at = |wanted: fn(&SetupOp) -> bool| after.iter().position(wanted).unwrap();
    let entered = at(|op| matches!(op, SetupOp::ChangeRoot));
    // What needs the host's tree is done by then.
    let gone = before.iter().position(|op| *op == SetupOp::Pivot).unwrap();
    let needs_host = |op: &SetupOp| matches!(op, SetupOp::Proc | SetupOp::Device { .. });
    assert!(before.iter().rposition(needs_host).unwrap() < gone);
    assert!(!after.iter().any(needs_host));
    assert!(entered < at(|op| matches!(op, SetupOp::Capabilities(_))));
    let changes_ids = |op: &SetupOp| matches!(op, SetupOp::BecomeRoot { .. });
    assert!(
        before.iter().position(changes_ids) < before.iter().position(|op| *op == SetupOp::Guard)
    );
    assert!(!after.iter().any(changes_ids));
    assert!(matches!(after.last(), Some(SetupOp::Seccomp(_))));
}

/// What is done before a sandbox is asked for is the same for all of them.
#[test]
fn the_groundwork_knows_nothing_of_the_sandbox() {
    let other = SandboxSpec {
        root: Root::Writable("/images/b/rootfs".into()),
        limits: Limits {
            memory_bytes: Some(1 << 20),
            ..Limits::default()
        },
        binds: Vec::new(),
        env: Vec::new(),
        workdir: "/".into(),
        hostname: "other".into(),
        ..spec()
    };
    let groundwork = |spec| everything(spec, &privileged(), RANGE).groundwork;
    assert_eq!(groundwork(&spec()), groundwork(&other));
}

/// What is done before a sandbox is asked for, in the root of its image, is the same for all of them.
#[test]
fn the_way_into_a_root_knows_nothing_else_of_the_sandbox() {
    let other = SandboxSpec {
        network: Network::internet(),
        limits: Limits {
            pids: Some(3),
            ..Limits::default()
        },
        seccomp: Seccomp {
            strict: true,
            deny: Vec::new(),
        },
        env: Vec::new(),
        workdir: "/".into(),
        hostname: "other".into(),
        ..spec()
    };
    let (one, other) = (
        everything(&spec(), &privileged(), RANGE),
        everything(&other, &privileged(), RANGE),
    );
    assert_eq!((one.mounts, one.root), (other.mounts, other.root));
}

#[test]
fn contradictions_are_refused() {
    let mut greedy = spec();
    greedy.limits.disk_bytes = Some(3 << 30);
    assert!(matches!(
        plan(&greedy, &privileged(), None),
        Err(PlanError::DiskExceedsMemory { .. })
    ));
    for bad in ["testbed", "/a/../b", ""] {
        let spec = SandboxSpec {
            workdir: bad.into(),
            ..spec()
        };
        assert_eq!(
            plan(&spec, &privileged(), None),
            Err(PlanError::BadTarget(bad.into()))
        );
    }
}

#[test]
fn a_profile_is_one_filter_more_and_a_report_the_only_one() {
    let filters = |seccomp: Seccomp, report_refusals| {
        let spec = SandboxSpec { seccomp, ..spec() };
        let host = Host {
            report_refusals,
            ..privileged()
        };
        let everything = everything(&spec, &host, RANGE);
        let steps = everything.groundwork.steps.into_iter();
        steps
            .chain(everything.setup.steps)
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
            FilterSet::Unknown,
            FilterSet::SetupOnly,
            FilterSet::Profile(profile.clone()),
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
