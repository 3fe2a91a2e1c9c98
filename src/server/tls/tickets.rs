//! Session tickets that every generation of the server understands (RFC 8446, 4.6.1; RFC 5077).
//!
//! rustls makes its own keys and does not give them away, so the tickets are encrypted here, in the same way (ChaCha20 and
//! Poly1305, a random nonce: `AeadTicketer` in src/crypto/ring/ticketer.rs, rustls 0.23).

use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::error::Unspecified;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::server::ProducesTickets;

use crate::model::ticket_keys::{LIFETIME_SECONDS, NAME, TicketKey, TicketKeys};
use crate::runtime::context::now;

/// Makes the tickets of a server, and reads them.
#[derive(Debug, Default)]
pub(in crate::server) struct Tickets(Mutex<TicketKeys>);

impl Tickets {
    /// The keys for the next generation.
    pub(in crate::server) fn keys(&self) -> Vec<TicketKey> {
        let mut keys = self.lock();
        // Before the first ticket there is no key yet, and this generation and the next one would each make their own.
        let _ = keys.newest(now(), || new_key(now()));
        keys.all()
    }

    /// Takes over the keys of the previous generation. Without any, this generation makes its own.
    pub(in crate::server) fn inherit(&self, keys: Vec<TicketKey>) {
        self.lock().inherit(keys);
    }

    fn lock(&self) -> MutexGuard<'_, TicketKeys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seal(&self, message: &[u8], now: u64) -> Result<Vec<u8>, Unspecified> {
        let mut keys = self.lock();
        let key = keys.newest(now, || new_key(now))?;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce)?;
        let mut text = message.to_vec();
        let tag = cipher(key)?.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(key.name),
            &mut text,
        )?;
        Ok([&key.name[..], &nonce, &text, tag.as_ref()].concat())
    }

    fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME)?;
        let (nonce, text) = rest.split_at_checked(NONCE_LEN)?;
        let keys = self.lock();
        let key = keys.named(name, now)?;
        let mut text = text.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let length = cipher(key).ok()?.open_in_place(nonce, Aad::from(key.name), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, now()).ok()
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, now())
    }
}

fn cipher(key: &TicketKey) -> Result<LessSafeKey, Unspecified> {
    UnboundKey::new(&CHACHA20_POLY1305, &key.secret).map(LessSafeKey::new)
}

fn new_key(now: u64) -> Result<TicketKey, Unspecified> {
    let mut key = TicketKey { made: now, name: [0; NAME], secret: [0; 32] };
    let random = SystemRandom::new();
    random.fill(&mut key.name)?;
    random.fill(&mut key.secret)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_read_by_each_generation_that_has_the_key_and_by_no_other() {
        let (blue, green) = (Tickets::default(), Tickets::default());
        let ticket = blue.encrypt(b"a session").expect("random");
        assert!(green.decrypt(&ticket).is_none());
        green.inherit(blue.keys());
        assert_eq!(green.decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
        let later = green.encrypt(b"another").expect("random");
        assert_eq!(blue.decrypt(&later).as_deref(), Some(&b"another"[..]), "while both serve");
    }

    #[test]
    fn a_ticket_that_was_changed_is_none() {
        let tickets = Tickets::default();
        let ticket = tickets.encrypt(b"a session").expect("random");
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert!(tickets.decrypt(&changed).is_none(), "byte {at}");
            assert!(tickets.decrypt(&ticket[..at]).is_none(), "{at} bytes");
        }
    }

    #[test]
    fn the_keys_exist_before_the_first_ticket() {
        let (blue, green) = (Tickets::default(), Tickets::default());
        green.inherit(blue.keys());
        let ticket = blue.encrypt(b"a session").expect("random");
        assert!(green.decrypt(&ticket).is_some());
    }
}
