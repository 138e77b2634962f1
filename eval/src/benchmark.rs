//! The benchmarks: their names, the questions put to the model and what the paper reports.

use serde::{Deserialize, Serialize};

/// A benchmark of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Benchmark {
    /// Visual Spatial Reasoning, zero-shot split.
    Vsr,
    /// GQA.
    Gqa,
    /// IconQA, questions whose candidates are texts.
    Iconvqa,
    /// VizWiz VQA.
    Vizwiz,
    /// Hateful Memes.
    HatefulMemes,
    /// RefCOCO.
    Refcoco,
    /// RefCOCO+.
    #[serde(rename = "refcoco+")]
    RefcocoPlus,
    /// RefCOCOg.
    Refcocog,
}

impl Benchmark {
    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Benchmark::Vsr => "vsr",
            Benchmark::Gqa => "gqa",
            Benchmark::Iconvqa => "iconvqa",
            Benchmark::Vizwiz => "vizwiz",
            Benchmark::HatefulMemes => "hateful-memes",
            Benchmark::Refcoco => "refcoco",
            Benchmark::RefcocoPlus => "refcoco+",
            Benchmark::Refcocog => "refcocog",
        }
    }

    /// The paper's score of TinyGPT-V in percent; `None` where it reports none.
    pub fn paper(self) -> Option<f64> {
        match self {
            Benchmark::Vsr => Some(54.7),
            Benchmark::Gqa => Some(38.9),
            Benchmark::Iconvqa => Some(44.7),
            Benchmark::Vizwiz => Some(37.8),
            Benchmark::HatefulMemes => Some(54.0),
            Benchmark::Refcoco | Benchmark::RefcocoPlus | Benchmark::Refcocog => None,
        }
    }

    /// The prompt template of the paper's script, by its name in the vision file.
    pub fn template(self) -> &'static str {
        match self {
            Benchmark::Iconvqa => "rank",
            _ => "benchmark",
        }
    }

    /// The question put to the model. `text` is the dataset's: a statement, a question, a meme's text or a phrase.
    pub fn question(self, text: &str) -> String {
        match self {
            Benchmark::Vsr => format!("[vqa] Based on the image, is this statement true or false? {text}"),
            Benchmark::Gqa | Benchmark::Iconvqa => {
                format!("[vqa] Based on the image, respond to this question with a short answer: {text}")
            }
            Benchmark::Vizwiz => format!(
                "[vqa] The question is '{text}' Based on the image, answer the question with a single word or phrase. and \
                 reply 'unanswerable' when the provided information is insufficient"
            ),
            Benchmark::HatefulMemes => {
                format!("This is an image writting '{text}'. Is this image hateful? Answer yes or no. Answer:")
            }
            Benchmark::Refcoco | Benchmark::RefcocoPlus | Benchmark::Refcocog => {
                format!("[refer] give me the location of {text}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_the_paper_s_to_the_letter() {
        let asked = |b: Benchmark| b.question("X?");
        assert_eq!(asked(Benchmark::Vsr), "[vqa] Based on the image, is this statement true or false? X?");
        let short = "[vqa] Based on the image, respond to this question with a short answer: X?";
        assert_eq!(asked(Benchmark::Gqa), short);
        assert_eq!(asked(Benchmark::Iconvqa), short);
        assert_eq!(
            asked(Benchmark::Vizwiz),
            "[vqa] The question is 'X?' Based on the image, answer the question with a single word or phrase. and reply \
             'unanswerable' when the provided information is insufficient"
        );
        assert_eq!(
            asked(Benchmark::HatefulMemes),
            "This is an image writting 'X?'. Is this image hateful? Answer yes or no. Answer:"
        );
        assert_eq!(asked(Benchmark::Refcoco), "[refer] give me the location of X?");
    }

    #[test]
    fn a_result_file_uses_the_command_line_s_names() {
        use Benchmark::*;
        for b in [Vsr, Gqa, Iconvqa, Vizwiz, HatefulMemes, Refcoco, RefcocoPlus, Refcocog] {
            assert_eq!(serde_json::to_string(&b).unwrap(), format!("\"{}\"", b.name()));
        }
    }
}
