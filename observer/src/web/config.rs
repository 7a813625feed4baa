//! The file of `--web-config-file`: TLS, passwords and headers, with the keys that Prometheus' exporters have
//! (`web-config.yml` of exporter-toolkit).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use ring::digest::{Context, Digest, SHA256};
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::watch;
use tokio_rustls::rustls::ServerConfig;

use super::{auth::Users, tls};

/// Headers that the file may set, as in exporter-toolkit, and their values if not all are allowed.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

/// The file cannot be used.
#[derive(Debug, Error)]
pub enum WebConfigError {
    /// It, or a file that it names, could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is invalid.
    #[error("{path}: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the key or the place.
        message: String,
    },
    /// It would remove protection: an editor may just have emptied the file.
    #[error("{0} has no {1} any more; turning that off takes a restart")]
    Weaker(PathBuf, &'static str),
}

/// The file as it is written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    tls_server_config: Option<tls::Section>,
    http_server_config: Option<Http>,
    basic_auth_users: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Http {
    /// Accepted, because `true` only allows HTTP/2, which this server never offers.
    #[serde(rename = "http2")]
    _http2: bool,
    headers: Option<BTreeMap<String, String>>,
}

/// The configuration. Without a file, there is neither TLS nor a password.
#[derive(Default)]
pub struct WebConfig {
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// Whether clients have to have certificates.
    client_certificates: bool,
    pub(super) users: Arc<Users>,
    pub(super) headers: HeaderMap,
}

impl WebConfig {
    /// Of URLs.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        match self.tls {
            Some(_) => "https",
            None => "http",
        }
    }
}

/// The file, whose changes take effect without a restart.
pub struct WebConfigFile {
    path: PathBuf,
    /// Contents of the file and of those it names, as they are in use.
    digest: Digest,
    current: watch::Sender<Arc<WebConfig>>,
}

impl WebConfigFile {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// When the file, or one that it names, cannot be read or is invalid.
    pub fn open(path: &Path) -> Result<Self, WebConfigError> {
        let (config, digest) = load(path)?;
        Ok(Self {
            path: path.to_owned(),
            digest,
            current: watch::Sender::new(Arc::new(config)),
        })
    }

    /// The current configuration, which changes with the file.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<WebConfig>> {
        self.current.subscribe()
    }

    /// Reads it again, and the files that it names. Returns whether something changed.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open), and when TLS, passwords or required certificates were removed.
    /// The previous configuration stays in use.
    pub fn refresh(&mut self) -> Result<bool, WebConfigError> {
        let (new, digest) = load(&self.path)?;
        if digest.as_ref() == self.digest.as_ref() {
            return Ok(false);
        }
        let old = self.current.borrow().clone();
        for (what, lost) in [
            ("tls_server_config", old.tls.is_some() && new.tls.is_none()),
            (
                "client_auth_type",
                old.client_certificates && !new.client_certificates,
            ),
            (
                "basic_auth_users",
                !old.users.is_empty() && new.users.is_empty(),
            ),
        ] {
            if lost {
                return Err(WebConfigError::Weaker(self.path.clone(), what));
            }
        }
        self.digest = digest;
        let mut new = new;
        if new.users.are_those_of(&old.users) {
            // With the cached passwords.
            new.users = Arc::clone(&old.users);
        }
        self.current.send_replace(Arc::new(new));
        Ok(true)
    }
}

fn load(path: &Path) -> Result<(WebConfig, Digest), WebConfigError> {
    let invalid = |message| WebConfigError::Invalid {
        path: path.to_owned(),
        message,
    };
    let mut digest = Context::new(&SHA256);
    let mut read = |path: &Path| {
        let content = fs::read(path).map_err(|source| WebConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        digest.update(&content.len().to_ne_bytes());
        digest.update(&content);
        Ok(content)
    };
    let text = String::from_utf8(read(path)?).map_err(|error| invalid(error.to_string()))?;
    let File {
        tls_server_config,
        http_server_config,
        basic_auth_users,
    } = parse(&text).map_err(invalid)?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let tls = match &tls_server_config {
        Some(section) => section.server_config(directory, &mut read, invalid)?,
        None => None,
    };
    let users = Users::new(basic_auth_users.unwrap_or_default()).map_err(invalid)?;
    let headers = http_server_config.and_then(|it| it.headers);
    let config = WebConfig {
        tls: tls.map(Arc::new),
        client_certificates: tls_server_config.is_some_and(|it| it.requires_certificates()),
        users: Arc::new(users),
        headers: self::headers(headers.unwrap_or_default()).map_err(invalid)?,
    };
    Ok((config, digest.finish()))
}

fn parse(text: &str) -> Result<File, String> {
    // Without the lines of the file, which have hashes of passwords and would be logged.
    let file: Result<Option<File>, _> = serde_saphyr::from_str(text);
    file.map(Option::unwrap_or_default)
        .map_err(|error| error.without_snippet().to_string())
}

fn headers(given: BTreeMap<String, String>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let known = HEADERS
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(&name));
        let (name, allowed) = known.ok_or_else(|| {
            let names = HEADERS.map(|(name, _)| name).join(", ");
            format!("headers: {name} cannot be set, only {names}")
        })?;
        if !allowed.is_empty() && !allowed.iter().any(|it| it.eq_ignore_ascii_case(&value)) {
            return Err(format!("headers: {name} can be {}", allowed.join(" or ")));
        }
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
        let value = HeaderValue::from_str(&value).map_err(|error| format!("{name}: {error}"))?;
        headers.insert(header, value);
    }
    Ok(headers)
}
