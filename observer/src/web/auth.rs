//! Basic authentication with the users of the web configuration file.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use axum::http::{HeaderMap, header};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::{hmac, rand::SystemRandom};
use tokio::sync::Mutex;

/// The users. A password is checked with bcrypt, which takes a tenth of a second of CPU time or
/// more, so only one check runs at a time, and the last correct password of each user is cached.
#[derive(Default)]
pub(super) struct Users {
    users: BTreeMap<String, Arc<User>>,
    /// Checked for a user that does not exist, so that this takes the same time.
    nobody: Option<Arc<User>>,
    turn: Arc<Mutex<()>>,
}

struct User {
    hash: String,
    key: hmac::Key,
    /// Keyed hash of the last correct password.
    right: OnceLock<hmac::Tag>,
}

impl User {
    fn new(hash: String) -> Result<Arc<Self>, String> {
        let random = SystemRandom::new();
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &random);
        Ok(Arc::new(Self {
            hash,
            key: key.map_err(|_| "no random numbers")?,
            right: OnceLock::new(),
        }))
    }

    fn remembers(&self, password: &[u8]) -> bool {
        let right = self.right.get();
        right.is_some_and(|tag| hmac::verify(&self.key, password, tag.as_ref()).is_ok())
    }

    /// Takes long.
    fn verify(&self, password: &[u8]) -> bool {
        let right = bcrypt::verify(password, &self.hash).unwrap_or(false);
        if right {
            let _ = self.right.set(hmac::sign(&self.key, password));
        }
        right
    }
}

impl Users {
    /// Of names and hashes.
    pub(super) fn new(hashes: BTreeMap<String, String>) -> Result<Self, String> {
        let mut users = BTreeMap::new();
        let mut highest = 0;
        for (name, hash) in hashes {
            let parts: bcrypt::HashParts = hash
                .parse()
                .map_err(|error| format!("basic_auth_users: the hash of {name}: {error}"))?;
            highest = highest.max(parts.get_cost());
            users.insert(name, User::new(hash)?);
        }
        // Salt and hash are zeros.
        let nobody = format!("$2b${highest:02}${}", ".".repeat(53));
        Ok(Self {
            nobody: (!users.is_empty()).then(|| User::new(nobody)).transpose()?,
            users,
            turn: Arc::default(),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Whether both have the same names and hashes.
    pub(super) fn are_those_of(&self, other: &Self) -> bool {
        let of = |it: &Self| -> Vec<(String, String)> {
            let users = it.users.iter();
            users
                .map(|(name, user)| (name.clone(), user.hash.clone()))
                .collect()
        };
        of(self) == of(other)
    }

    /// Whether a request with these headers may be answered.
    pub(super) async fn admit(&self, headers: &HeaderMap) -> bool {
        let Some(nobody) = &self.nobody else {
            return true;
        };
        let Some((name, password)) = credentials(headers) else {
            return false;
        };
        let known = self.users.get(&name);
        let user = Arc::clone(known.unwrap_or(nobody));
        if user.remembers(&password) {
            return true;
        }
        // Held until the check ends, even if the client disconnects: otherwise clients that
        // disconnect could cause any number of concurrent checks.
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let compare = move || {
            let _turn = turn;
            user.remembers(&password) || user.verify(&password)
        };
        let right = tokio::task::spawn_blocking(compare).await.unwrap_or(false);
        right && known.is_some()
    }
}

/// Name and password, if the headers have both.
fn credentials(headers: &HeaderMap) -> Option<(String, Vec<u8>)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("Basic") {
        return None;
    }
    let both = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let colon = both.iter().position(|it| *it == b':')?;
    let name = String::from_utf8(both[..colon].to_vec()).ok()?;
    Some((name, both[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(text: &str) -> HeaderMap {
        let value = format!("Basic {}", BASE64_STANDARD.encode(text));
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    #[tokio::test]
    async fn a_right_password_is_compared_once_and_an_unknown_user_with_the_same_cost() {
        let hash = |password, cost| bcrypt::hash(password, cost).unwrap();
        let hashes = [("a", hash("a:b", 4)), ("b", hash("secret", 6))];
        let hashes = hashes.map(|(name, hash)| (name.to_owned(), hash));
        let users = Users::new(BTreeMap::from(hashes)).unwrap();
        let nobody = Arc::clone(users.nobody.as_ref().unwrap());
        let parts: bcrypt::HashParts = nobody.hash.parse().unwrap();
        assert_eq!(parts.get_cost(), 6);

        let user = Arc::clone(&users.users["a"]);
        for wrong in ["a:", "a:b", "a:a:b2", "b:a:b", "c:a:b", "a"] {
            assert!(!users.admit(&basic(wrong)).await, "{wrong}");
        }
        assert!(!users.admit(&HeaderMap::new()).await);
        assert!(!user.remembers(b"a:b") && !user.remembers(b""));
        assert!(users.admit(&basic("a:a:b")).await);
        assert!(user.remembers(b"a:b") && !user.remembers(b"a:"));
        // It waits for nobody then.
        let turn = Arc::clone(&users.turn).lock_owned().await;
        assert!(users.admit(&basic("a:a:b")).await);
        drop(turn);
        assert!(nobody.right.get().is_none());
        assert!(Users::default().admit(&HeaderMap::new()).await);
    }
}
