//! The target: whom a run may hit. Made only from a policy's allow-list.
//!
//! A trace can never choose whom we hit. A [`Target`] exists only if the policy lists it, and a
//! [`PermittedAddr`] only if the address that DNS (or `--connect-to`) gave lies in the list too; opening a
//! connection takes nothing else.

use core::net::{IpAddr, SocketAddr};
use std::fmt;

/// Why a target is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The URL cannot be used.
    #[error(
        "{url:?} is not a target URL such as \"https://api.example.com\" (http or https, host, optional port, no path)"
    )]
    BadUrl {
        /// What was written.
        url: String,
    },
    /// Not on the list.
    #[error("{host}:{port} is not in [target] allow; the policy must list it")]
    NotAllowed {
        /// Host.
        host: String,
        /// Port.
        port: u16,
    },
    /// An address behind the name is not on the list.
    #[error("{host} resolves to {addr}, which is in no network of [target] allow; nothing was sent")]
    AddressNotAllowed {
        /// Host.
        host: String,
        /// Address.
        addr: IpAddr,
    },
    /// An entry of the list cannot be read.
    #[error("{entry:?} is neither host:port nor a network such as \"203.0.113.0/28\"")]
    BadEntry {
        /// What was written.
        entry: String,
    },
}

/// A network in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    addr: IpAddr,
    prefix: u8,
}

fn bits(addr: IpAddr) -> (u128, u8) {
    match addr {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (addr, prefix) = text.split_once('/')?;
        let addr: IpAddr = addr.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        (prefix <= bits(addr).1).then_some(Self { addr, prefix })
    }

    fn contains(&self, addr: IpAddr) -> bool {
        let ((mine, width), (other, other_width)) = (bits(self.addr), bits(addr));
        let mask = if self.prefix == 0 { 0 } else { u128::MAX << (128 - u32::from(self.prefix)) };
        width == other_width && mine & mask == other & mask
    }
}

/// The allow-list of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllowList {
    hosts: Vec<(String, u16)>,
    networks: Vec<Network>,
    /// What the site allows on top: both must list a target.
    site: Option<Box<AllowList>>,
}

impl AllowList {
    /// Parses `host:port` and CIDR entries.
    ///
    /// # Errors
    /// [`TargetError::BadEntry`].
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, TargetError> {
        let mut list = Self::default();
        for entry in entries {
            if let Some(network) = Network::parse(entry) {
                list.networks.push(network);
            } else if let Some((host, port)) = host_port(entry) {
                list.hosts.push((host, port));
            } else {
                return Err(TargetError::BadEntry { entry: entry.to_owned() });
            }
        }
        Ok(list)
    }

    /// This list, and `site` as well: only what both list is allowed.
    #[must_use]
    pub fn under(self, site: Self) -> Self {
        let site = match self.site {
            Some(other) => other.under(site),
            None => site,
        };
        Self { site: Some(Box::new(site)), ..self }
    }

    /// Whether any network is listed; without one an address cannot be checked after DNS.
    #[must_use]
    pub fn has_networks(&self) -> bool {
        !self.networks.is_empty()
    }

    /// Whether nothing but this machine is listed.
    #[must_use]
    pub fn is_loopback_only(&self) -> bool {
        let network =
            |n: &Network| n.addr.is_loopback() && n.prefix >= if n.addr.is_ipv4() { 8 } else { 128 };
        self.hosts.iter().all(|(h, _)| is_loopback_host(h)) && self.networks.iter().all(network)
    }

    /// Whether a host and port are listed, by name or by network.
    #[must_use]
    pub fn lists(&self, host: &str, port: u16) -> bool {
        let literal = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        let by_network = literal.is_some_and(|a| self.networks.iter().any(|n| n.contains(a)));
        let by_name = self.hosts.iter().any(|(h, p)| h.eq_ignore_ascii_case(host) && *p == port);
        let local =
            host.eq_ignore_ascii_case("localhost") && self.networks.iter().any(|n| n.addr.is_loopback());
        (by_network || by_name || local) && self.site.as_ref().is_none_or(|s| s.lists(host, port))
    }

    fn lists_address(&self, addr: IpAddr) -> bool {
        let mine = self.networks.is_empty() || self.networks.iter().any(|n| n.contains(addr));
        mine && self.site.as_ref().is_none_or(|s| s.lists_address(addr))
    }
}

fn host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let fits = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_[]:".contains(&b));
    Some((host.to_owned(), port.parse().ok().filter(|p| *p > 0)?)).filter(|_| fits)
}

/// A target that the policy allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    https: bool,
    host: String,
    port: u16,
    allow: AllowList,
}

/// An address that the policy allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PermittedAddr(SocketAddr);

impl PermittedAddr {
    /// The address.
    #[must_use]
    pub fn get(self) -> SocketAddr {
        self.0
    }
}

impl Target {
    /// A target from its URL, if `allow` lists it.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn new(url: &str, allow: AllowList) -> Result<Self, TargetError> {
        let (https, host, port) = split(url).ok_or_else(|| TargetError::BadUrl { url: url.to_owned() })?;
        if !allow.lists(&host, port) {
            return Err(TargetError::NotAllowed { host, port });
        }
        Ok(Self { https, host, port, allow })
    }

    /// Whether requests go over TLS.
    #[must_use]
    pub fn https(&self) -> bool {
        self.https
    }

    /// Host name or address literal, IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    /// Port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The value of the Host header: without the port where it is the scheme's own.
    #[must_use]
    pub fn authority(&self) -> String {
        let default = if self.https { 443 } else { 80 };
        if self.port == default { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// Whether the target is this machine by its own word.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback_host(self.host())
    }

    /// Permits an address that the target's name resolved to, or that `--connect-to` gave.
    ///
    /// # Errors
    /// [`TargetError::AddressNotAllowed`].
    pub fn permit(&self, addr: SocketAddr) -> Result<PermittedAddr, TargetError> {
        let ip = addr.ip().to_canonical();
        let loopback_name = self.is_loopback() && !ip.is_loopback();
        if loopback_name || !self.allow.lists_address(ip) {
            return Err(TargetError::AddressNotAllowed { host: self.host.clone(), addr: ip });
        }
        Ok(PermittedAddr(addr))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", if self.https { "https" } else { "http" }, self.host, self.port)
    }
}

/// Whether a host is this machine by its own word.
#[must_use]
pub fn is_loopback_host(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|a| a.to_canonical().is_loopback())
}

/// Scheme, host and port of a URL without path, query or user information.
#[must_use]
pub fn split(url: &str) -> Option<(bool, String, u16)> {
    let (https, rest) = match url.split_once("://")? {
        ("http", rest) => (false, rest),
        ("https", rest) => (true, rest),
        _ => return None,
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.is_empty() || authority.contains(['/', '?', '#', '@', ' ']) {
        return None;
    }
    let default = if https { 443 } else { 80 };
    let bracket_end = authority.rfind(']').unwrap_or(0);
    if authority[bracket_end..].contains(':') {
        let (host, port) = host_port(authority)?;
        return Some((https, host, port));
    }
    let fits = authority.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_[]:".contains(&b));
    fits.then(|| (https, authority.to_owned(), default))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(entries: &[&str]) -> AllowList {
        AllowList::parse(entries.iter().copied()).unwrap()
    }

    #[test]
    fn only_what_is_listed_becomes_a_target() {
        let list = allow(&["api.example.com:443", "203.0.113.0/28"]);
        let target = Target::new("https://api.example.com", list.clone()).unwrap();
        assert_eq!((target.authority().as_str(), target.port()), ("api.example.com", 443));
        for url in [
            "https://api.example.com:8443",
            "http://api.example.com",
            "https://other.example.com",
            "http://203.0.113.16",
        ] {
            assert!(matches!(Target::new(url, list.clone()), Err(TargetError::NotAllowed { .. })), "{url}");
        }
        assert!(Target::new("http://203.0.113.5:8080/", list.clone()).is_ok());
        for url in
            ["api.example.com", "ftp://x", "http://", "http://a/b", "http://u@a", "http://a:0", "http://a:x"]
        {
            assert!(matches!(Target::new(url, list.clone()), Err(TargetError::BadUrl { .. })), "{url}");
        }
    }

    #[test]
    fn addresses_are_checked_again() {
        let target =
            Target::new("https://api.example.com", allow(&["api.example.com:443", "203.0.113.0/28"]))
                .unwrap();
        assert!(target.permit("203.0.113.15:443".parse().unwrap()).is_ok());
        for addr in ["203.0.113.16:443", "127.0.0.1:443", "[::1]:443"] {
            assert!(target.permit(addr.parse().unwrap()).is_err(), "{addr}");
        }
        let local = Target::new("http://localhost:8080", allow(&["127.0.0.0/8", "::1/128"])).unwrap();
        assert!(local.permit("127.0.0.1:9".parse().unwrap()).is_ok());
        assert!(local.permit("[::1]:9".parse().unwrap()).is_ok());
        assert!(local.permit("10.0.0.1:9".parse().unwrap()).is_err());
        let no_networks = Target::new("http://localhost:80", allow(&["localhost:80"])).unwrap();
        assert!(no_networks.permit("8.8.8.8:80".parse().unwrap()).is_err(), "localhost is never elsewhere");
    }

    #[test]
    fn loopback_only_means_every_entry() {
        let table: [(&[&str], bool); 6] = [
            (&["127.0.0.0/8", "::1/128", "localhost:80"], true),
            (&[], true),
            (&["127.0.0.0/8", "api.example.com:443"], false),
            (&["0.0.0.0/0"], false),
            (&["127.0.0.0/7"], false),
            (&["::/0"], false),
        ];
        for (entries, want) in table {
            assert_eq!(allow(entries).is_loopback_only(), want, "{entries:?}");
        }
    }

    #[test]
    fn a_target_says_what_it_is() {
        let list = allow(&["api.example.com:443", "127.0.0.0/8"]);
        let target = |url: &str| Target::new(url, list.clone()).unwrap();
        let (secure, plain) = (target("https://api.example.com"), target("http://127.0.0.1:80"));
        assert!(secure.https() && !plain.https());
        assert!(plain.is_loopback() && !secure.is_loopback());
        assert_eq!(
            (secure.to_string(), plain.to_string()),
            ("https://api.example.com:443".into(), "http://127.0.0.1:80".to_owned())
        );
        assert_eq!(
            (plain.authority(), target("https://127.0.0.1:80").authority()),
            ("127.0.0.1".into(), "127.0.0.1:80".to_owned())
        );
        assert!(list.has_networks() && !allow(&["api.example.com:443"]).has_networks());
    }

    #[test]
    fn bad_entries_are_named() {
        for entry in ["api.example.com", "10.0.0.0/33", "", ":80", "a b:1"] {
            let error = AllowList::parse([entry]).unwrap_err().to_string();
            assert!(error.contains(&format!("{entry:?}")), "{error}");
        }
    }
}
