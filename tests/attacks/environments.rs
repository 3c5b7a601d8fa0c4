//! Where attacks run: our sandbox, and, as root, two places that let some of them through.

use std::path::{Path, PathBuf};
use std::process::Command;

use llm_in_sandbox::image::{Image, Store, state_dir};
use llm_in_sandbox::spec::SandboxSpec;

const CHROOT: &str = include_str!("chroot.sh");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Environment {
    Sandbox,
    Chroot,
    Bubblewrap,
}

impl Environment {
    /// Those that this run has. Only root can make the other two; a run that shows nothing but safety
    /// says so.
    pub(crate) fn all(test: &str) -> Vec<Self> {
        let mut all = vec![Self::Sandbox];
        if !nix::unistd::geteuid().is_root() {
            return all;
        }
        all.push(Self::Chroot);
        if bubblewrap().is_some() {
            all.push(Self::Bubblewrap);
        } else {
            let required = std::env::var("LIS_TEST_REQUIRE").unwrap_or_default();
            assert!(
                !required.split(',').any(|name| name.trim() == "bwrap"),
                "{test} needs bubblewrap, and bwrap is required"
            );
            println!("SKIP {test} in bubblewrap: needs bwrap on PATH, or its path in BWRAP");
        }
        all
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Chroot => "chroot",
            Self::Bubblewrap => "bubblewrap",
        }
    }

    /// The program that makes it: what CVE-2019-5736 would overwrite.
    pub(crate) fn runtime(self) -> PathBuf {
        match self {
            Self::Sandbox => program(),
            Self::Chroot => "/usr/sbin/chroot".into(),
            Self::Bubblewrap => bubblewrap().unwrap(),
        }
    }

    /// The beginning of a command that runs its end in the environment. `flags` are for ours,
    /// `scratch` is an empty directory.
    pub(crate) fn command(self, flags: &[&str], scratch: &Path) -> Vec<String> {
        let tree = rootfs();
        let (tree, scratch) = (tree.to_str().unwrap(), scratch.to_str().unwrap());
        let runtime = self.runtime();
        let runtime = runtime.to_str().unwrap();
        let words: Vec<&str> = match self {
            Self::Sandbox => [&[runtime, "exec", "-i"], flags, &["--"]].concat(),
            #[rustfmt::skip]
            Self::Chroot => vec![
                "unshare", "--mount", "--propagation", "private", "sh", "-c", CHROOT, "sh", tree, scratch,
            ],
            #[rustfmt::skip]
            Self::Bubblewrap => vec![
                runtime, "--ro-bind", tree, "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
                "--tmpfs", "/root", "--tmpfs", "/run", "--unshare-all", "--",
            ],
        };
        words.into_iter().map(str::to_owned).collect()
    }
}

fn bubblewrap() -> Option<PathBuf> {
    let named = std::env::var_os("BWRAP").map_or_else(|| "bwrap".into(), PathBuf::from);
    let runs = Command::new(&named).arg("--version").output();
    runs.ok().filter(|output| output.status.success())?;
    let found = Command::new("sh")
        .args(["-c", "command -v -- \"$0\""])
        .arg(&named)
        .output();
    Some(String::from_utf8(found.ok()?.stdout).ok()?.trim().into())
}

/// The real program: tests run in another one, which cannot be a zygote.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("LIS_TEST_BIN").map_or_else(
        || env!("CARGO_BIN_EXE_llm-in-sandbox").into(),
        PathBuf::from,
    )
}

fn image() -> Image {
    let state = state_dir(None).unwrap();
    let image = Store::open(&state).unwrap().find("default").unwrap();
    image.expect("no default image: run scripts/test.sh, or `llm-in-sandbox image build`")
}

pub(crate) fn rootfs() -> PathBuf {
    image().rootfs
}

/// A sandbox as the command line starts it.
pub(crate) fn spec() -> SandboxSpec {
    image().spec()
}
