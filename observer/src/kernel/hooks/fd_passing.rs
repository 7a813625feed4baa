//! Descriptors that are passed to another process (SCM_RIGHTS).

use observer_common::SIGNAL_RECEIVED;

use super::{
    open_files,
    spec::{AttachType, FallbackChain, chain, function, shared, signal_name, variant},
};

const FILE_RECEIVE_ARGS: &[&str] = &["struct file *"];

/// Every chain of the signal.
pub const CHAINS: &[FallbackChain] = &[chain(
    signal_name(SIGNAL_RECEIVED),
    &[
        variant(
            &[function(
                "file_received_fentry",
                AttachType::Fentry,
                "security_file_receive",
                FILE_RECEIVE_ARGS,
            )],
            &[SIGNAL_RECEIVED],
        ),
        variant(
            &[function(
                "file_received_kprobe",
                AttachType::Kprobe,
                "security_file_receive",
                FILE_RECEIVE_ARGS,
            )],
            &[SIGNAL_RECEIVED],
        ),
        variant(&[shared(open_files::ITER)], &[]).remark("found by the next resynchronisation"),
    ],
)];
