//! TLS as the section `tls_server_config` of the web configuration file describes it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use tokio_rustls::rustls::{
    CipherSuite, Error, NamedGroup, RootCertStore, ServerConfig, SupportedCipherSuite,
    SupportedProtocolVersion,
    crypto::{CryptoProvider, SupportedKxGroup, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};

/// The `client_auth_type` that requires client certificates.
const REQUIRED: &str = "RequireAndVerifyClientCert";

/// The section as it is written. Paths are relative to the directory of the file.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Section {
    cert_file: PathBuf,
    key_file: PathBuf,
    client_auth_type: String,
    client_ca_file: PathBuf,
    min_version: String,
    max_version: String,
    cipher_suites: Option<Vec<String>>,
    prefer_server_cipher_suites: bool,
    curve_preferences: Option<Vec<String>>,
}

impl Default for Section {
    /// Keys of exporter-toolkit.
    fn default() -> Self {
        Self {
            cert_file: PathBuf::new(),
            key_file: PathBuf::new(),
            client_auth_type: String::new(),
            client_ca_file: PathBuf::new(),
            min_version: "TLS12".to_owned(),
            max_version: "TLS13".to_owned(),
            cipher_suites: None,
            prefer_server_cipher_suites: true,
            curve_preferences: None,
        }
    }
}

impl Section {
    /// The server's side of TLS; `None` if the section names no files, which turns TLS off. Files are
    /// relative to `directory`; `read` reads a file, and `invalid` creates an error from a message.
    pub(super) fn server_config<E>(
        &self,
        directory: &Path,
        mut read: impl FnMut(&Path) -> Result<Vec<u8>, E>,
        invalid: impl Fn(String) -> E,
    ) -> Result<Option<ServerConfig>, E> {
        let given = |path: &Path| !path.as_os_str().is_empty();
        if ![&self.cert_file, &self.key_file, &self.client_ca_file]
            .map(|it| given(it))
            .contains(&true)
            && self.client_auth_type.is_empty()
        {
            return Ok(None);
        }
        for (key, path) in [("cert_file", &self.cert_file), ("key_file", &self.key_file)] {
            if !given(path) {
                return Err(invalid(format!("tls_server_config: {key} is missing")));
            }
        }
        let mut pem = |key: &str, path: &Path| {
            let path = directory.join(path);
            let content = read(&path)?;
            Ok::<_, E>((format!("{key}: {}", path.display()), content))
        };
        let cert = pem("cert_file", &self.cert_file)?;
        let key = pem("key_file", &self.key_file)?;
        let authorities = match given(&self.client_ca_file) {
            true => Some(pem("client_ca_file", &self.client_ca_file)?),
            false => None,
        };
        self.build(&cert, &key, authorities.as_ref())
            .map(Some)
            .map_err(|error| invalid(format!("tls_server_config: {error}")))
    }

    /// Of the contents of files with what names them.
    fn build(
        &self,
        cert: &(String, Vec<u8>),
        key: &(String, Vec<u8>),
        authorities: Option<&(String, Vec<u8>)>,
    ) -> Result<ServerConfig, String> {
        let mut provider = ring::default_provider();
        if let Some(names) = self.cipher_suites.as_deref().filter(|it| !it.is_empty()) {
            provider.cipher_suites = cipher_suites(names, &provider)?;
        }
        if let Some(names) = self
            .curve_preferences
            .as_deref()
            .filter(|it| !it.is_empty())
        {
            provider.kx_groups = groups(names, &provider)?;
        }
        let keys = provider.key_provider;
        let provider = Arc::new(provider);
        let verifier = self.verifier(authorities, &provider)?;
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&self.versions()?)
            .map_err(|error| error.to_string())?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let chain = certificates(cert)?;
        let (cert_name, key_name) = (&cert.0, &key.0);
        let key = private_key(key)?;
        // By itself, so that it is known which of the two is wrong.
        let loaded = keys.load_private_key(key.clone_key());
        loaded.map_err(|error| format!("{key_name}: {error}"))?;
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                Error::InconsistentKeys(_) => {
                    format!(
                        "{cert_name}: it is the certificate of another key than that of {key_name}"
                    )
                }
                error => format!("{cert_name}: {error}"),
            })?;
        config.ignore_client_order = self.prefer_server_cipher_suites;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Whether clients have to have certificates.
    pub(super) fn requires_certificates(&self) -> bool {
        self.client_auth_type == REQUIRED
    }

    fn versions(&self) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
        let number = |key: &str, name: &str| match name {
            "TLS12" => Ok(2),
            "TLS13" => Ok(3),
            _ => Err(format!(
                "{key}: {name} is not supported, only TLS12 and TLS13"
            )),
        };
        let min = number("min_version", &self.min_version)?;
        let max = number("max_version", &self.max_version)?;
        if min > max {
            return Err("min_version is above max_version".to_owned());
        }
        let versions = [(2, &TLS12), (3, &TLS13)];
        let wanted = versions.iter().filter(|it| (min..=max).contains(&it.0));
        Ok(wanted.map(|it| it.1).collect())
    }

    /// The verifier of client certificates, if they are used.
    fn verifier(
        &self,
        authorities: Option<&(String, Vec<u8>)>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
        let optional = match self.client_auth_type.as_str() {
            "" | "NoClientCert" if authorities.is_some() => {
                return Err("client_ca_file needs a client_auth_type that verifies".to_owned());
            }
            "" | "NoClientCert" => return Ok(None),
            "VerifyClientCertIfGiven" => true,
            REQUIRED => false,
            // The other types accept any certificate.
            other => {
                return Err(format!(
                    "client_auth_type: {other} is not supported, only NoClientCert, \
                     VerifyClientCertIfGiven and RequireAndVerifyClientCert"
                ));
            }
        };
        let authorities = authorities.ok_or("client_ca_file is missing")?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(authorities)? {
            let added = roots.add(certificate);
            added.map_err(|error| format!("{}: {error}", authorities.0))?;
        }
        let builder =
            WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(provider));
        let builder = match optional {
            true => builder.allow_unauthenticated(),
            false => builder,
        };
        builder.build().map(Some).map_err(|error| error.to_string())
    }
}

fn private_key((name, pem): &(String, Vec<u8>)) -> Result<PrivateKeyDer<'static>, String> {
    /// The end of the label of an encrypted key, and a field of the older format.
    const ENCRYPTED: [&[u8]; 2] = [b"ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED"];
    let is_encrypted = ENCRYPTED
        .iter()
        .any(|it| pem.windows(it.len()).any(|part| part == *it));
    if is_encrypted {
        return Err(format!(
            "{name}: the private key is encrypted, and there is no password for it"
        ));
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        pem::Error::NoItemsFound => format!("{name}: no private key in PEM"),
        error => format!("{name}: {error}"),
    })
}

fn certificates((name, pem): &(String, Vec<u8>)) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| format!("{name}: {error}"))?;
    match certificates.is_empty() {
        true => Err(format!("{name}: no certificate in PEM")),
        false => Ok(certificates),
    }
}

/// The given suites of TLS 1.2, and all of TLS 1.3, which Go does not allow to restrict either.
fn cipher_suites(
    names: &[String],
    provider: &CryptoProvider,
) -> Result<Vec<SupportedCipherSuite>, String> {
    let known = &provider.cipher_suites;
    let name = |suite: &SupportedCipherSuite| go_name(suite.suite());
    for given in names {
        if !known.iter().any(|suite| name(suite) == *given) {
            let names: Vec<_> = known.iter().map(name).collect();
            let names = names.join(", ");
            return Err(format!(
                "cipher_suites: {given} is not supported, only {names}"
            ));
        }
    }
    let wanted = known
        .iter()
        .filter(|suite| suite.tls13().is_some() || names.contains(&name(suite)));
    Ok(wanted.copied().collect())
}

/// Its name in Go and IANA's registry.
fn go_name(suite: CipherSuite) -> String {
    suite.as_str().unwrap_or_default().replace("TLS13_", "TLS_")
}

/// Curves for the key exchange, best first.
fn groups(
    names: &[String],
    provider: &CryptoProvider,
) -> Result<Vec<&'static dyn SupportedKxGroup>, String> {
    let group = |name: &String| {
        let group = match name.as_str() {
            "X25519" => NamedGroup::X25519,
            "CurveP256" => NamedGroup::secp256r1,
            "CurveP384" => NamedGroup::secp384r1,
            _ => return None,
        };
        provider
            .kx_groups
            .iter()
            .find(|it| it.name() == group)
            .copied()
    };
    names
        .iter()
        .map(|name| {
            group(name).ok_or_else(|| {
                format!("curve_preferences: {name} is not supported, only X25519, CurveP256 and CurveP384")
            })
        })
        .collect()
}
