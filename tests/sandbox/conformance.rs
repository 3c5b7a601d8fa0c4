//! What every environment promises, as checks over the trait: any `Env` can be put to them.

use std::time::{Duration, Instant};

use llm_in_sandbox::env::{Env, EnvError, ExecRequest, ExitStatus, FileError, FileKind, GuestPath};

use crate::fixture::{in_sandbox, text};

fn refused<T: std::fmt::Debug>(result: Result<T, EnvError>) -> FileError {
    match result {
        Err(EnvError::File { error, .. }) => error,
        other => panic!("{other:?}"),
    }
}

async fn check_files(env: &impl Env) {
    let every_byte: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for name in [
        "/tmp/plain",
        "/tmp/with space",
        "/tmp/new\nline",
        "/tmp/deep/er/$(x);'q\"",
        "relative",
    ] {
        let path = GuestPath::from(name);
        env.write_file(&path, &every_byte, false).await.unwrap();
        assert_eq!(
            env.read_file(&path, 1 << 20).await.unwrap(),
            every_byte,
            "{name}"
        );
    }
    let invalid = GuestPath::new(b"/tmp/\xff\xfe".to_vec());
    env.write_file(&invalid, b"x", false).await.unwrap();
    assert_eq!(env.stat(&invalid).await.unwrap().size, 1);
    let listing = env
        .list(&GuestPath::from("/tmp/deep"), 9, 10)
        .await
        .unwrap();
    let names: Vec<_> = listing
        .entries
        .iter()
        .map(|entry| entry.path.to_string())
        .collect();
    assert_eq!(names, ["er", "er/$(x);'q\""]);
    assert_eq!(listing.entries[0].stat.kind, FileKind::Directory);
    assert!(
        env.list(&GuestPath::from("/"), 3, 5)
            .await
            .unwrap()
            .truncated
    );
}

async fn check_file_refusals(env: &impl Env) {
    let path = GuestPath::from;
    env.exec(&ExecRequest::new([
        "sh",
        "-c",
        "mkfifo /tmp/fifo; ln -s loop /tmp/loop; echo hi > /tmp/f; chmod 751 /tmp/f",
    ]))
    .await
    .unwrap();
    assert_eq!(
        refused(env.read_file(&path("/tmp/none"), 9).await),
        FileError::NotFound
    );
    assert_eq!(
        refused(env.read_file(&path("/tmp"), 9).await),
        FileError::IsDirectory
    );
    assert_eq!(
        refused(env.read_file(&path("/tmp/fifo"), 9).await),
        FileError::NotRegular
    );
    assert_eq!(
        refused(env.read_file(&path("/dev/zero"), 9).await),
        FileError::NotRegular
    );
    assert_eq!(
        refused(env.read_file(&path("/tmp/f"), 2).await),
        FileError::TooLarge { size: 3, limit: 2 }
    );
    assert_eq!(
        refused(env.write_file(&path("/tmp/f"), b"x", true).await),
        FileError::Exists
    );
    assert_eq!(
        refused(env.write_file(&path("/tmp"), b"x", false).await),
        FileError::IsDirectory
    );
    assert_eq!(
        refused(env.write_file(&path("/tmp/f/g"), b"x", false).await),
        FileError::Exists
    );
    assert_eq!(
        refused(env.write_file(&path("/proc/sys/x"), b"x", false).await),
        FileError::NotFound
    );
    assert!(matches!(
        refused(env.read_file(&path("/tmp/loop"), 9).await),
        FileError::Other(_)
    ));
    env.write_file(&path("/tmp/f"), b"new", false)
        .await
        .unwrap();
    assert_eq!(
        env.stat(&path("/tmp/f")).await.unwrap().mode,
        0o751,
        "an existing file keeps its mode"
    );
}

async fn check_exec(env: &impl Env) {
    let run = async |argv: &[&str]| env.exec(&ExecRequest::new(argv.to_vec())).await.unwrap();
    let result = run(&["sh", "-c", "echo out; echo err >&2; cat; exit 3"]).await;
    assert_eq!(result.status, ExitStatus::Code(3));
    assert_eq!(
        (text(&result.stdout).as_str(), text(&result.stderr).as_str()),
        ("out\n", "err\n")
    );
    assert_eq!(
        run(&["sh", "-c", "kill -9 $$"]).await.status,
        ExitStatus::Signal(9)
    );
    assert_eq!(
        run(&["no-such-program"]).await.status,
        ExitStatus::Code(127)
    );
    assert_eq!(run(&["/etc/passwd"]).await.status, ExitStatus::Code(126));
    assert_eq!(run(&["a\0b"]).await.status, ExitStatus::Code(126));
    assert_eq!(
        text(&run(&["no/such"]).await.stderr),
        "no/such: not found\n"
    );
    let path = GuestPath::from("/tmp/script");
    let result = env.write_file(&path, b"echo script $1", false).await;
    result.unwrap();
    run(&["chmod", "+x", "/tmp/script"]).await;
    let script = run(&["/tmp/script", "one"]).await;
    assert_eq!(
        text(&script.stdout),
        "script one\n",
        "a script without #! is the shell's"
    );
    let signals = run(&["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]).await;
    for line in text(&signals.stdout).lines() {
        let bits = line.rsplit('\t').next().unwrap();
        // Nobody but the C library can reset the two that it has for itself.
        let of_libc = 0b11 << 31;
        assert_eq!(
            u64::from_str_radix(bits, 16).unwrap() & !of_libc,
            0,
            "{line}"
        );
    }
    let mut request = ExecRequest::new(["sh", "-c", "echo $A; pwd"]);
    request.env = vec![("A".into(), "b c".into())];
    request.cwd = Some(GuestPath::from("/usr"));
    assert_eq!(
        text(&env.exec(&request).await.unwrap().stdout),
        "b c\n/usr\n"
    );
    let long = "x".repeat(100_000);
    assert_eq!(text(&run(&["echo", &long]).await.stdout).len(), 100_001);
}

async fn check_exec_bounds(env: &impl Env) {
    let mut request = ExecRequest::new(["sh", "-c", "yes | head -c 50000000; echo end"]);
    request.capture = 1000;
    let stdout = env.exec(&request).await.unwrap().stdout;
    assert_eq!(
        (stdout.head.len(), stdout.omitted, stdout.tail.len()),
        (500, 49_999_004, 500)
    );
    assert!(stdout.tail.ends_with(b"end\n"));

    let mut request = ExecRequest::new([
        "sh",
        "-c",
        "echo before; trap '' TERM INT; sleep 1000 & wait",
    ]);
    request.timeout = Some(Duration::from_millis(300));
    let result = env.exec(&request).await.unwrap();
    assert!(result.timed_out);
    assert_eq!(
        (result.status, text(&result.stdout).as_str()),
        (ExitStatus::Signal(9), "before\n")
    );

    let began = Instant::now();
    let result = env
        .exec(&ExecRequest::new(["sh", "-c", "sleep 1000 & echo started"]))
        .await
        .unwrap();
    assert_eq!(text(&result.stdout), "started\n");
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "a daemon delays nothing"
    );
}

#[test]
fn files_of_any_name_and_content() {
    in_sandbox(async |sandbox| check_files(&*sandbox).await);
}

#[test]
fn file_operations_refuse_with_the_reason() {
    in_sandbox(async |sandbox| check_file_refusals(&*sandbox).await);
}

#[test]
fn programs_get_their_arguments_and_tell_how_they_ended() {
    in_sandbox(async |sandbox| check_exec(&*sandbox).await);
}

#[test]
fn programs_are_bounded_in_output_and_time() {
    in_sandbox(async |sandbox| check_exec_bounds(&*sandbox).await);
}
