//! What the benchmarks share: their argument, their image and their runtime.

use llm_in_sandbox::image::{Image, Store, state_dir};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_llm-in-sandbox");

/// How many rounds: the number on the command line, or 200; 3 for `cargo bench -- --test`.
pub(crate) fn rounds() -> usize {
    if std::env::args().any(|argument| argument == "--test") {
        return 3;
    }
    let given = std::env::args().skip(1).find_map(|arg| arg.parse().ok());
    given.unwrap_or(200)
}

pub(crate) fn image() -> Image {
    let store = Store::open(&state_dir(None).unwrap()).unwrap();
    let image = store.find("default").unwrap();
    image.expect("no default image: llm-in-sandbox image build")
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
