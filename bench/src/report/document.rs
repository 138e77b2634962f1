//! The measured part of a document, between two markers.

use anyhow::{Context, Result};

const BEGIN: &str = "<!-- measured: begin -->";
const END: &str = "<!-- measured: end -->";

/// The document with everything between its markers replaced.
///
/// # Errors
/// When a marker is missing.
pub fn with_measured(document: &str, measured: &str) -> Result<String> {
    let missing = || format!("the document needs a line '{BEGIN}' and, after it, a line '{END}'");
    let (before, rest) = document.split_once(BEGIN).with_context(missing)?;
    let (_, after) = rest.split_once(END).with_context(missing)?;
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", measured.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let document = format!("# A\n{BEGIN}\nold\n{END}\nrest\n");
        let new = with_measured(&document, "\nnew\n").unwrap();
        assert_eq!(new, format!("# A\n{BEGIN}\n\nnew\n\n{END}\nrest\n"));
        assert_eq!(with_measured(&new, "new").unwrap(), new);
        let end_first = format!("{END} {BEGIN}");
        for bad in ["", BEGIN, end_first.as_str()] {
            assert!(with_measured(bad, "new").unwrap_err().to_string().contains("needs a line"));
        }
    }
}
