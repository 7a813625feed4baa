//! Properties of the running kernel: the fields of its structures, the signatures of its functions
//! and tracepoints, its helpers and the mount point of tracefs. Nothing is loaded here.

pub mod fields;
pub mod helpers;
pub mod reset_reasons;
pub mod skips;
pub mod sysctls;
pub mod tracefs;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use nix::sys::utsname::uname;
use observer_core::btf::{KernelBtf, LayoutError};

use self::{
    fields::Layout, helpers::Helpers, skips::Skips, sysctls::SysctlFields, tracefs::find_tracefs,
};

/// The argument types of tracepoints and functions, by name, as
/// [`KernelBtf::tracepoint_args`] and [`KernelBtf::func_args`] render them.
pub type Signatures = HashMap<&'static str, Vec<String>>;

/// The properties of the running kernel before anything is loaded.
#[derive(Debug)]
pub struct Facts {
    /// Where structures have their fields.
    pub fields: Layout,
    /// The reasons for sending an RST, see [`reset_reasons::reset_reasons`].
    pub reset_reasons: BTreeMap<u32, String>,
    /// The kernel's tracepoints and functions, of those that programs are written for.
    pub signatures: Signatures,
    /// Where tracefs is mounted, if it is.
    pub tracefs: Option<PathBuf>,
    /// Helpers that not every kernel has.
    pub helpers: Helpers,
    /// Which runs of programs it skips.
    pub skips: Skips,
    /// Where network namespaces keep their sysctls.
    pub sysctls: SysctlFields,
}

impl Facts {
    /// Reads the properties from the kernel's BTF, and looks for tracefs.
    ///
    /// # Errors
    ///
    /// When a required field is missing.
    pub fn new(btf: &KernelBtf, signatures: Signatures) -> Result<Self, LayoutError> {
        Ok(Self {
            fields: Layout::resolve(btf)?,
            reset_reasons: reset_reasons::reset_reasons(btf),
            signatures,
            tracefs: find_tracefs(),
            helpers: Helpers::find(btf),
            skips: uname().map_or(Skips::Nothing, |name| {
                Skips::of(&name.release().to_string_lossy())
            }),
            sysctls: SysctlFields::find(btf),
        })
    }

    /// How many arguments a tracepoint or function has; 0 when the kernel does not have it.
    pub fn arg_count(&self, hook: &str) -> usize {
        self.signatures.get(hook).map_or(0, Vec::len)
    }

    /// The kernel's number of a reason for an RST, named without prefix: `TCP_STATE`. `None`
    /// when this kernel does not have it.
    pub fn reset_reason(&self, name: &str) -> Option<u32> {
        let mut reasons = self.reset_reasons.iter();
        reasons
            .find(|(_, other)| *other == name)
            .map(|(number, _)| *number)
    }
}
