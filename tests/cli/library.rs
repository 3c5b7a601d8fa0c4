//! The library's example, as the README shows it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::{code, finish, stderr};

const README: &str = include_str!("../../README.md");
const EXAMPLE: &str = include_str!("../../examples/quickstart.rs");

#[test]
fn the_readme_shows_the_example() {
    let (_, rest) = README
        .split_once("<!-- example:start -->\n```rust\n")
        .unwrap();
    let (shown, _) = rest.split_once("```\n<!-- example:end -->").unwrap();
    assert_eq!(shown, EXAMPLE);
}

#[test]
fn the_example_runs() {
    // Cargo builds it for its tests, beside the directory of the test programs.
    let tests = std::env::current_exe().unwrap();
    let example: PathBuf = tests.parent().unwrap().join("../examples/quickstart");
    if !example.exists() {
        println!("SKIP the_example_runs: the example was not built beside these tests");
        return;
    }
    let mut command = Command::new(example);
    command.stdin(Stdio::null());
    let output = finish(command);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "42\n");
}
