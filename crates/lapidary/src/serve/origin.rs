//! Who may ask: a browser that shows the served page, and programs on this machine.
//!
//! A page of somebody else can make a browser send requests here. With DNS rebinding, its own name
//! then leads to this server, and the browser believes that page and answers belong together. The
//! name is in the header `Host`, so only the address that is served is accepted there. The header
//! `Origin`, which browsers send with every POST, must name that address too.

use std::net::{IpAddr, SocketAddr};

/// The addresses by which the server may be called.
pub(super) struct Origins {
    address: SocketAddr,
}

impl Origins {
    pub(super) const fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Whether a `Host` header names the server.
    pub(super) fn is_host(&self, host: &str) -> bool {
        let host = host.trim();
        // Browsers leave out the port of `http://`.
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
            _ => (host, Some(80)),
        };
        if port != Some(self.address.port()) {
            return false;
        }
        let served = self.address.ip();
        if name.eq_ignore_ascii_case("localhost") {
            return served.is_loopback() || served.is_unspecified();
        }
        let name = name.trim_start_matches('[').trim_end_matches(']');
        match name.parse::<IpAddr>() {
            // On all addresses of the machine, any of them; no name that could be rebound.
            Ok(ip) => ip == served || served.is_unspecified(),
            Err(_) => false,
        }
    }

    /// Whether an `Origin` header is that of the served page.
    pub(super) fn is_origin(&self, origin: &str) -> bool {
        let host = origin.trim().strip_prefix("http://");
        host.is_some_and(|host| self.is_host(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Origins {
        Origins::new(address.parse().unwrap())
    }

    #[test]
    fn only_the_served_address_is_a_host() {
        let local = at("127.0.0.1:8080");
        for host in ["127.0.0.1:8080", "localhost:8080", "LOCALHOST:8080"] {
            assert!(local.is_host(host), "{host}");
        }
        for host in [
            "evil.example:8080",
            "127.0.0.1",
            "127.0.0.1:80",
            "127.0.0.2:8080",
            "",
            ":8080",
            "localhost.evil.example:8080",
            "127.0.0.1.evil.example:8080",
            "127.0.0.1:8080:8080",
            "evil@127.0.0.1:8080",
            "[::1]:8080",
        ] {
            assert!(!local.is_host(host), "{host}");
        }
        assert!(at("127.0.0.1:80").is_host("127.0.0.1"));
        assert!(at("[::1]:9000").is_host("[::1]:9000"));
        assert!(!at("[::1]:9000").is_host("[::1]"));
    }

    #[test]
    fn on_all_addresses_any_number_is_a_host_and_no_name() {
        let all = at("0.0.0.0:8080");
        assert!(all.is_host("192.168.1.7:8080") && all.is_host("localhost:8080"));
        assert!(!all.is_host("evil.example:8080"));
        assert!(!at("192.168.1.7:8080").is_host("localhost:8080"));
    }

    #[test]
    fn an_origin_is_the_address_over_http() {
        let local = at("127.0.0.1:8080");
        assert!(local.is_origin("http://127.0.0.1:8080"));
        for origin in [
            "null",
            "http://evil.example",
            "https://127.0.0.1:8080",
            "127.0.0.1:8080",
        ] {
            assert!(!local.is_origin(origin), "{origin}");
        }
    }
}
