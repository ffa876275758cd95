//! The page that the server hands out: one file with its own style and script, and the policy that
//! lets a browser run that script and nothing else.

use crate::shared_page::with_shared_parts;
use sha2::{Digest, Sha256};

const TEMPLATE: &str = include_str!("../../report/serve.html");

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The page.
#[derive(Debug, Clone)]
pub struct Page {
    /// HTML with style and script.
    pub html: String,
    /// The value of the header `Content-Security-Policy`.
    pub policy: String,
}

/// The page that shows a dictionary latent by latent. It holds no data: its script asks for them.
pub fn page() -> Page {
    let html = with_shared_parts(TEMPLATE);
    let script = html
        .split_once("<script>")
        .and_then(|(_, rest)| rest.split_once("</script>"));
    let (script, _) = script.expect("the template has a script");
    let hash = base64(&Sha256::digest(script.as_bytes()));
    Page {
        policy: format!(
            "default-src 'none'; script-src 'sha256-{hash}'; style-src 'unsafe-inline'; \
             img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'"
        ),
        html,
    }
}

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            text.push(match digit > three.len() {
                true => '=',
                false => char::from(BASE64[(bits >> (18 - 6 * digit)) as usize % 64]),
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_has_the_values_of_rfc_4648() {
        // Section 9.
        let bytes = [0x14, 0xfb, 0x9c, 0x03, 0xd9, 0x7e];
        for (length, text) in [(0, ""), (4, "FPucAw=="), (5, "FPucA9k="), (6, "FPucA9l+")] {
            assert_eq!(base64(&bytes[..length]), text);
        }
    }

    #[test]
    fn the_page_is_one_file_and_makes_no_markup_of_texts() {
        let page = page();
        assert_eq!(page.html.matches("<script").count(), 1);
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "src=",
            "@import",
            "{{",
            "onclick=",
        ] {
            assert!(!page.html.contains(word), "{word}");
        }
        assert!(page.policy.contains("script-src 'sha256-"));
    }
}
