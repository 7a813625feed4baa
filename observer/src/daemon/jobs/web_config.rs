//! Reads the web configuration file again, with the certificates that it names.

use std::time::Duration;

use observer_core::config::Settings;
use tracing::info;

use crate::{daemon::scheduler::Job, web::WebConfigFile};

/// A few small files.
const INTERVAL: Duration = Duration::from_secs(5);

/// In a job, because the server's threads may open no files, and because with CAP_DAC_READ_SEARCH,
/// which the daemon keeps, it can read keys of any owner.
pub struct WebConfig(pub WebConfigFile);

impl Job for WebConfig {
    fn name(&self) -> &'static str {
        "web_config"
    }

    fn interval(&self, _settings: &Settings) -> Duration {
        INTERVAL
    }

    fn runs_at_start(&self) -> bool {
        false
    }

    fn run(&mut self) -> anyhow::Result<()> {
        if self.0.refresh()? {
            info!("web configuration read");
        }
        Ok(())
    }
}
