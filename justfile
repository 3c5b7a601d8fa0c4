# What the project does with its own code; `just --list` shows it.

# Formats everything.
fmt:
    cargo fmt --all

# Formatting, clippy and shell scripts.
lint:
    cargo fmt --all -- --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    shellcheck -x scripts/*.sh scripts/vm/*.sh .ci/run

# All tests of the current user.
test:
    cargo test --workspace --locked

# All tests, as root and as ordinary users.
test-root:
    scripts/test.sh

# The part of the tests that an ordinary user can run, by that user.
test-rootless:
    scripts/test.sh --user

# Limits and walls on other kernels and cgroup hierarchies, in a virtual machine.
test-vm:
    scripts/vm-test.sh

# Pictures of a report for the documentation, made of made-up runs (needs Chromium).
report-screenshots:
    LIS_TEST_REQUIRE=chromium LIS_TEST_SCREENSHOTS={{justfile_directory()}}/docs/report cargo test --locked --test benchmark screenshots

# The rules of the repository.
tidy:
    cargo test --locked --test tidy

# Every benchmark once, to see that it still runs.
bench-smoke:
    cargo bench --locked -- --test

# Looks for input that breaks the host side, a minute for each target (needs nightly and cargo-fuzz).
fuzz seconds="60":
    scripts/fuzz.sh {{seconds}}

# Licences, bans and sources, without network once `cargo fetch` ran. `cargo deny check` adds the advisories.
deny:
    cargo deny --offline check bans licenses sources

# Documentation without warnings.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Exactly what CI runs.
ci:
    .ci/run
