//! What one sandbox has changed of its image is there in another; what ran in it is not.

use std::time::Duration;

use llm_in_sandbox::env::{Env, ExecRequest};
use llm_in_sandbox::host::Sandbox;
use llm_in_sandbox::spec::SandboxSpec;

use crate::fixture::{block_on, launcher, spec};

async fn said(sandbox: &Sandbox, command: &str) -> String {
    let mut request = ExecRequest::new(["bash", "-c", command]);
    request.timeout = Some(Duration::from_secs(30));
    let result = sandbox.exec(&request).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&result.stdout.head), text(&result.stderr.head))
}

/// Two sandboxes on the default image, of which the first keeps account of its changes.
fn between<F: Future<Output = ()>>(test: impl FnOnce([std::sync::Arc<Sandbox>; 2]) -> F) {
    block_on(async {
        let launcher = launcher().await;
        let first = SandboxSpec {
            record_effects: true,
            ..spec()
        };
        let start = async |spec| std::sync::Arc::new(launcher.sandbox(spec).await.unwrap());
        let both = [start(first).await, start(spec()).await];
        test(both.clone()).await;
        for sandbox in both {
            let sandbox = std::sync::Arc::into_inner(sandbox).unwrap();
            sandbox.close().await.unwrap();
        }
    });
}

/// Every kind of change, and how it is seen.
const CHANGES: &str = r"
    cd /testbed
    echo new > 'a file'; chmod 640 'a file'; ln 'a file' hard; ln -s /nowhere soft
    mkdir -p deep/er; echo x > deep/er/x; mkfifo fifo
    echo more >> /etc/profile
    rm /etc/debian_version
    rm -r /usr/share/doc; mkdir /usr/share/doc; echo mine > /usr/share/doc/only
    mv /usr/share/base-files /usr/share/moved
    rm -r /usr/share/misc; echo file > /usr/share/misc
    rm /etc/os-release; mkdir /etc/os-release
    chmod 4755 deep/er/x; chmod 711 /var/tmp; touch -d '2001-02-03 04:05:06' hard
    truncate -s 1M holes; echo end >> holes
    rm -r /opt; ln -s /testbed /opt";
const LOOK: &str = r"
    cd /testbed
    stat -c '%n %a %s %F %Y' 'a file' hard soft deep deep/er/x holes /var/tmp /usr/share/misc /etc/os-release /opt 2>&1
    cat 'a file' hard deep/er/x; test 'a file' -ef hard && echo one; readlink soft /opt
    tail -n 1 /etc/profile; ls /etc/debian_version 2>&1; ls -A /usr/share/doc; find /usr/share/moved | sort
    ls /usr/share/base-files 2>&1; sha256sum holes
    find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp \) -prune -o -not -type p -print | sort | sha256sum";

#[test]
fn every_change_comes_along() {
    between(async |[from, to]| {
        assert_eq!(said(&from, CHANGES).await, "");
        let before = said(&from, LOOK).await;
        let sealed = from.seal_into(&to).await.unwrap();
        let after = said(&to, LOOK).await;
        assert_eq!(after, before);
        assert!(
            before.contains("2001") || before.contains("981173106"),
            "{before}"
        );
        // A FIFO is no file of the tree.
        assert_eq!(sealed.left_out.listed[0].path, "testbed/fifo", "{sealed:?}");
        assert_eq!(sealed.left_out.total(), 1, "{sealed:?}");
        assert!(
            sealed.bytes >= 1 << 20 && sealed.bytes < 64 << 20,
            "{sealed:?}"
        );
    });
}

#[test]
fn no_process_outlives_the_seal() {
    between(async |[from, to]| {
        let begun = "setsid sleep 600 < /dev/null > /dev/null 2>&1 &";
        assert_eq!(said(&from, begun).await, "");
        let shell = from
            .shell("sleep 600 & sleep 0", Duration::from_secs(20))
            .await;
        assert_eq!(shell.unwrap().status, Some(0));
        // One may be gone before it is looked at.
        let count = "cat /proc/[0-9]*/comm 2> /dev/null | grep -c sleep";
        let both = format!("until [ $({count}) = 2 ]; do :; done");
        assert_eq!(said(&from, &both).await, "");
        from.seal_into(&to).await.unwrap();
        for sandbox in [&from, &to] {
            assert_eq!(said(sandbox, count).await, "0\n");
        }
    });
}

#[test]
fn names_that_mean_deletions_delete_nothing() {
    between(async |[from, to]| {
        let plant =
            "mkdir /testbed/d; touch /testbed/d/.wh.keep /testbed/d/.wh..wh..opq /testbed/d/keep";
        assert_eq!(said(&from, plant).await, "");
        let sealed = from.seal_into(&to).await.unwrap();
        assert_eq!(said(&to, "ls -A /testbed/d").await, "keep\n");
        assert_eq!(sealed.left_out.total(), 2, "{sealed:?}");
    });
}

#[test]
fn without_an_account_there_is_nothing_to_carry_over() {
    between(async |[from, to]| {
        let error = to.seal_into(&from).await.unwrap_err();
        assert!(error.to_string().contains("account"), "{error}");
    });
}
