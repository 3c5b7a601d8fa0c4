//! What a sandbox plants for the host that copies from it, or removes it.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::process::Command;

use llm_in_sandbox::host::{Launcher, LauncherConfig, Registry};

use crate::canaries::Canaries;
use crate::environments::{program, spec};

const PLANT: &str = r#"
mkdir -p /out/dir; cd /out
ln -s "$0" link; ln -s / root; ln -s /proc/self/root/ magic; ln -s ../../../../../../.. up
mkfifo fifo; cp /bin/true suid; chmod 6755 suid; echo fine > dir/file; chmod 0 dir/file
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
"#;

/// Neither is a link followed, nor does anything arrive that the host could stumble over.
#[test]
fn what_is_copied_out_leads_nowhere() {
    use llm_in_sandbox::env::{Env, ExecRequest};
    let scratch = tempfile::tempdir().unwrap();
    let to = scratch.path().join("out");
    std::fs::create_dir(&to).unwrap();
    let canaries = Canaries::plant("copy");
    let config = LauncherConfig {
        program: Some(program()),
        registry: Some(Registry::at(scratch.path().join("run")).unwrap()),
        ..LauncherConfig::default()
    };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let sandbox = Launcher::start(config)
            .await
            .unwrap()
            .sandbox(spec())
            .await
            .unwrap();
        let request = ExecRequest::new(["sh", "-c", PLANT, canaries.path()]);
        let planted = sandbox.exec(&request).await.unwrap();
        assert!(planted.stderr.head.is_empty(), "{planted:?}");
        sandbox.copy_out(&"/out".into(), &to).await.unwrap();
        sandbox.close().await.unwrap();
    });
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&to).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let kind = metadata.file_type();
        assert!(
            !kind.is_fifo() && !kind.is_socket() && !kind.is_char_device(),
            "{entry:?}"
        );
        assert_eq!(metadata.permissions().mode() & 0o6000, 0, "{entry:?}");
        if kind.is_symlink() {
            let target = std::fs::read_link(entry.path()).unwrap();
            assert!(
                !target.is_absolute() && !target.starts_with(".."),
                "{entry:?} -> {target:?}"
            );
        }
        names.push(entry.file_name());
    }
    assert!(
        names.contains(&"suid".into()) && names.contains(&"dir".into()),
        "{names:?}"
    );
}

/// Deeper than the host may have descriptors, and shut: the writable layer on disk goes all the same.
#[test]
fn deep_and_shut_directories_are_removed() {
    let script = "import os\n\
        os.makedirs('/root/shut/in'); os.chmod('/root/shut', 0)\n\
        here = os.open('/root', os.O_RDONLY)\n\
        for _ in range(2000):\n\
        \x20   os.mkdir('d', dir_fd=here); below = os.open('d', os.O_RDONLY, dir_fd=here)\n\
        \x20   os.close(here); here = below\n\
        print('planted')";
    let scratch = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 256; exec \"$@\"", "sh"])
        .arg(program())
        .args([
            "exec",
            "--upper",
            "disk",
            "--no-disk-limit",
            "--",
            "python3",
            "-c",
            script,
        ])
        .env("LLM_IN_SANDBOX_RUNTIME_DIR", scratch.path().join("run"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "planted\n",
        "{said}"
    );
    assert!(output.status.success(), "{said}");
}
