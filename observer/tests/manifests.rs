//! Tests that the manifests of deploy/kubernetes match the daemon's flags and capabilities, and the workflows of .github.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Parser as _;
use observer::{
    cli::{self, Cli},
    privileges::KEEP,
};
use observer_test_support::{left_out, needs_programs};
use serde_json::Value;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes")
}

fn daemonset() -> Value {
    let text = std::fs::read_to_string(directory().join("base/daemonset.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

#[test]
fn flags_ports_and_capabilities_are_those_of_the_daemon() {
    let daemonset = daemonset();
    let container = &daemonset["spec"]["template"]["spec"]["containers"][0];
    let args = container["args"].as_array().unwrap();
    let args = args.iter().map(|it| it.as_str().unwrap());
    let cli = Cli::try_parse_from(["observer"].into_iter().chain(args)).unwrap();
    let cli::Command::Run(args) = cli.command else {
        panic!("{container}");
    };
    let listen = args.settings().unwrap().listen;
    let port = &container["ports"][0];
    assert_eq!(port["containerPort"], listen.port());
    assert_eq!(port["hostPort"], listen.port());

    let added = container["securityContext"]["capabilities"]["add"].as_array();
    let added: BTreeSet<_> = added
        .unwrap()
        .iter()
        .map(|it| it.as_str().unwrap())
        .collect();
    // CAP_PERFMON is for attaching alone.
    let wanted = KEEP.iter().map(ToString::to_string);
    let wanted: BTreeSet<_> = wanted.chain(["CAP_PERFMON".to_owned()]).collect();
    let wanted = wanted
        .iter()
        .map(|it| it.trim_start_matches("CAP_"))
        .collect();
    assert_eq!(added, wanted);
}

/// By `kubectl kustomize`, and `kubernetes-validate` of PyPI, whose strict mode knows misspelt keys.
#[test]
fn manifests_are_valid() {
    needs_programs!("kubectl", "kubernetes-validate");
    let base = kustomize("base").unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), base).unwrap();
    let mut validate = Command::new("kubernetes-validate");
    let validated = validate.arg("--strict").arg(file.path()).output().unwrap();
    let error = String::from_utf8_lossy(&validated.stderr);
    let text = String::from_utf8_lossy(&validated.stdout);
    assert!(validated.status.success(), "{text}{error}");

    // Its kind is the operator's, of which the validator has no schema.
    match kustomize("podmonitor") {
        Ok(_) => {}
        // Before 1.21, a directory is no resource.
        Err(error) if error.contains("must be a file") => {
            left_out!("this kubectl is too old for deploy/kubernetes/podmonitor");
        }
        Err(error) => panic!("{error}"),
    }
}

/// The manifests of a directory, or kubectl's error.
fn kustomize(name: &str) -> Result<Vec<u8>, String> {
    let mut kubectl = Command::new("kubectl");
    let built = kubectl.arg("kustomize").arg(directory().join(name));
    let built = built.output().unwrap();
    let error = String::from_utf8_lossy(&built.stderr).into_owned();
    built.status.success().then_some(built.stdout).ok_or(error)
}

/// By the schema that `check-jsonschema` of PyPI brings.
#[test]
fn workflows_are_valid() {
    needs_programs!("check-jsonschema");
    let workflows = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.github/workflows");
    let files = std::fs::read_dir(workflows).unwrap();
    let mut check = Command::new("check-jsonschema");
    check.args(["--builtin-schema", "vendor.github-workflows"]);
    check.args(files.map(|file| file.unwrap().path()));
    let checked = check.output().unwrap();
    let text = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{text}");
}
