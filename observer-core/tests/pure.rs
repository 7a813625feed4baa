//! This crate builds without the kernel side and without a network stack.

use std::process::Command;

#[test]
fn depends_on_no_bpf_library_and_no_async_runtime() {
    let cargo = std::env::var_os("CARGO").expect("run by cargo");
    let output = Command::new(cargo)
        .args(["tree", "--package", "observer-core", "--locked"])
        .args(["--edges", "normal,build", "--prefix", "none"])
        .args(["--format", "{lib}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let tree = String::from_utf8(output.stdout).expect("UTF-8");
    let libraries: Vec<&str> = tree.lines().collect();
    assert!(libraries.contains(&"observer_common"), "{libraries:?}");
    for banned in ["aya", "hyper", "tokio"] {
        assert!(!libraries.contains(&banned), "{banned} is back");
    }
}
