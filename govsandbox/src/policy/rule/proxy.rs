//! `network.proxy`, and what the environment says of one: a forward proxy that speaks CONNECT (RFC 9110, 9.3.6).

use std::{fmt, net::IpAddr};

/// Where the scheme is `http` and no port is named.
const HTTP_PORT: u16 = 80;

/// A proxy by its URL.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    /// A name or an address, lower case.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// `user:password`, percent-encoding undone. It is nobody's to see.
    pub credentials: Option<Vec<u8>>,
}

/// Why it is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum ProxyError {
    /// `socks5://…`, `https://…`
    #[error("a proxy by `{scheme}` is not spoken to")]
    #[diagnostic(
        code(policy::proxy::scheme),
        help("name one that is reached by `http://HOST:PORT` and takes CONNECT")
    )]
    Scheme {
        /// As written.
        scheme: String,
    },
    /// `http://`, `http://a b`
    #[error("this is no URL of a proxy")]
    #[diagnostic(code(policy::proxy::url), help("write `http://HOST:PORT`"))]
    Url,
}

impl ProxyUrl {
    /// `http://[USER:PASSWORD@]HOST[:PORT][/]`; curl and others take it without its scheme as well.
    ///
    /// # Errors
    /// [`ProxyError`]; it tells nothing of user and password.
    pub fn parse(text: &str) -> Result<Self, ProxyError> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) => return Err(ProxyError::Scheme { scheme: scheme.to_owned() }),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, place) = match rest.rsplit_once('@') {
            Some((credentials, place)) => (Some(decoded(credentials).ok_or(ProxyError::Url)?), place),
            None => (None, rest),
        };
        let (host, port) = match place.strip_prefix('[').and_then(|place| place.split_once(']')) {
            Some((address, rest)) => (address, rest.strip_prefix(':').or(rest.is_empty().then_some(""))),
            None => match place.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, Some("")),
            },
        };
        let port = match port.ok_or(ProxyError::Url)? {
            "" => HTTP_PORT,
            port if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().ok().filter(|port| *port != 0).ok_or(ProxyError::Url)?
            }
            _ => return Err(ProxyError::Url),
        };
        let host = host.to_ascii_lowercase();
        let is_name = !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        if !is_name && host.parse::<IpAddr>().is_err() {
            return Err(ProxyError::Url);
        }
        Ok(Self { host, port, credentials })
    }
}

/// RFC 3986, 2.1; control characters can't be said in a header.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?].map(|digit| char::from(digit).to_digit(16));
                let [Some(high), Some(low)] = digits else { return None };
                u8::try_from(high << 4 | low).ok()?
            }
            byte => byte,
        };
        if byte < b' ' || byte == 0x7f {
            return None;
        }
        out.push(byte);
    }
    Some(out)
}

/// Without its credentials.
impl fmt::Display for ProxyUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(out, "http://[{}]:{}", self.host, self.port),
            false => write!(out, "http://{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_other_programs_read_them() {
        let parsed = |text: &str| {
            let url = ProxyUrl::parse(text).unwrap();
            let credentials = url.credentials.map(|it| String::from_utf8(it).unwrap());
            (url.host, url.port, credentials)
        };
        let of = |host: &str, port, credentials: Option<&str>| {
            (host.to_owned(), port, credentials.map(str::to_owned))
        };
        assert_eq!(parsed("http://Proxy.Example:3128"), of("proxy.example", 3128, None));
        assert_eq!(parsed("http://proxy.example/"), of("proxy.example", 80, None));
        assert_eq!(parsed("proxy:8080"), of("proxy", 8080, None));
        assert_eq!(parsed("http://[2001:db8::1]:3128/"), of("2001:db8::1", 3128, None));
        assert_eq!(parsed("http://u:p%40ss@10.0.0.1:1"), of("10.0.0.1", 1, Some("u:p@ss")));
        assert_eq!(parsed("http://a@b:c@proxy:1"), of("proxy", 1, Some("a@b:c")));
    }

    #[test]
    fn what_is_no_url_is_refused_and_a_password_is_not_told() {
        for text in [
            "",
            "http://",
            "http://a b:1",
            "http://a:0",
            "http://a:70000",
            "http://a:+1",
            "http://a:1:2",
            "http://[::1",
            "http://[::1]x",
            "http://u:%zz@a:1",
            "http://u:%0d%0a@a:1",
            "http://a/path",
            "http://a\r\n:1",
        ] {
            assert_eq!(ProxyUrl::parse(text), Err(ProxyError::Url), "{text}");
        }
        for text in ["socks5://u:secret@a:1", "https://u:secret@a"] {
            let error = ProxyUrl::parse(text).unwrap_err();
            assert!(
                matches!(error, ProxyError::Scheme { .. }) && !format!("{error:?}{error}").contains("secret")
            );
        }
        let url = ProxyUrl::parse("http://u:secret@a:1").unwrap();
        assert_eq!((format!("{url:?}"), url.to_string()), ("http://a:1".to_owned(), "http://a:1".to_owned()));
    }
}
