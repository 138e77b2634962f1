#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tinygptv_fuzz::targets::vision_gguf::run(data));
