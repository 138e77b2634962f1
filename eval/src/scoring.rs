//! Which answer counts as right: the rules of the paper's scripts, on answers that are already cut and trimmed.

use serde_json::{json, Value};
use tinygptv::grounding;

/// A box counts as found above this intersection over union.
const IOU_THRESHOLD: f64 = 0.5;
/// People who must have given an answer for it to be fully right.
const CONSENSUS: f64 = 3.0;

/// What is asked of the model, and what the dataset says is right.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// Generate an answer.
    Answer(Truth),
    /// Choose among candidates: the one with the lowest loss (IconQA).
    Rank {
        /// The candidates.
        choices: Vec<String>,
        /// Index of the right one.
        right: usize,
    },
}

impl Task {
    /// The truth as it stands in the results.
    pub fn label(&self) -> Value {
        match self {
            Task::Answer(truth) => truth.label(),
            Task::Rank { choices, right } => json!(choices[*right]),
        }
    }
}

/// Which generated answer is right.
#[derive(Clone, Debug, PartialEq)]
pub enum Truth {
    /// A text that the answer must contain (VSR, GQA).
    Contained(String),
    /// Several people's answers (VizWiz).
    People(Vec<String>),
    /// Yes or no (Hateful Memes).
    YesNo(bool),
    /// A box (RefCOCO).
    Region {
        /// Left, upper, right and lower edge in pixels.
        corners: [f64; 4],
        /// Width and height of the picture in pixels.
        size: [u32; 2],
    },
}

impl Truth {
    fn label(&self) -> Value {
        match self {
            Truth::Contained(text) => json!(text),
            Truth::People(answers) => json!(answers),
            Truth::YesNo(yes) => json!(if *yes { "yes" } else { "no" }),
            Truth::Region { corners, .. } => json!(corners),
        }
    }

    /// The score of an answer, 0 to 1. Letters' case makes no difference.
    pub fn score(&self, answer: &str) -> f64 {
        let answer = answer.to_lowercase();
        match self {
            Truth::Contained(text) => right(answer.contains(&text.to_lowercase())),
            Truth::People(answers) => {
                // An empty text is contained in every other, but answers nothing.
                let same = |person: &str| {
                    !person.is_empty() && !answer.is_empty() && (answer.contains(person) || person.contains(&answer))
                };
                let matches = answers.iter().filter(|a| same(&a.to_lowercase())).count();
                (matches as f64 / CONSENSUS).min(1.0)
            }
            Truth::YesNo(yes) => {
                // "yes" is looked for first.
                let said = if answer.contains("yes") { Some(true) } else { answer.contains("no").then_some(false) };
                right(said == Some(*yes))
            }
            Truth::Region { .. } => right(self.iou(&answer).is_some_and(|iou| iou > IOU_THRESHOLD)),
        }
    }

    /// Intersection over union of the answer's first box with the right one; `None` when no box is asked for or found.
    /// As in the paper's scripts, the last pixel of a box belongs to it: a side is `x1 - x0 + 1` long.
    pub fn iou(&self, answer: &str) -> Option<f64> {
        let Truth::Region { corners: b, size: [width, height] } = self else { return None };
        let found = grounding::parse(answer, *width, *height).into_iter().next()?;
        let a = [found.x0, found.y0, found.x1, found.y1].map(f64::from);
        let area = |[x0, y0, x1, y1]: [f64; 4]| (x1 - x0 + 1.0).max(0.0) * (y1 - y0 + 1.0).max(0.0);
        let common = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
        Some(common / (area(a) + area(*b) - common))
    }
}

/// Index of the candidate with the lowest loss, the first of equals.
pub fn best(losses: &[f32]) -> Option<usize> {
    (0..losses.len()).min_by(|&a, &b| losses[a].total_cmp(&losses[b]))
}

/// 1 for a right answer, 0 for a wrong one.
pub fn right(is: bool) -> f64 {
    f64::from(u8::from(is))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_is_contained() {
        let truth = Truth::Contained("true".into());
        assert_eq!(truth.score("True."), 1.0);
        assert_eq!(truth.score("that is true"), 1.0);
        assert_eq!(truth.score("false"), 0.0);
        assert_eq!(truth.score(""), 0.0);
        // The paper's rule knows no words.
        assert_eq!(Truth::Contained("no".into()).score("snow"), 1.0);
    }

    #[test]
    fn people_agree_by_thirds() {
        let truth = Truth::People(["Coke", "coke", "coca cola", "soda", ""].map(String::from).to_vec());
        // Two are equal but for their case; "a can of coke" contains the same two.
        assert_eq!(truth.score("coke"), 2.0 / 3.0);
        assert_eq!(truth.score("A can of Coke"), 2.0 / 3.0);
        // One person said more: "cola" is contained in "coca cola".
        assert_eq!(truth.score("cola"), 1.0 / 3.0);
        // "co" is contained in three answers, "o" in four: never more than 1.
        assert_eq!(truth.score("co"), 1.0);
        assert_eq!(truth.score("o"), 1.0);
        assert_eq!(truth.score("tea"), 0.0);
        assert_eq!(truth.score(""), 0.0);
    }

    #[test]
    fn yes_wins_over_no() {
        for (answer, said_yes, said_no) in
            [("Yes", 1.0, 0.0), ("no.", 0.0, 1.0), ("no, yes", 1.0, 0.0), ("maybe", 0.0, 0.0), ("", 0.0, 0.0)]
        {
            assert_eq!((Truth::YesNo(true).score(answer), Truth::YesNo(false).score(answer)), (said_yes, said_no));
        }
    }

    #[test]
    fn the_first_lowest_loss_is_chosen() {
        assert_eq!(best(&[2.0, 0.5, 0.5, 3.0]), Some(1));
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn boxes_overlap_by_more_than_half() {
        // A picture of 100 × 200: percent are pixels across and half pixels down.
        let region = |corners| Truth::Region { corners, size: [100, 200] };
        // The answer's box is x 10–29, y 20–60: 20 × 41 = 820 pixels.
        let answer = "{<10><10><29><30>}";
        assert_eq!(region([10.0, 20.0, 29.0, 60.0]).iou(answer), Some(1.0));
        // Right box x 20–39: common x 20–29 is 10 × 41 = 410 of 820 + 820 − 410 = 1230 pixels.
        assert_eq!(region([20.0, 20.0, 39.0, 60.0]).iou(answer), Some(410.0 / 1230.0));
        assert_eq!(region([20.0, 20.0, 39.0, 60.0]).score(answer), 0.0);
        // Right box x 10–49 is twice as large: exactly a half is not enough.
        assert_eq!(region([10.0, 20.0, 49.0, 60.0]).iou(answer), Some(0.5));
        assert_eq!(region([10.0, 20.0, 49.0, 60.0]).score(answer), 0.0);
        // One column less, 39 × 41 pixels: 820 / 1599.
        assert_eq!(region([10.0, 20.0, 48.0, 60.0]).iou(answer), Some(820.0 / 1599.0));
        assert_eq!(region([10.0, 20.0, 48.0, 60.0]).score(answer), 1.0);
        // Apart, and no box at all.
        assert_eq!(region([50.0, 100.0, 60.0, 110.0]).iou(answer), Some(0.0));
        assert_eq!(region([10.0, 20.0, 29.0, 60.0]).iou("on the left"), None);
        assert_eq!(region([10.0, 20.0, 29.0, 60.0]).score("on the left"), 0.0);
        // The first box counts.
        assert_eq!(region([10.0, 20.0, 29.0, 60.0]).score("{<80><80><90><90>}<delim>{<10><10><29><30>}"), 0.0);
    }
}
