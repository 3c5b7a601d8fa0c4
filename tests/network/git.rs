//! Programs that speak TLS trust what the host trusts: a clone from a server whose authority is the test's own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::world::{GOOD, World, in_world, lacks, program};

/// An authority, a certificate of it for `good.example`, and a repository.
const PREPARE: &str = r#"
cd "$1"
ec='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
openssl req -x509 $ec -keyout ca.key -out ca.pem -days 2 -subj '/CN=authority of the test' 2>/dev/null
openssl req $ec -keyout key.pem -out request.pem -subj /CN=good.example 2>/dev/null
printf 'subjectAltName=DNS:good.example\n' > names
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert.pem 2>/dev/null
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@good.example GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@good.example
git init --quiet work
head -c 300000 /dev/urandom > work/data
git -C work add data
git -C work commit --quiet -m data
mkdir served
git clone --quiet --bare work served/repository.git
git -C served/repository.git update-server-info
"#;
const SERVER: &str = r"
import functools, http.server, ssl, sys
address, directory = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(directory + '/cert.pem', directory + '/key.pem')
class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer((address, 8443), functools.partial(Handler, directory=directory + '/served'))
server.socket = context.wrap_socket(server.socket, server_side=True)
print('serving', flush=True)
server.serve_forever()
";
const TEST: &str = "git::a_clone_over_https_trusts_what_the_host_trusts";

fn clone(world: &World, bundle: Option<&Path>) -> (Option<i32>, String) {
    let mut command = Command::new("timeout");
    command
        .args(["60".as_ref(), program().as_os_str()])
        .args(["exec", "--net", "internet", "--", "sh", "-ec"])
        .arg(
            "git clone --quiet https://good.example:8443/repository.git /tmp/clone && sha256sum < /tmp/clone/data && \
             curl -sSf https://good.example:8443/repository.git/HEAD",
        )
        .env("LLM_IN_SANDBOX_RUNTIME_DIR", world.path().join("run"));
    if let Some(bundle) = bundle {
        command.env("SSL_CERT_FILE", bundle);
    }
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn a_clone_over_https_trusts_what_the_host_trusts() {
    for tool in ["git", "openssl", "python3"] {
        let version = Command::new(tool).arg("version").output();
        if version.is_err() {
            return lacks(TEST, "git", &format!("needs {tool} on the host"));
        }
    }
    in_world(TEST, |world| {
        let prepared = Command::new("sh")
            .args(["-ec", PREPARE, "sh"])
            .arg(world.path())
            .output()
            .unwrap();
        assert!(prepared.status.success(), "{prepared:?}");
        let mut server = world.far(|| {
            let mut command = Command::new("python3");
            command.args(["-c", SERVER, GOOD]).arg(world.path());
            command.stdout(Stdio::piped()).spawn().unwrap()
        });
        let mut line = String::new();
        let mut told = BufReader::new(server.stdout.take().unwrap());
        told.read_line(&mut line).unwrap();
        assert_eq!(line, "serving\n");
        let data = Command::new("sha256sum")
            .arg(world.path().join("work/data"))
            .output()
            .unwrap();
        let digest = String::from_utf8(data.stdout).unwrap();
        let digest = digest.split(' ').next().unwrap();
        let (code, text) = clone(world, Some(&world.path().join("ca.pem")));
        assert_eq!(code, Some(0), "{text}");
        assert!(
            text.contains(digest) && text.contains("ref: refs/heads/"),
            "{text}"
        );
        // Nobody else vouches for that server.
        let (code, text) = clone(world, None);
        assert_ne!(code, Some(0), "{text}");
        assert!(text.to_lowercase().contains("certificate"), "{text}");
        server.kill().unwrap();
        server.wait().unwrap();
    });
}
