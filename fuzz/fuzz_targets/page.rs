#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| llm_in_sandbox::fuzz::package_page(data));
