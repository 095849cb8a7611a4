//! Which proxy connections to names go through, and what of it the command gets to know: nothing.

use std::ffi::{OsStr, OsString};

use crate::{
    egress::channel,
    policy::compile::{Compiled, Proxy, ProxyUrl},
    policy::rule::proxy::ProxyError,
};

/// Where the environment names a proxy, as programs look for it: the first that is there.
const NAMES: [&str; 6] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy", "HTTP_PROXY"];
/// Whom it is not for.
const EXCEPTIONS: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// A variable that names none.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("the variable {name} names no proxy that can be used")]
pub(super) struct BadVariable {
    name: &'static str,
    #[source]
    #[diagnostic_source]
    source: ProxyError,
}

/// The proxy of a policy; `None`: there is none.
pub(super) fn chosen(
    proxy: Option<&Proxy>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<channel::Proxy>, BadVariable> {
    let said = |names: &[&'static str]| {
        let mut found =
            names.iter().filter_map(|name| Some((*name, variable(name)?.into_string().unwrap_or_default())));
        found.find(|(_, value)| !value.is_empty())
    };
    match proxy {
        None => Ok(None),
        Some(Proxy::At(url)) => Ok(Some(told(url, Vec::new()))),
        Some(Proxy::FromEnvironment) => {
            let Some((name, value)) = said(&NAMES) else { return Ok(None) };
            let url = ProxyUrl::parse(&value).map_err(|source| BadVariable { name, source })?;
            let exceptions = said(&EXCEPTIONS).map(|(_, value)| value).unwrap_or_default();
            let names = exceptions.split([',', ' ']).map(exception);
            Ok(Some(told(&url, names.filter(|name| !name.is_empty()).collect())))
        }
    }
}

/// `.corp.example`, `*.corp.example` and `corp.example:8080` are all that name and what lies below it, whatever the port.
/// Addresses are none of a proxy's matters here.
fn exception(written: &str) -> String {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let host = written.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(written, |(host, _)| host);
    host.strip_prefix("*.").unwrap_or(host).trim_start_matches('.').to_ascii_lowercase()
}

fn told(url: &ProxyUrl, direct: Vec<String>) -> channel::Proxy {
    let authorization = url.credentials.as_ref().map(|it| format!("Basic {}", base64(it)));
    channel::Proxy { host: url.host.clone(), port: url.port, authorization, direct }
}

/// RFC 4648, 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let word =
            part.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - part.len()));
        for place in 0..4 {
            let digit = DIGITS.get((word >> (18 - 6 * place) & 63) as usize).copied().unwrap_or_default();
            out.push(if place <= part.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

/// The command's environment, where there is a proxy without what names one: none is needed inside, and a password that
/// stands there is not for the command.
pub(super) fn without(compiled: &Compiled, mut env: Vec<(OsString, OsString)>) -> Vec<(OsString, OsString)> {
    if compiled.proxy.is_some() {
        env.retain(|(name, _)| !names_a_proxy(name));
    }
    env
}

/// `HTTPS_PROXY`, `ftp_proxy`, `npm_config_https_proxy` …
fn names_a_proxy(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_ascii_lowercase();
    name == "proxy" || name.ends_with("_proxy")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, encoded) in cases {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn the_environment_says_which_and_for_whom() {
        let of = |variables: &'static [(&str, &str)]| {
            let variable = |name: &str| {
                variables.iter().find(|(it, _)| *it == name).map(|(_, value)| OsString::from(value))
            };
            chosen(Some(&Proxy::FromEnvironment), variable)
        };
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&[("HTTPS_PROXY", "")]).unwrap(), None);
        let proxy = of(&[
            ("HTTP_PROXY", "http://other:1"),
            ("HTTPS_PROXY", "http://me:secret@proxy.corp:3128"),
            ("NO_PROXY", "localhost,.corp , Example.Org,*.a.example:8443,,*"),
        ]);
        let expected = channel::Proxy {
            host: "proxy.corp".to_owned(),
            port: 3128,
            authorization: Some("Basic bWU6c2VjcmV0".to_owned()),
            direct: ["localhost", "corp", "example.org", "a.example", "*"].map(str::to_owned).to_vec(),
        };
        assert_eq!(proxy.unwrap(), Some(expected));
        let error = of(&[("ALL_PROXY", "socks5://me:secret@a:1")]).unwrap_err();
        assert!(!format!("{error:?}").contains("secret"));
    }

    #[test]
    fn no_variable_names_a_proxy_inside() {
        for name in [
            "HTTPS_PROXY",
            "https_proxy",
            "NO_PROXY",
            "ftp_proxy",
            "npm_config_https_proxy",
            "npm_config_proxy",
            "Proxy",
        ] {
            assert!(names_a_proxy(OsStr::new(name)), "{name}");
        }
        for name in ["PATH", "PROXY_COMMAND", "GOPROXY"] {
            assert!(!names_a_proxy(OsStr::new(name)), "{name}");
        }
    }
}
