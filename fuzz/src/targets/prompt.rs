//! Prompt templates: what is rendered is the template with the question and the images in their places, and nothing else.

use tinygptv::prompt::{Segment, Template};

use crate::bytes::Bytes;

/// Stands for image `i` in a text made of segments; no text of an input has it.
fn mark(i: usize) -> String {
    format!("\u{10fffe}{i}\u{10ffff}")
}

/// Renders a template of the input's texts.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let images = usize::from(bytes.byte() % 4);
    let has_system = bytes.byte() % 2 == 1;
    let mut text = || bytes.text().replace(['\u{10fffe}', '\u{10ffff}'], "");
    let [turn, image, system, question] = [text(), text(), text(), text()];
    let Ok(template) = Template::custom(&turn, &image) else {
        let sound = |text: &str, marks: &[&str]| marks.iter().all(|m| text.matches(m).count() == 1);
        assert!(
            !sound(&turn, &["{images}", "{question}"]) || !sound(&image, &["{image}"]),
            "a sound template is refused"
        );
        return;
    };
    let segments = template.render(has_system.then_some(system.as_str()), images, &question);
    let mut rendered = String::new();
    let mut last_was_text = false;
    for segment in &segments {
        match segment {
            Segment::Text(text) => {
                assert!(!text.is_empty() && !last_was_text, "{segments:?}");
                rendered += text;
            }
            Segment::Image(i) => rendered += &mark(*i),
        }
        last_was_text = matches!(segment, Segment::Text(_));
    }

    let all: String = (0..images).map(|i| image.replace("{image}", &mark(i))).collect();
    let (before, after) = turn.split_once("{images}").expect("once");
    // Whatever the images bring, the question's place is the template's own.
    let (before, after) = (before.replace("{question}", &question), after.replace("{question}", &question));
    let system = if has_system { system.as_str() } else { "" };
    assert_eq!(rendered, format!("{system}{before}{all}{after}"));
}
