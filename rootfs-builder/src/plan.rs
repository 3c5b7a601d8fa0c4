//! The steps that make an image of a recipe. Pure, but for [`execute`], which calls its caller back.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::recipe::{Base, Recipe};

/// How long the bootstrap may take.
pub const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(900);

/// What is done to a tree once its base is unpacked. Every step runs as root of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Without any network and without anything of the host bound into the tree.
    pub prepare: Vec<Step>,
    /// With the host's network, its CA bundle and its index settings.
    pub install: Vec<Step>,
    /// Without any network and without anything of the host, again: leaves the tree clean.
    pub seal: Vec<Step>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Writes a file and its missing parent directories.
    Write {
        /// Absolute path.
        path: String,
        /// What is in it.
        content: String,
        /// Permission bits.
        mode: u32,
    },
    /// Makes a directory and its missing parents.
    Directory {
        /// Absolute path.
        path: String,
    },
    /// Runs a command; any status but 0 ends the build.
    Run {
        /// What people are told, as `install 16 packages`.
        title: String,
        /// Program and arguments.
        argv: Vec<String>,
        /// The whole environment, but for what the caller adds for the network.
        env: BTreeMap<String, String>,
        /// Killed after this many seconds.
        timeout_s: u64,
    },
}

/// The base with `{arch}` filled in by a Debian architecture, as `amd64`.
#[must_use]
pub fn resolve_base(base: &Base, architecture: &str) -> Base {
    match base {
        Base::Tar {
            location,
            sha256,
            checksums,
        } => Base::Tar {
            location: location.replace("{arch}", architecture),
            sha256: sha256.clone(),
            checksums: checksums.clone(),
        },
        Base::Mmdebstrap { .. } | Base::Image { .. } => base.clone(),
    }
}

/// The command that writes the base of a suite as a tar to its standard output.
///
/// It only downloads, checks signatures and extracts: no code of a package runs, so it needs
/// neither root nor a user namespace. The packages are configured by [`Plan::prepare`], in the tree.
#[must_use]
pub fn bootstrap_command(suite: &str) -> Vec<String> {
    [
        "mmdebstrap",
        "--mode=chrootless",
        "--variant=extract",
        "--include=?or(?essential,?priority(required))",
        "--include=apt,ca-certificates",
        // The packages themselves stay in the tree: dpkg installs them there.
        "--skip=cleanup/apt/cache",
        "--format=tar",
        suite,
        "-",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// The steps of a recipe, in order.
#[must_use]
pub fn plan(recipe: &Recipe) -> Plan {
    Plan {
        prepare: prepare(recipe),
        install: install(recipe),
        seal: seal(recipe),
    }
}

/// Carries steps out one after the other; the first failure ends it.
///
/// # Errors
///
/// Whatever `carry_out` returns.
pub async fn execute<E>(
    steps: &[Step],
    mut carry_out: impl AsyncFnMut(&Step) -> Result<(), E>,
) -> Result<(), E> {
    for step in steps {
        carry_out(step).await?;
    }
    Ok(())
}

fn prepare(recipe: &Recipe) -> Vec<Step> {
    let mut steps = vec![
        // apt drops to a user of its own for downloads; a namespace may have no other user.
        write(
            "/etc/apt/apt.conf.d/90sandbox",
            "APT::Sandbox::User \"root\";\n",
            0o644,
        ),
        // No package starts a service when it is installed.
        write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755),
        // The host's own are bound over these where a sandbox has its network.
        write("/etc/hostname", "sandbox\n", 0o644),
        write(
            "/etc/hosts",
            "127.0.0.1 localhost sandbox\n::1 localhost\n",
            0o644,
        ),
        write("/etc/resolv.conf", "", 0o644),
    ];
    if matches!(recipe.base, Base::Mmdebstrap { .. }) {
        steps.push(shell(
            "configure the base system",
            "mkdir -p /var/lib/dpkg /tmp && touch /var/lib/dpkg/status && \
             dpkg --force-depends --force-unsafe-io --force-confold --install /var/cache/apt/archives/*.deb && \
             dpkg --configure --pending && rm -f /var/cache/apt/archives/*.deb",
            600,
        ));
    }
    // Whoever extracted the base without privileges could not make them writable for everybody.
    steps.push(shell(
        "make the temporary directories",
        "mkdir -p /tmp /var/tmp && chmod 1777 /tmp /var/tmp",
        10,
    ));
    steps
}

fn install(recipe: &Recipe) -> Vec<Step> {
    let mut steps = Vec::new();
    if !recipe.apt.is_empty() {
        steps.push(apt("read the package lists", &["update"], &[], 300));
        steps.push(apt("upgrade the base system", &["upgrade", "-y"], &[], 900));
        let title = format!("install {} packages and what they need", recipe.apt.len());
        steps.push(apt(
            &title,
            &["install", "-y", "--no-install-recommends"],
            &recipe.apt,
            1800,
        ));
    }
    // The marker that makes pip refuse to install beside apt: in a sandbox there is nothing to protect.
    steps.push(shell(
        "allow pip beside apt",
        "rm -f /usr/lib/python3*/EXTERNALLY-MANAGED",
        10,
    ));
    for (packages, flag, what) in [
        (&recipe.pip, None, "and what they need"),
        (&recipe.pip_no_deps, Some("--no-deps"), "alone"),
    ] {
        if packages.is_empty() {
            continue;
        }
        let title = format!("install {} Python packages {what}", packages.len());
        let fixed = [
            "python3",
            "-m",
            "pip",
            "install",
            "--no-cache-dir",
            "--root-user-action=ignore",
        ];
        let argv = (fixed.into_iter().chain(flag).chain(["--"]))
            .map(str::to_owned)
            .chain(packages.iter().cloned())
            .collect();
        steps.push(run(&title, argv, 1800));
    }
    steps
}

fn seal(recipe: &Recipe) -> Vec<Step> {
    let mut steps: Vec<_> = recipe
        .directories
        .iter()
        .map(|path| Step::Directory { path: path.clone() })
        .collect();
    steps.extend(recipe.files.iter().map(|file| {
        write(
            &file.path,
            &file.content,
            if file.executable { 0o755 } else { 0o644 },
        )
    }));
    // One file in place of a dozen that each program would open.
    steps.push(shell(
        "gather the locale",
        "if [ -d /usr/lib/locale/C.utf8 ] && command -v localedef; then localedef --add-to-archive /usr/lib/locale/C.utf8; fi",
        60,
    ));
    steps.push(shell(
        "clean up",
        "rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/lib/dpkg/*-old \
         /var/cache/ldconfig/aux-cache /root/.cache && \
         find /tmp /var/tmp /run /var/log -xdev -mindepth 1 '(' -type f -o -type l ')' -delete && \
         if [ -e /etc/machine-id ]; then : > /etc/machine-id; fi",
        120,
    ));
    // no_new_privs makes them useless inside; without them no file of the store tempts anybody outside.
    steps.push(shell(
        "clear set-id bits",
        "find / -xdev -type f -perm /6000 -exec chmod ug-s '{}' + -o -type d -perm /4000 -exec chmod u-s '{}' +",
        120,
    ));
    steps
}

fn apt(title: &str, words: &[&str], packages: &[String], timeout_s: u64) -> Step {
    let options = [
        "-o",
        "Acquire::Retries=3",
        "-o",
        "Acquire::http::Timeout=30",
        "-o",
        "Acquire::https::Timeout=30",
        "-o",
        "Dpkg::Use-Pty=0",
        // A build that dies is thrown away whole: nothing is gained by waiting for the disk.
        "-o",
        "Dpkg::Options::=--force-unsafe-io",
        "-o",
        "Dpkg::Options::=--force-confold",
    ];
    let words = ["apt-get", "-q"]
        .iter()
        .chain(&options)
        .chain(words)
        .map(|word| (*word).to_owned());
    run(
        title,
        words.chain(packages.iter().cloned()).collect(),
        timeout_s,
    )
}

fn shell(title: &str, script: &str, timeout_s: u64) -> Step {
    run(
        title,
        vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
        timeout_s,
    )
}

fn run(title: &str, argv: Vec<String>, timeout_s: u64) -> Step {
    let env = [
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ),
        ("HOME", "/root"),
        ("LANG", "C.UTF-8"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
        ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
    ];
    let env = env
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    Step::Run {
        title: title.to_owned(),
        argv,
        env,
        timeout_s,
    }
}

fn write(path: &str, content: &str, mode: u32) -> Step {
    Step::Write {
        path: path.to_owned(),
        content: content.to_owned(),
        mode,
    }
}
