//! Carries out one step of a plan in PID 1.

use std::collections::{HashSet, VecDeque};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::prctl::{set_dumpable, set_pdeathsig};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fstat, major, minor, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{
    Gid, Uid, chdir, chroot, fchdir, pivot_root, setgroups, sethostname, setresgid, setresuid,
    symlinkat,
};

use super::effects::Layers;
use super::{networks, seccomp};
use crate::sys::landlock;
use crate::sys::mount::{
    FsOption, NODEV, NOEXEC, NOSUID, RDONLY, attach, clone_tree, new_fs, set_attributes,
};
use crate::sys::process;
use crate::wire::SetupOp;

/// What the steps act on.
#[derive(Debug)]
pub(super) struct Stage {
    /// The mount in which paths of the steps are resolved: the host's `/`, the scaffold, and at last the new `/`.
    root: OwnedFd,
    /// The one before, which lies below until it is left.
    old: Option<OwnedFd>,
    /// The mounts of the plan: the new `/`, and its binds in order.
    pub(super) mounts: VecDeque<OwnedFd>,
    /// Its network device, for the host.
    pub(super) device: Option<OwnedFd>,
    /// Where the host hears of refused calls.
    pub(super) listener: Option<OwnedFd>,
    /// What the root is made of.
    pub(super) layers: Option<Layers>,
}

impl Stage {
    /// Before the first step.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            root: open_directory("/")?,
            old: None,
            mounts: VecDeque::new(),
            device: None,
            listener: None,
            layers: None,
        })
    }

    /// Does one step.
    pub(super) fn apply(&mut self, op: &SetupOp) -> io::Result<()> {
        match op {
            SetupOp::BecomeRoot { drop_groups } => become_root(*drop_groups),
            SetupOp::Scaffold {
                directories,
                bytes,
                inodes,
            } => {
                self.enter(tmpfs(*bytes, *inodes, 0o755, NODEV | NOSUID)?)?;
                self.make_directories(directories)
            }
            SetupOp::Mount { path } => self.over(path, |directory| clone_tree(directory, c"")),
            SetupOp::EnterRoot => {
                let root = self.next_mount()?;
                self.enter(root)
            }
            SetupOp::Layers => {
                let (upper, lower) = (self.next_mount()?, self.next_mount()?);
                self.layers = Some(Layers { upper, lower });
                Ok(())
            }
            SetupOp::Move { path } => self.take_over(path),
            SetupOp::Proc => {
                let proc = new_fs(c"proc", &[], NODEV | NOSUID | NOEXEC)?;
                attach(proc.as_fd(), self.directory("/proc")?.as_fd())
            }
            SetupOp::Tmpfs {
                target,
                bytes,
                inodes,
                mode,
            } => {
                let mount = tmpfs(*bytes, *inodes, *mode, NODEV | NOSUID)?;
                attach(mount.as_fd(), self.directory(target)?.as_fd())
            }
            SetupOp::Resize { target, bytes } => resize(target, *bytes),
            SetupOp::Device { name, major, minor } => self.device(name, (*major, *minor)),
            SetupOp::Symlink { path, target } => {
                let (parent, name) = split(path)?;
                symlinkat(target.as_str(), self.directory(parent)?, name)?;
                Ok(())
            }
            SetupOp::Devpts { max } => self.devpts(*max),
            SetupOp::Bind { target } => self.bind(target),
            SetupOp::EmptyDirectory { path } => self.over(path, |_| {
                let empty = self.resolve("/sys", OFlag::O_PATH | OFlag::O_DIRECTORY)?;
                restricted(empty.as_fd(), RDONLY | NODEV | NOSUID | NOEXEC)
            }),
            SetupOp::MaskFile { path } => self.over(path, |_| {
                restricted(self.resolve("/dev/null", OFlag::O_PATH)?.as_fd(), RDONLY)
            }),
            SetupOp::ReadOnly { path } => self.over(path, |target| restricted(target, RDONLY)),
            SetupOp::AllowPing { groups } => {
                let range = format!("0 {}", groups.saturating_sub(1));
                self.write("/proc/sys/net/ipv4/ping_group_range", &range)
            }
            SetupOp::Pivot => self.pivot(),
            SetupOp::ChangeRoot => self.change_root(),
            SetupOp::LookUp(paths) => self.look_up(paths),
            SetupOp::Hostname(name) => Ok(sethostname(name)?),
            SetupOp::Loopback => process::loopback_up(),
            SetupOp::NetworkDevice(device) => {
                self.device = Some(networks::make_device(device, "/proc")?);
                Ok(())
            }
            SetupOp::File { path, content } => write_file(path, content),
            SetupOp::Workdir(path) => fs::create_dir_all(path),
            SetupOp::Limit { name, value } => limit(name, *value),
            SetupOp::Keyring => process::join_new_session_keyring(),
            SetupOp::CapabilitiesBound(names) => bound_capabilities(names),
            SetupOp::Capabilities(names) => reduce_capabilities(names),
            SetupOp::Guard => {
                set_dumpable(false)?;
                Ok(set_pdeathsig(Signal::SIGKILL)?)
            }
            SetupOp::Landlock { version, tcp } => give_up_rights(*version, *tcp),
            SetupOp::Seccomp(set) => {
                self.listener = seccomp::install_last(set)?;
                Ok(())
            }
        }
    }

    /// In a tree that is ours alone, parents first.
    fn make_directories(&self, paths: &[String]) -> io::Result<()> {
        for path in paths {
            let mode = Mode::from_bits_truncate(0o755);
            mkdirat(&self.root, path.trim_start_matches('/'), mode)?;
        }
        Ok(())
    }

    /// Stacks a mount on `/` and goes on in it.
    fn enter(&mut self, root: OwnedFd) -> io::Result<()> {
        attach(root.as_fd(), open_directory("/")?.as_fd())?;
        self.old = Some(std::mem::replace(&mut self.root, root));
        Ok(())
    }

    /// Moves a mount from the tree before.
    fn take_over(&self, path: &str) -> io::Result<()> {
        let from = self.old.as_ref().ok_or(Errno::ENOENT)?;
        let mount = resolve_in(from, path, OFlag::O_PATH)?;
        attach(mount.as_fd(), self.directory(path)?.as_fd())
    }

    fn next_mount(&mut self) -> io::Result<OwnedFd> {
        let mount = self.mounts.pop_front();
        mount.ok_or_else(|| io::Error::other("no mount came for it"))
    }

    fn device(&self, name: &str, number: (u32, u32)) -> io::Result<()> {
        let path = format!("/dev/{name}");
        let node = open(
            path.as_str(),
            OFlag::O_PATH | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        let stat = fstat(&node)?;
        let found = (major(stat.st_rdev), minor(stat.st_rdev));
        let is_device = SFlag::from_bits_truncate(stat.st_mode).contains(SFlag::S_IFCHR);
        if !is_device || found != (number.0.into(), number.1.into()) {
            return Err(io::Error::other("the host's node is not that device"));
        }
        let mount = restricted(node.as_fd(), NOSUID | NOEXEC)?;
        attach(mount.as_fd(), self.file(&path)?.as_fd())
    }

    fn devpts(&self, max: u32) -> io::Result<()> {
        let max = CString::new(max.to_string())?;
        let mount = new_fs(
            c"devpts",
            &[
                FsOption::Flag(c"newinstance"),
                FsOption::Value(c"ptmxmode", c"0666"),
                FsOption::Value(c"mode", c"0620"),
                FsOption::Value(c"max", &max),
            ],
            NOSUID | NOEXEC,
        )?;
        attach(mount.as_fd(), self.directory("/dev/pts")?.as_fd())
    }

    fn bind(&mut self, target: &str) -> io::Result<()> {
        let mount = self.next_mount()?;
        let directory = SFlag::from_bits_truncate(fstat(&mount)?.st_mode) & SFlag::S_IFMT;
        let target = if directory == SFlag::S_IFDIR {
            self.directory(target)?
        } else {
            self.file(target)?
        };
        attach(mount.as_fd(), target.as_fd())
    }

    /// Mounts over something that the kernel may or may not have.
    fn over(
        &self,
        path: &str,
        make: impl FnOnce(BorrowedFd<'_>) -> io::Result<OwnedFd>,
    ) -> io::Result<()> {
        match self.resolve(path, OFlag::O_PATH) {
            Ok(target) => attach(make(target.as_fd())?.as_fd(), target.as_fd()),
            Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&self, path: &str, content: &str) -> io::Result<()> {
        let file = self.resolve(path, OFlag::O_WRONLY)?;
        nix::unistd::write(file, content.as_bytes())?;
        Ok(())
    }

    fn pivot(&mut self) -> io::Result<()> {
        fchdir(&self.root)?;
        // Stacks the old root on the new one and takes it off again: needs no directory for it.
        pivot_root(".", ".")?;
        umount2(".", MntFlags::MNT_DETACH)?;
        chdir("/")?;
        self.old = None;
        Ok(())
    }

    /// Where that root lies on the one before, `..` and a second chroot end in it, too: the way up leads through its mount.
    fn change_root(&mut self) -> io::Result<()> {
        fchdir(&self.root)?;
        chroot(".")?;
        self.old = None;
        Ok(())
    }

    /// Resolves a path in the new root: a link of a hostile image leads nowhere else.
    fn resolve(&self, path: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
        resolve_in(&self.root, path, flags)
    }

    fn look_up(&self, paths: &[String]) -> io::Result<()> {
        for path in paths {
            let _ = self.resolve(path, OFlag::O_PATH);
        }
        Ok(())
    }

    fn directory(&self, path: &str) -> io::Result<OwnedFd> {
        match self.resolve(path, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => {}
            found => return Ok(found?),
        }
        let (parent, name) = split(path)?;
        let parent = self.directory(parent)?;
        let before = fstat(&parent)?;
        mkdirat(&parent, name, Mode::from_bits_truncate(0o755))?;
        // An image that is made in this tree must not depend on when that was.
        for (name, seconds) in [(name, 0), (".", before.st_mtime)] {
            let time = TimeSpec::new(seconds, 0);
            let _ = utimensat(&parent, name, &time, &time, UtimensatFlags::NoFollowSymlink);
        }
        Ok(self.resolve(path, OFlag::O_PATH | OFlag::O_DIRECTORY)?)
    }

    fn file(&self, path: &str) -> io::Result<OwnedFd> {
        match self.resolve(path, OFlag::O_PATH) {
            Err(Errno::ENOENT) => {}
            found => return Ok(found?),
        }
        let (parent, _) = split(path)?;
        self.directory(parent)?;
        Ok(self.resolve(path, OFlag::O_WRONLY | OFlag::O_CREAT)?)
    }
}

fn resolve_in(root: &OwnedFd, path: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(if flags.contains(OFlag::O_CREAT) {
            Mode::from_bits_truncate(0o644)
        } else {
            Mode::empty()
        })
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

fn split(path: &str) -> io::Result<(&str, &str)> {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some((_, "")) | None => Err(io::Error::other(format!("{path} has no parent"))),
        Some(("", name)) => Ok(("/", name)),
        Some(parts) => Ok(parts),
    }
}

fn open_directory(path: &str) -> io::Result<OwnedFd> {
    Ok(open(
        path,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?)
}

/// One more mount of a file or directory, with these attributes.
fn restricted(target: BorrowedFd<'_>, attributes: u64) -> io::Result<OwnedFd> {
    let mount = clone_tree(target, c"")?;
    set_attributes(mount.as_fd(), attributes)?;
    Ok(mount)
}

fn tmpfs(bytes: u64, inodes: u64, mode: u32, attributes: u64) -> io::Result<OwnedFd> {
    let bytes = CString::new(bytes.to_string())?;
    let inodes = CString::new(inodes.to_string())?;
    let mode = CString::new(format!("{mode:o}"))?;
    new_fs(
        c"tmpfs",
        &[
            FsOption::Value(c"size", &bytes),
            FsOption::Value(c"nr_inodes", &inodes),
            FsOption::Value(c"mode", &mode),
        ],
        attributes,
    )
}

fn resize(target: &str, bytes: u64) -> io::Result<()> {
    let same = MsFlags::MS_REMOUNT | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    let size = format!("size={bytes}");
    let no = None::<&str>;
    Ok(mount(no, target, no, same, Some(size.as_str()))?)
}

/// Never through a link of the image's.
fn write_file(path: &str, content: &str) -> io::Result<()> {
    let (parent, _) = split(path)?;
    fs::create_dir_all(parent)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).open(path)?;
    file.write_all(content.as_bytes())
}

fn become_root(drop_groups: bool) -> io::Result<()> {
    if drop_groups {
        setgroups(&[])?;
    }
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    Ok(())
}

/// Devices cannot be made, renaming goes on everywhere, and nobody outside can be signalled or
/// reached through an abstract socket, which with the host's network would be the host's services.
fn give_up_rights(version: u32, tcp: bool) -> io::Result<()> {
    let files = landlock::MAKE_CHAR | landlock::MAKE_BLOCK | landlock::REFER;
    let network = if tcp && version >= 4 {
        landlock::TCP
    } else {
        0
    };
    let scoped = if version >= 6 { landlock::SCOPES } else { 0 };
    let root = open_directory("/")?;
    landlock::restrict(files, network, scoped, root.as_fd(), landlock::REFER)
}

fn limit(name: &str, value: u64) -> io::Result<()> {
    let resource = match name {
        "NOFILE" => Resource::RLIMIT_NOFILE,
        "CORE" => Resource::RLIMIT_CORE,
        "SIGPENDING" => Resource::RLIMIT_SIGPENDING,
        "MSGQUEUE" => Resource::RLIMIT_MSGQUEUE,
        "MEMLOCK" => Resource::RLIMIT_MEMLOCK,
        "NPROC" => Resource::RLIMIT_NPROC,
        _ => return Err(io::Error::other("unknown limit")),
    };
    // Without CAP_SYS_RESOURCE the hard limit cannot be raised: the lower of the two holds.
    let (_, hard) = nix::sys::resource::getrlimit(resource)?;
    let value = value.min(hard);
    Ok(setrlimit(resource, value, value)?)
}

fn capabilities(names: &[String]) -> io::Result<HashSet<Capability>> {
    let parsed = names.iter().map(|name| name.parse::<Capability>());
    parsed.collect::<Result<_, _>>().map_err(io::Error::other)
}

fn bound_capabilities(names: &[String]) -> io::Result<()> {
    let kept = capabilities(names)?;
    for capability in caps::all() {
        if !kept.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability).map_err(io::Error::other)?;
        }
    }
    Ok(())
}

fn reduce_capabilities(names: &[String]) -> io::Result<()> {
    let kept = capabilities(names)?;
    caps::clear(None, CapSet::Inheritable).map_err(io::Error::other)?;
    caps::set(None, CapSet::Effective, &kept).map_err(io::Error::other)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(io::Error::other)
}
