//! Other sandboxes as data: how each is found, and what runs a command in the image with it.

/// How one runs `COMMAND` in `{root}`. In all arguments `{root}` is the image, `{merged}` a writable
/// layer of its own on it, `{bundle}` an OCI bundle whose root is that, `{id}` a new name.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: &'static str,
    /// Environment variable that may name its program.
    pub(super) variable: Option<&'static str>,
    pub(super) program: &'static str,
    /// An overlay is mounted before, and taken away after it: part of its time, for our layer is of ours.
    pub(super) layer: Layer,
    /// What must succeed first, and what to do where it does not.
    pub(super) ready: Option<(&'static [&'static str], &'static str)>,
    /// Before the command.
    pub(super) run: &'static [&'static str],
    /// For those that can run a command in a running sandbox.
    pub(super) visit: Option<Visit>,
}

/// Where the writable layer is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layer {
    /// It makes one, or has none.
    Own,
    /// An overlay of ours.
    Overlay,
    /// The same, and a bundle that holds the command.
    Bundle,
}

/// A sandbox that goes on: begun, visited, ended.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) begin: &'static [&'static str],
    pub(super) exec: &'static [&'static str],
    pub(super) end: &'static [&'static str],
}

const IMAGE: &str = "llm-in-sandbox-peer";
const HINT: &str =
    "its image is missing, or no daemon answers: scripts/peers.sh makes and starts them";

const OCI: Visit = Visit {
    begin: &["run", "-d", "-b", "{bundle}", "{id}"],
    exec: &["exec", "{id}"],
    end: &["delete", "-f", "{id}"],
};

const PLAIN: Peer = Peer {
    name: "",
    variable: None,
    program: "",
    layer: Layer::Own,
    ready: None,
    run: &[],
    visit: None,
};

/// The bubblewrap that bars speak of: its writable layer is its own.
pub(super) const BUBBLEWRAP: &str = "bubblewrap";

/// All that this command can drive. A go-judge is a server with a pool, and isolate needs a box made
/// and removed by commands of its own and has no writable layer: neither starts as one process.
pub(super) const PEERS: [Peer; 14] = [
    Peer {
        name: BUBBLEWRAP,
        variable: Some("BWRAP"),
        program: "bwrap",
        ready: Some((
            &["--overlay-src", "/", "--tmp-overlay", "/", "/bin/true"],
            "it has no --tmp-overlay: bubblewrap 0.11 or newer has",
        )),
        run: &[
            "--unshare-all",
            "--overlay-src",
            "{root}",
            "--tmp-overlay",
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
        ],
        ..PLAIN
    },
    Peer {
        name: "bubblewrap-read-only",
        program: "bwrap",
        run: &[
            "--unshare-all",
            "--ro-bind",
            "{root}",
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
        ],
        ..PLAIN
    },
    Peer {
        name: "nsjail",
        program: "nsjail",
        layer: Layer::Overlay,
        // By default it runs at the lowest priority.
        run: &[
            "-Mo",
            "-Q",
            "--nice_level",
            "0",
            "--rw",
            "--chroot",
            "{merged}",
            "--",
        ],
        ..PLAIN
    },
    Peer {
        name: "minijail",
        program: "minijail0",
        layer: Layer::Overlay,
        run: &[
            "-v", "-p", "-I", "-l", "-e", "-N", "--uts", "-P", "{merged}", "--",
        ],
        ..PLAIN
    },
    Peer {
        name: "crun",
        program: "crun",
        layer: Layer::Bundle,
        run: &["run", "-b", "{bundle}", "{id}"],
        visit: Some(OCI),
        ..PLAIN
    },
    Peer {
        name: "runc",
        program: "runc",
        layer: Layer::Bundle,
        run: &["run", "-b", "{bundle}", "{id}"],
        visit: Some(OCI),
        ..PLAIN
    },
    Peer {
        name: "youki",
        program: "youki",
        layer: Layer::Bundle,
        run: &["run", "-b", "{bundle}", "{id}"],
        ..PLAIN
    },
    Peer {
        name: "runsc",
        program: "runsc",
        layer: Layer::Bundle,
        run: &[
            "--network=none",
            "--ignore-cgroups",
            "run",
            "-bundle",
            "{bundle}",
            "{id}",
        ],
        ..PLAIN
    },
    Peer {
        name: "systemd-nspawn",
        program: "systemd-nspawn",
        layer: Layer::Overlay,
        run: &[
            "-q",
            "--register=no",
            "--keep-unit",
            "--private-network",
            "-M",
            "{id}",
            "-D",
            "{merged}",
            "--",
        ],
        ..PLAIN
    },
    Peer {
        name: "podman",
        program: "podman",
        ready: Some((&["image", "exists", IMAGE], HINT)),
        // Its own limits need CAP_SYS_RESOURCE.
        run: &[
            "run",
            "--rm",
            "--network=none",
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=4096:4096",
            IMAGE,
        ],
        visit: Some(Visit {
            begin: &[
                "run",
                "-d",
                "--rm",
                "--network=none",
                "--ulimit",
                "nofile=1024:1024",
                "--ulimit",
                "nproc=4096:4096",
                "--name",
                "{id}",
                IMAGE,
            ],
            exec: &["exec", "{id}"],
            // Its PID 1 does not heed SIGTERM.
            end: &["rm", "-f", "-t", "0", "{id}"],
        }),
        ..PLAIN
    },
    Peer {
        name: "docker",
        program: "docker",
        ready: Some((&["image", "inspect", IMAGE], HINT)),
        run: &["run", "--rm", IMAGE],
        visit: Some(Visit {
            begin: &["run", "-d", "--rm", "--name", "{id}", IMAGE],
            exec: &["exec", "{id}"],
            end: &["rm", "-f", "{id}"],
        }),
        ..PLAIN
    },
    Peer {
        name: "docker-without-network",
        program: "docker",
        ready: Some((&["image", "inspect", IMAGE], HINT)),
        run: &["run", "--rm", "--network=none", IMAGE],
        ..PLAIN
    },
    Peer {
        name: "containerd",
        program: "ctr",
        ready: Some((
            &[
                "image",
                "check",
                "name==docker.io/library/llm-in-sandbox-peer:latest",
            ],
            HINT,
        )),
        run: &[
            "run",
            "--rm",
            "docker.io/library/llm-in-sandbox-peer:latest",
            "{id}",
        ],
        ..PLAIN
    },
    Peer {
        name: "unshare",
        program: "unshare",
        layer: Layer::Overlay,
        run: &["-Cimnpuf", "--root={merged}", "--mount-proc"],
        ..PLAIN
    },
];
