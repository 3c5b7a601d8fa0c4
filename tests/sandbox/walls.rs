//! The walls of a whole sandbox hold: each attack of `checks`, by name.

use llm_in_sandbox::spec::{Limits, SandboxSpec};

use crate::checks::{Check, bounds, calls, files, processes};
use crate::fixture::{Canary, has, in_sandbox, spec, with_spec};

pub(crate) fn holds(check: Check) {
    if let Err(breach) = check {
        panic!("a wall was breached:\n{breach}");
    }
}

/// A test for each check that needs nothing but a sandbox.
macro_rules! walls {
    ($($module:ident :: $name:ident;)*) => {$(
        #[test]
        fn $name() {
            in_sandbox(async |sandbox| holds($module::$name(&*sandbox).await));
        }
    )*};
}

walls! {
    calls::mounts_and_namespaces_are_refused;
    calls::dangerous_calls_are_refused;
    calls::terminals_cannot_be_typed_into;
    calls::other_socket_families_are_refused;
    calls::unknown_calls_do_not_exist;
    calls::threads_and_processes_work;
    calls::calls_of_other_architectures_kill;
    processes::host_processes_do_not_exist;
    processes::every_process_is_restricted;
    processes::pid_1_is_out_of_reach;
    processes::no_descriptor_leaks_in;
    processes::set_user_id_programs_give_nothing;
    processes::the_environment_is_its_own;
    processes::only_loopback_exists;
    processes::resource_limits_are_set;
    files::masked_files_hold_nothing;
    files::kernel_settings_are_read_only;
    files::sys_is_empty_and_read_only;
    files::devices_cannot_be_made;
    files::terminals_are_its_own_and_few;
}

#[test]
fn host_files_are_out_of_reach() {
    let canary = Canary::plant();
    in_sandbox(async |sandbox| {
        holds(files::host_files_are_out_of_reach(&*sandbox, canary.path(), canary.content()).await);
    });
}

pub(crate) fn small(limits: Limits) -> SandboxSpec {
    SandboxSpec { limits, ..spec() }
}

#[test]
fn disk_is_bounded() {
    let limits = Limits {
        disk_bytes: Some(16 << 20),
        ..Limits::default()
    };
    with_spec(small(limits), async |sandbox| {
        holds(bounds::disk_is_bounded(&*sandbox).await);
    });
}

#[test]
fn files_are_bounded() {
    let limits = Limits {
        inodes: Some(1000),
        ..Limits::default()
    };
    with_spec(small(limits), async |sandbox| {
        holds(bounds::files_are_bounded(&*sandbox).await);
    });
}

#[test]
fn processes_are_bounded() {
    let limits = Limits {
        pids: Some(40),
        ..Limits::default()
    };
    with_spec(small(limits), async |sandbox| {
        holds(bounds::processes_are_bounded(&*sandbox).await);
    });
}

#[test]
fn memory_is_bounded() {
    if !has("memory_is_bounded", &["cgroup"]) {
        return;
    }
    let limits = Limits {
        memory_bytes: Some(128 << 20),
        disk_bytes: Some(32 << 20),
        ..Limits::default()
    };
    with_spec(small(limits), async |sandbox| {
        holds(bounds::memory_is_bounded(&*sandbox).await);
    });
}
