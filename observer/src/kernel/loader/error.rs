//! Errors of loading.

use std::{io, path::PathBuf};

use thiserror::Error;

use observer_core::btf::{BtfError, LayoutError};

/// Why loading failed.
#[derive(Debug, Error)]
pub enum LoadError {
    /// No BTF.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// BTF that aya cannot use.
    #[error("cannot use the BTF in {}", path.display())]
    AyaBtf {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: aya::BtfError,
    },
    /// A required field is missing.
    #[error("this kernel's structures are not as expected")]
    Layout(#[from] LayoutError),
    /// The object could not be loaded: no permission, no memory, a map type missing.
    #[error("cannot load the kernel programs' maps")]
    Object(#[source] Box<aya::EbpfError>),
    /// A required program could not be attached.
    #[error("cannot attach to {hook}: {detail}")]
    Required {
        /// The hook.
        hook: &'static str,
        /// Why.
        detail: String,
    },
    /// A map is not as expected.
    #[error("cannot use the map {map}")]
    Map {
        /// Its name.
        map: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}
