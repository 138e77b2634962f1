//! Prompt templates and sampling defaults of the four training stages: texts as the reference scripts have them.

use anyhow::{bail, ensure, Result};
use tinygptv::prompt::Template;

use crate::gguf_writer::{Metadata, Value};

const IMAGE: &str = "<Img>{image}</Img> ";
const CHAT_SYSTEM: &str =
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I \
                           provide it to you. Please answer my questions.";
const HUMAN_TURN: &str = "###Human: {images}{question}###Assistant: ";

fn template(name: &str, system: &str, turn: &str, image: &str) -> Template {
    Template { name: name.into(), system: system.into(), turn: turn.into(), image: image.into() }
}

/// Templates of every stage; which of them is the default differs.
fn built_in() -> Vec<Template> {
    vec![
        template("chat", CHAT_SYSTEM, HUMAN_TURN, IMAGE),
        // The benchmark scripts leave the system text out.
        template("benchmark", "", HUMAN_TURN, IMAGE),
        // Only the ranking script has a space before the second separator.
        template("rank", "", "###Human: {images}{question} ###Assistant: ", IMAGE),
        // The demo of stage 4 follows MiniGPT-v2.
        template("instruct", "", "<s>[INST] {images}{question} [/INST]", IMAGE),
        template("plain", "", "{images}{question}", "{image}"),
    ]
}

/// Everything about prompts and sampling that goes into the vision file.
#[derive(Debug)]
pub struct Prompts {
    templates: Vec<Template>,
    default: String,
    temperature: f32,
}

impl Prompts {
    /// Those of a stage. `added` are `NAME=TURN` texts from the command line; `default` overrides the stage's own choice.
    pub fn new(stage: u32, added: &[String], default: Option<&str>) -> Result<Prompts> {
        let mut templates = built_in();
        for text in added {
            let Some((name, turn)) = text.split_once('=') else { bail!("--add-template '{text}' is not NAME=TURN") };
            ensure!(!name.is_empty(), "--add-template '{text}' has no name");
            ensure!(turn.contains("{question}"), "--add-template '{name}': its text lacks {{question}}");
            let template = template(name, "", turn, IMAGE);
            match templates.iter_mut().find(|t| t.name == name) {
                Some(known) => *known = template,
                None => templates.push(template),
            }
        }
        let default = default.unwrap_or(if stage == 4 { "instruct" } else { "chat" });
        if !templates.iter().any(|t| t.name == default) {
            let names: Vec<&str> = templates.iter().map(|t| t.name.as_str()).collect();
            bail!("--default-template '{default}' is none of {}", names.join(", "));
        }
        Ok(Prompts { templates, default: default.into(), temperature: if stage == 4 { 0.6 } else { 1.0 } })
    }

    /// The metadata of the vision file.
    pub fn metadata(&self) -> Metadata {
        let texts =
            |pick: fn(&Template) -> &String| Value::StringArray(self.templates.iter().map(pick).cloned().collect());
        let key = |name: &str, value| (format!("tinygptv.{name}"), value);
        vec![
            key("prompt.names", texts(|t| &t.name)),
            key("prompt.system", texts(|t| &t.system)),
            key("prompt.turn", texts(|t| &t.turn)),
            key("prompt.image", texts(|t| &t.image)),
            key("prompt.default", self.default.as_str().into()),
            key("prompt.stop", Value::StringArray(vec!["###".into(), "Assistant:".into()])),
            key("sampling.temperature", Value::F32(self.temperature)),
            key("sampling.top_p", Value::F32(0.9)),
            key("sampling.top_k", Value::U32(50)),
            key("sampling.repeat_penalty", Value::F32(1.05)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_differ_in_default_and_temperature() {
        for (stage, default, temperature) in [(1, "chat", 1.0), (3, "chat", 1.0), (4, "instruct", 0.6)] {
            let p = Prompts::new(stage, &[], None).unwrap();
            assert_eq!((p.default.as_str(), p.temperature), (default, temperature));
        }
    }

    #[test]
    fn templates_can_be_added_and_chosen() {
        let p = Prompts::new(4, &["demo=#{images}{question}=".into()], Some("demo")).unwrap();
        let last = p.templates.last().unwrap();
        assert_eq!(
            (last.name.as_str(), last.turn.as_str(), last.image.as_str()),
            ("demo", "#{images}{question}=", IMAGE)
        );
        assert!(Prompts::new(4, &[], Some("demo")).unwrap_err().to_string().contains("none of chat, benchmark"));
        assert!(Prompts::new(4, &["demo".into()], None).unwrap_err().to_string().contains("NAME=TURN"));
        assert!(Prompts::new(4, &["demo=x".into()], None).unwrap_err().to_string().contains("{question}"));
    }

    #[test]
    fn texts_are_the_reference_s() {
        let p = built_in();
        let first = |t: &Template| format!("{}{}", t.system, t.turn.replace("{images}", &t.image));
        assert_eq!(
            first(&p[0]),
            "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. \
             Please answer my questions.###Human: <Img>{image}</Img> {question}###Assistant: "
        );
        assert_eq!(first(&p[1]), "###Human: <Img>{image}</Img> {question}###Assistant: ");
        assert_eq!(first(&p[2]), "###Human: <Img>{image}</Img> {question} ###Assistant: ");
        assert_eq!(first(&p[3]), "<s>[INST] <Img>{image}</Img> {question} [/INST]");
        assert_eq!(first(&p[4]), "{image}{question}");
    }
}
