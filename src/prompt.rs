//! Prompt templates: a question and a number of images in, text and image segments out. Pure.
//!
//! Templates are data of the vision file (docs/gguf.md). Substitution happens in the template only, never in what was
//! substituted, so a question may contain `{image}` or any other text.

use crate::error::{Error, Result};
use crate::gguf::Gguf;

/// A part of a prompt. Texts are tokenised one by one, as the reference does around each image.
#[derive(Clone, Debug, PartialEq)]
pub enum Segment {
    /// Text to tokenise.
    Text(String),
    /// The image with this number among those of the turn.
    Image(usize),
}

/// How one turn of a conversation is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// The name it is chosen by.
    pub name: String,
    /// Text in front of the first turn, unless the caller sets another.
    pub system: String,
    /// One turn, with `{images}` and `{question}`.
    pub turn: String,
    /// One image within `{images}`, with `{image}` where the embedding goes.
    pub image: String,
}

/// The templates of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Templates {
    all: Vec<Template>,
    default: usize,
    stops: Vec<String>,
}

const IMAGES: &str = "{images}";
const QUESTION: &str = "{question}";
const IMAGE: &str = "{image}";

impl Template {
    /// A caller's own: `turn` with `{images}` and `{question}`, `image` with `{image}`.
    ///
    /// # Errors
    /// `InvalidArgument` when a mark is missing or there twice.
    pub fn custom(turn: &str, image: &str) -> Result<Template> {
        let template =
            Template { name: "custom".into(), system: String::new(), turn: turn.into(), image: image.into() };
        template.check().map_err(Error::InvalidArgument)?;
        Ok(template)
    }

    fn check(&self) -> std::result::Result<(), String> {
        for (text, mark) in [(&self.turn, IMAGES), (&self.turn, QUESTION), (&self.image, IMAGE)] {
            let n = text.matches(mark).count();
            if n != 1 {
                return Err(format!("template '{}' has {mark} {n} times, once is needed", self.name));
            }
        }
        Ok(())
    }

    /// The segments of a turn. `system` is set for the first turn of a conversation.
    pub fn render(&self, system: Option<&str>, images: usize, question: &str) -> Vec<Segment> {
        let mut out = Segments::default();
        out.text(system.unwrap_or(""));
        let mut rest = self.turn.as_str();
        while let Some((at, mark)) = next_mark(rest) {
            out.text(&rest[..at]);
            if mark == QUESTION {
                out.text(question);
            } else {
                let (before, after) = self.image.split_once(IMAGE).unwrap_or((&self.image, ""));
                for i in 0..images {
                    out.text(before);
                    out.image(i);
                    out.text(after);
                }
            }
            rest = &rest[at + mark.len()..];
        }
        out.text(rest);
        out.finish()
    }
}

fn next_mark(text: &str) -> Option<(usize, &'static str)> {
    [IMAGES, QUESTION].into_iter().filter_map(|m| text.find(m).map(|at| (at, m))).min()
}

#[derive(Default)]
struct Segments {
    done: Vec<Segment>,
    text: String,
}

impl Segments {
    fn text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn image(&mut self, i: usize) {
        self.flush();
        self.done.push(Segment::Image(i));
    }

    fn flush(&mut self) {
        if !self.text.is_empty() {
            self.done.push(Segment::Text(std::mem::take(&mut self.text)));
        }
    }

    fn finish(mut self) -> Vec<Segment> {
        self.flush();
        self.done
    }
}

impl Templates {
    /// Reads the templates of a vision file.
    pub fn from_gguf(gguf: &Gguf) -> Result<Templates> {
        let names = gguf.str_array("tinygptv.prompt.names")?;
        let systems = gguf.str_array("tinygptv.prompt.system")?;
        let turns = gguf.str_array("tinygptv.prompt.turn")?;
        let images = gguf.str_array("tinygptv.prompt.image")?;
        let default_name = gguf.str("tinygptv.prompt.default")?;
        let stops = gguf.str_array("tinygptv.prompt.stop")?.to_vec();
        if [systems.len(), turns.len(), images.len()] != [names.len(); 3] {
            return Err(Error::unsupported(
                gguf.path(),
                "its prompt templates are incomplete: the arrays differ in length",
            ));
        }
        let mut all = Vec::new();
        for i in 0..names.len() {
            let template = Template {
                name: names[i].clone(),
                system: systems[i].clone(),
                turn: turns[i].clone(),
                image: images[i].clone(),
            };
            template.check().map_err(|problem| Error::unsupported(gguf.path(), problem))?;
            all.push(template);
        }
        let default = all.iter().position(|t| t.name == default_name).ok_or_else(|| {
            Error::unsupported(gguf.path(), format!("its default template '{default_name}' is not among its templates"))
        })?;
        Ok(Templates { all, default, stops })
    }

    /// For a decoder without a vision file: the question as it is.
    pub fn text_only() -> Templates {
        let plain = Template {
            name: "plain".into(),
            system: String::new(),
            turn: format!("{IMAGES}{QUESTION}"),
            image: IMAGE.into(),
        };
        Templates { all: vec![plain], default: 0, stops: Vec::new() }
    }

    /// The named template, or the default one.
    pub fn get(&self, name: Option<&str>) -> Result<&Template> {
        let Some(name) = name else { return Ok(&self.all[self.default]) };
        self.all.iter().find(|t| t.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.names().collect();
            Error::InvalidArgument(format!("there is no prompt template '{name}'; this model has {}", names.join(", ")))
        })
    }

    /// All names, in file order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|t| t.name.as_str())
    }

    /// Texts that end an answer.
    pub fn stops(&self) -> &[String] {
        &self.stops
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat() -> Template {
        Template {
            name: "chat".into(),
            system: "Sys.".into(),
            turn: "###Human: {images}{question}###Assistant: ".into(),
            image: "<Img>{image}</Img> ".into(),
        }
    }

    fn text(s: &str) -> Segment {
        Segment::Text(s.into())
    }

    #[test]
    fn one_image() {
        assert_eq!(
            chat().render(Some("Sys."), 1, "What?"),
            [text("Sys.###Human: <Img>"), Segment::Image(0), text("</Img> What?###Assistant: ")]
        );
    }

    #[test]
    fn no_and_several_images() {
        assert_eq!(chat().render(None, 0, "Why?"), [text("###Human: Why?###Assistant: ")]);
        assert_eq!(
            chat().render(None, 2, "Q"),
            [
                text("###Human: <Img>"),
                Segment::Image(0),
                text("</Img> <Img>"),
                Segment::Image(1),
                text("</Img> Q###Assistant: ")
            ]
        );
    }

    #[test]
    fn a_question_is_never_a_template() {
        let question = "{image} {images} {question} <Img>";
        assert_eq!(chat().render(None, 0, question), [text(&format!("###Human: {question}###Assistant: "))]);
    }

    #[test]
    fn marks_are_needed_once() {
        let spoilt = |f: fn(&mut Template)| {
            let mut t = chat();
            f(&mut t);
            t.check().unwrap_err()
        };
        assert!(spoilt(|t| t.turn = "{images}".into()).contains("{question} 0 times"));
        assert!(spoilt(|t| t.turn.push_str("{question}")).contains("{question} 2 times"));
        assert!(spoilt(|t| t.image = "<Img>".into()).contains("{image} 0 times"));
    }

    #[test]
    fn unknown_names_are_told() {
        let e = Templates::text_only().get(Some("chat")).unwrap_err().to_string();
        assert!(e.contains("'chat'") && e.contains("plain"), "{e}");
    }
}
