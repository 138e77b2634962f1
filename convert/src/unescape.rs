//! The two ways in which pickle's protocol 0 writes text on a line.

use anyhow::{bail, ensure, Context, Result};

/// A Python 2 string literal in quotes, as `repr` writes it. Its bytes must be UTF-8.
pub fn literal(line: &[u8]) -> Result<String> {
    let inside = match line {
        [b'\'', inside @ .., b'\''] | [b'"', inside @ .., b'"'] => inside,
        _ => bail!("a string without its quotes"),
    };
    let mut bytes = Vec::new();
    let mut rest = inside;
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (kind, after) = rest.split_first().context("a string that ends inside an escape")?;
        rest = after;
        bytes.push(match kind {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'\\' | b'\'' | b'"' => *kind,
            b'x' => u8::try_from(hexadecimal(&mut rest, 2)?)?,
            _ => bail!("an unknown escape"),
        });
    }
    String::from_utf8(bytes).context("text that is not UTF-8")
}

/// Python's `raw-unicode-escape`: Latin-1 with `\uXXXX` and `\UXXXXXXXX`.
pub fn raw(line: &[u8]) -> Result<String> {
    let mut text = String::new();
    let mut rest = line;
    while let [first, after @ ..] = rest {
        rest = after;
        let digits = match (first, rest.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                text.push(char::from(*first));
                continue;
            }
        };
        rest = &rest[1..];
        text.push(char::from_u32(hexadecimal(&mut rest, digits)?).context("a number that is no character")?);
    }
    Ok(text)
}

/// Takes `digits` hexadecimal digits off the front.
fn hexadecimal(rest: &mut &[u8], digits: usize) -> Result<u32> {
    let (number, after) = rest.split_at_checked(digits).context("an escape with too few digits")?;
    ensure!(number.iter().all(u8::is_ascii_hexdigit), "an escape with other characters than digits");
    *rest = after;
    Ok(u32::from_str_radix(std::str::from_utf8(number)?, 16)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals() {
        assert_eq!(literal(br"'a\n\t\\\'\xc3\xa9'").unwrap(), "a\n\t\\'é");
        assert_eq!(literal(br#""it's""#).unwrap(), "it's");
        for bad in [&b"'a"[..], b"a'", b"'", b"", br"'\x4'", br"'\xzz'", br"'\q'", br"'\'", br"'\xff'"] {
            assert!(literal(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn raw_text() {
        assert_eq!(raw(b"pur\xe9\\u000a\\u005c\\u4e2d\\U0001f600\\x").unwrap(), "puré\n\\中😀\\x");
        for bad in [&br"\u12"[..], br"\ud800", br"\U00110000", br"\u+123"] {
            assert!(raw(bad).is_err(), "{bad:?}");
        }
    }
}
