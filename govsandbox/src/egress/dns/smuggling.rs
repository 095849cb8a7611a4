//! A guess whether a name carries data out in its labels. It refuses nothing: names are refused by rules, and this marks
//! events that somebody should look at.

/// Labels from this length on are looked at: shorter ones carry little, and words are rarely longer.
const LABEL_BYTES_MIN: usize = 20;
/// Names that are longer than any that people give.
const NAME_BYTES_MIN: usize = 150;
/// So often encoded data change between letters and digits, in [`LABEL_BYTES_MIN`] bytes.
const CHANGES_MIN: usize = 4;
/// Fewer vowels than this among the letters are no words, in percent: English has 38, random letters 19.
const VOWELS_PCT_MIN: usize = 25;

/// Does the name look as if data were hidden in it?
pub(super) fn looks_like_data(name: &str) -> bool {
    name.len() >= NAME_BYTES_MIN || name.split('.').any(is_data)
}

fn is_data(label: &str) -> bool {
    // An A-label is Punycode: no words either, and what it stands for is short.
    if label.len() < LABEL_BYTES_MIN || label.starts_with("xn--") {
        return false;
    }
    let letters = label.bytes().filter(u8::is_ascii_alphabetic).count();
    let vowels = label.bytes().filter(|byte| b"aeiouy".contains(&byte.to_ascii_lowercase())).count();
    let kinds = label.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.is_ascii_digit());
    let changes = kinds.clone().zip(kinds.skip(1)).filter(|(one, next)| one != next).count();
    changes >= CHANGES_MIN || vowels * 100 < letters * VOWELS_PCT_MIN || letters == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_data_is_marked() {
        for name in [
            "4a6f686e2c20736563726574206b6579.t.example", // hex
            "jbswy3dpeblw64tmmqqho2lumqqgc3tb.t.example", // base32
            "zpqxkbvjwmtrgnlshdfcqzpkxw.t.example",       // letters only
            "20261121202630112233445566.t.example",       // digits only
            "c2vjcmv0ia9k3yqp7z0x1w2vbm.t.example",       // base36
        ] {
            assert!(looks_like_data(name), "{name}");
        }
        assert!(looks_like_data(&"secret.words.".repeat(12)));
    }

    #[test]
    fn names_that_people_use_are_not() {
        for name in [
            "api.anthropic.com",
            "statsig.anthropic.com",
            "registry.npmjs.org",
            "objects.githubusercontent.com",
            "raw.githubusercontent.com",
            "files.pythonhosted.org",
            "index.crates.io",
            "static.rust-lang.org",
            "ec2-203-0-113-25.compute-1.amazonaws.com",
            "d111111abcdef8.cloudfront.net",
            "internationalization-documentation.example.org",
            "xn--vermgensberater-ctb.example",
            "_sip._tcp.example.org",
            "",
        ] {
            assert!(!looks_like_data(name), "{name}");
        }
    }
}
