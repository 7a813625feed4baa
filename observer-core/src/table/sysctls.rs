//! Sysctls, as they were last read.

use std::sync::Arc;

use super::store::Table;
use crate::net::sysctls::Sysctls;

impl Table {
    /// Updates them.
    pub fn update_sysctls(&mut self, sysctls: Sysctls) {
        self.sysctls = Arc::new(sysctls);
    }

    /// Those of the host and of network namespaces with sockets.
    #[must_use]
    pub fn sysctls(&self) -> &Arc<Sysctls> {
        &self.sysctls
    }
}
