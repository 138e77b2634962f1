//! What a session does besides asking: ranking, constrained answers, batches of questions, forgetting what is oldest,
//! templates of the caller's own.

mod common;

use std::collections::HashMap;
use std::sync::Arc;

use common::{ask, ask_about, encode, f16, golden, list, options, q4_k_m, read_text, scenes, session_with, text};
use serde_json::Value as Json;
use tinygptv::{Constraint, Embedding, Error, Finish, Model, RankOptions, Session, SessionOptions, WhenFull};

const CAPTION: &str = "Describe this image.";
const COUNT: &str = "How many shapes are there?";
const TRUE_OR_FALSE: &str = "Is this statement true or false? The orange triangle is above the green star.";

/// Pictures of tests/golden/scenes, each encoded once.
struct Pictures<'m> {
    model: &'m Arc<Model>,
    encoded: HashMap<String, Arc<Embedding>>,
}

impl<'m> Pictures<'m> {
    fn of(model: &'m Arc<Model>) -> Pictures<'m> {
        Pictures { model, encoded: HashMap::new() }
    }

    fn get(&mut self, name: &str) -> Arc<Embedding> {
        let encode = || encode(self.model, &golden("scenes").join(name));
        self.encoded.entry(name.to_owned()).or_insert_with(encode).clone()
    }
}

fn ranks() -> Vec<Json> {
    let lines = read_text(&golden("ranks.jsonl"));
    let ranks: Vec<Json> = lines.lines().map(|l| serde_json::from_str(l).expect("a JSON line")).collect();
    assert_eq!(ranks.len(), 27);
    ranks
}

fn texts<'a>(json: &'a Json, key: &str) -> Vec<&'a str> {
    list(json, key).iter().map(|t| t.as_str().expect("a text")).collect()
}

fn rank_session(model: &Arc<Model>) -> Session {
    session_with(model, SessionOptions { template: Some("rank".into()), ..options() })
}

/// Indices by falling likelihood.
fn order(losses: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..losses.len()).collect();
    order.sort_by(|&a, &b| losses[a].total_cmp(&losses[b]));
    order
}

fn about(embedding: &Arc<Embedding>, options: SessionOptions) -> Session {
    let mut session = session_with(f16(), options);
    session.add_embedding(embedding.clone()).expect("of this model");
    session
}

fn first_picture() -> Arc<Embedding> {
    encode(f16(), &golden("scenes").join("00.png"))
}

fn message<T: std::fmt::Debug>(result: tinygptv::Result<T>) -> String {
    match result.expect_err("a refusal") {
        Error::InvalidArgument(text) => text,
        other => panic!("another error: {other:?}"),
    }
}

// ------------------------------------------------------------------ ranking

#[test]
fn losses_and_order_are_the_reference_s() {
    let mut pictures = Pictures::of(f16());
    let mut session = rank_session(f16());
    let mut largest = 0f32;
    for item in ranks() {
        session.reset();
        session.add_embedding(pictures.get(text(&item, "image"))).expect("of this model");
        let candidates = texts(&item, "candidates");
        let golden: Vec<f32> = list(&item, "losses").iter().map(|l| l.as_f64().expect("a loss") as f32).collect();
        let rank_options = RankOptions { end: text(&item, "end").into(), bos: item["bos"] == true };
        let losses = session.rank(text(&item, "question"), &candidates, &rank_options).expect("losses");
        for (ours, theirs) in losses.iter().zip(&golden) {
            let gap = (ours - theirs).abs();
            largest = largest.max(gap);
            assert!(gap < 1e-2, "{item}: {losses:?}");
        }
        assert_eq!(order(&losses), order(&golden), "{item}");
        assert_eq!(candidates[order(&losses)[0]], text(&item, "expected"), "{item}");
    }
    println!("largest difference of a loss: {largest:.2e}");
}

#[test]
fn ranking_chooses_right_with_quantised_weights() {
    let mut pictures = Pictures::of(q4_k_m());
    let mut session = rank_session(q4_k_m());
    let mut right = 0;
    for item in ranks() {
        session.reset();
        session.add_embedding(pictures.get(text(&item, "image"))).expect("of this model");
        let candidates = texts(&item, "candidates");
        let losses = session.rank(text(&item, "question"), &candidates, &RankOptions::default()).expect("losses");
        right += usize::from(candidates[order(&losses)[0]] == text(&item, "expected"));
    }
    assert!(right >= 26, "{right} of 27");
}

#[test]
fn many_candidates_go_in_groups_with_the_same_losses() {
    let embedding = first_picture();
    // More than there are branches, and together longer than the context.
    let long: Vec<String> =
        (0..40).map(|i| format!("number {i} of {}", "a very long list of things ".repeat(i % 9))).collect();
    let candidates: Vec<&str> = long.iter().map(String::as_str).collect();
    let mut session = rank_session(f16());
    session.add_embedding(embedding.clone()).expect("of this model");
    let together = session.rank(COUNT, &candidates, &RankOptions::default()).expect("losses");
    for (candidate, loss) in candidates.iter().zip(&together).step_by(7) {
        let alone = session.rank(COUNT, &[candidate], &RankOptions::default()).expect("a loss")[0];
        assert!((alone - loss).abs() < 2e-3, "{candidate}: {alone} alone, {loss} among others");
    }
}

#[test]
fn ranking_leaves_the_conversation_as_it_was() {
    let embedding = first_picture();
    let mut plain = about(&embedding, options());
    let expected = [ask(&mut plain, CAPTION), ask(&mut plain, COUNT)];

    let mut session = about(&embedding, options());
    let candidates = ["one", "two", "four"];
    let before = session.rank(COUNT, &candidates, &RankOptions::default()).expect("losses");
    let first = ask(&mut session, CAPTION);
    session.rank(COUNT, &candidates, &RankOptions::default()).expect("losses");
    let second = ask(&mut session, COUNT);
    assert_eq!([first, second], expected);
    session.reset();
    session.add_embedding(embedding).expect("of this model");
    let again = session.rank(COUNT, &candidates, &RankOptions::default()).expect("losses");
    for (a, b) in before.iter().zip(&again) {
        assert!((a - b).abs() < 2e-3, "{before:?} {again:?}");
    }
}

#[test]
fn what_cannot_be_ranked_is_refused() {
    let embedding = first_picture();
    let mut session = about(&embedding, SessionOptions { context: 64, ..options() });
    let defaults = RankOptions::default();
    assert!(message(session.rank(COUNT, &[], &defaults)).contains("no candidates"));
    assert!(message(session.rank(" ", &["a"], &defaults)).contains("question is empty"));
    let no_end = RankOptions { end: String::new(), ..RankOptions::default() };
    assert!(message(session.rank(COUNT, &["a", ""], &no_end)).contains("candidate is empty"));
    let long = "word ".repeat(100);
    assert!(matches!(session.rank(COUNT, &[&long], &defaults), Err(Error::ContextFull { .. })));
    assert!(matches!(session.rank(&long, &["a"], &defaults), Err(Error::ContextFull { .. })));
    session.rank(COUNT, &["two", ""], &defaults).expect("an empty candidate with an end text has a loss");
    assert!(!ask(&mut session, COUNT).is_empty(), "the session goes on");
}

// ------------------------------------------------------------------ constrained answers

fn answers(texts: &[&str]) -> Constraint {
    Constraint::Answers(texts.iter().map(|t| (*t).to_owned()).collect())
}

#[test]
fn answers_come_from_the_list() {
    let mut pictures = Pictures::of(f16());
    let mut session = session_with(f16(), options());
    for item in ranks() {
        let candidates = texts(&item, "candidates");
        session.set_constraint(Some(&answers(&candidates))).expect("a list");
        let answer = ask_about(&mut session, &pictures.get(text(&item, "image")), text(&item, "question"));
        assert_eq!(answer, text(&item, "expected"), "{item}");
        assert_eq!(session.statistics().finish, Finish::Stop);
    }
}

#[test]
fn a_list_forces_answers_the_model_would_not_give() {
    let embedding = first_picture();
    let mut session = about(&embedding, options());
    let free = ask(&mut session, CAPTION);
    for forced in ["Nothing at all.", "\"quoted\" \\ and\na new line", "né 漢字 🙂", "### never", "x"] {
        session.reset();
        session.add_embedding(embedding.clone()).expect("of this model");
        let constraint = answers(&[forced]);
        if forced.contains("###") {
            assert!(message(session.set_constraint(Some(&constraint))).contains("###"));
            continue;
        }
        session.set_constraint(Some(&constraint)).expect("a list");
        assert_eq!(ask(&mut session, CAPTION), forced);
    }
    session.set_constraint(None).expect("no constraint");
    assert_eq!(ask_about(&mut session, &embedding, CAPTION), free, "free again");
}

#[test]
fn a_grammar_shapes_the_answer() {
    let embedding = first_picture();
    let number = Constraint::Grammar("root ::= [0-9]+".into());
    let json = Constraint::Grammar(
        r##"# an object with two members
root ::= "{" ws "\"shapes\":" ws number "," ws "\"colour\":" ws colour ws "}"
number ::= [1-9] [0-9]?
colour ::= "\"" ("red" | "green" | "blue" | "orange" | "yellow" | "purple") "\""
ws ::= " "?
"##
        .into(),
    );
    let mut session = about(&embedding, options());
    session.set_constraint(Some(&number)).expect("a grammar");
    let answer = ask(&mut session, COUNT);
    assert!(!answer.is_empty() && answer.bytes().all(|b| b.is_ascii_digit()), "{answer:?}");

    session.set_constraint(Some(&json)).expect("a grammar");
    let answer = ask(&mut session, "Which colour has the largest shape?");
    let parsed: Json = serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{answer:?}: {e}"));
    assert!(parsed["shapes"].as_i64().is_some_and(|n| (1..100).contains(&n)), "{answer}");
    assert!(parsed["colour"].is_string(), "{answer}");

    // Random sampling keeps to it as well.
    let random = tinygptv::Sampling { greedy: false, temperature: 5.0, seed: 3, ..tinygptv::Sampling::default() };
    session.set_sampling(random).expect("a sampling");
    for _ in 0..5 {
        let answer = ask_about(&mut session, &embedding, CAPTION);
        assert!(serde_json::from_str::<Json>(&answer).is_ok(), "{answer:?}");
    }
}

#[test]
fn a_constrained_answer_may_be_cut_and_says_so() {
    let mut session = about(&first_picture(), SessionOptions { max_new_tokens: 2, ..options() });
    session.set_constraint(Some(&Constraint::Grammar("root ::= \"a\"{30}".into()))).expect("a grammar");
    let answer = ask(&mut session, CAPTION);
    assert_eq!(session.statistics().finish, Finish::Length);
    assert!(answer.bytes().all(|b| b == b'a'), "{answer:?}");
}

/// A grammar of rules each of which is what `body` makes of the next.
fn rules(first: &str, count: usize, body: impl Fn(&str) -> String) -> String {
    let name = |i: usize| if i == 0 { first.to_owned() } else { format!("r{i}") };
    let rule = |i: usize| format!("{} ::= {}\n", name(i), if i == count { "\"a\"".into() } else { body(&name(i + 1)) });
    (0..=count).map(rule).collect()
}

#[test]
fn rules_may_begin_with_each_other() {
    let mut session = about(&first_picture(), options());
    for grammar in [
        rules("root", 200, |next| next.into()),
        rules("root", 15, |next| format!("{next} | {next} \"b\"")),
        // A repetition of what may be nothing, by way of another rule.
        "root ::= (ws)* \"a\"\nws ::= [y]*".into(),
    ] {
        session.set_constraint(Some(&Constraint::Grammar(grammar))).expect("a grammar");
        let answer = ask(&mut session, CAPTION);
        assert!(answer.trim_start_matches('y').starts_with('a'), "{answer:?}");
    }
}

#[test]
fn grammars_that_cannot_be_used_are_refused() {
    let mut session = about(&first_picture(), options());
    session.set_constraint(Some(&answers(&["true", "false"]))).expect("a list");
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(5000), ")".repeat(5000));
    let many_rules: String = (0..6000).map(|i| format!("r{i} ::= r{}\n", i + 1)).collect();
    let chain = rules("root", 300, |next| next.into());
    // Two ways at each of 60 rules.
    let doubling = rules("root", 60, |next| format!("{next} | {next} \"b\""));
    for (grammar, expected) in [
        ("", "'root'"),
        ("root", "::="),
        ("root ::= \"a", "unexpected end"),
        ("root ::= missing", "'missing'"),
        ("other ::= \"a\"", "'root'"),
        ("root ::= root \"a\"", "left recursion"),
        ("root ::= a\na ::= b\nb ::= a", "left recursion"),
        // What comes first may be nothing, by way of another rule.
        ("root ::= a root \"b\" | \"c\"\na ::= d\nd ::= \"e\" |", "left recursion"),
        (chain.as_str(), "256 deep"),
        (doubling.as_str(), "too many ways"),
        ("root ::= \"a\"{3000}", "repetitions"),
        ("root ::= \"a\"{5,2}", "at least 5"),
        ("root ::= [z", "unexpected end"),
        ("root ::= \"\\q\"", "escape"),
        ("root ::= \"a\0b\"", "NUL"),
        (deep.as_str(), "nested"),
        (many_rules.as_str(), ""),
        (&"x".repeat(70_000), "65536"),
    ] {
        let start: String = grammar.chars().take(30).collect();
        let told = message(session.set_constraint(Some(&Constraint::Grammar(grammar.into()))));
        assert!(told.contains("grammar cannot be used") && told.contains(expected), "{start:?}: {told}");
    }
    assert!(message(session.set_constraint(Some(&answers(&[])))).contains("empty"));
    assert!(message(session.set_constraint(Some(&answers(&["yes", "  "])))).contains("empty"));
    let kept = ask(&mut session, TRUE_OR_FALSE);
    assert!(["true", "false"].contains(&kept.as_str()), "the constraint from before holds: {kept:?}");
}

// ------------------------------------------------------------------ batches

#[test]
fn a_batch_gets_the_answers_of_single_questions() {
    for model in [f16(), q4_k_m()] {
        let mut pictures = Pictures::of(model);
        let lines = read_text(&golden("scenes/questions.jsonl"));
        let items: Vec<Json> = lines.lines().map(|l| serde_json::from_str(l).expect("a JSON line")).collect();
        let mut session = session_with(model, options());
        for name in ["00.png", "05.png", "11.png"] {
            let questions: Vec<&str> =
                items.iter().filter(|i| text(i, "image") == name).map(|i| text(i, "question")).collect();
            assert!(questions.len() >= 8, "{name}");
            let alone: Vec<String> =
                questions.iter().map(|q| ask_about(&mut session, &pictures.get(name), q)).collect();
            session.reset();
            session.add_embedding(pictures.get(name)).expect("of this model");
            let mut delivered = vec![None; questions.len()];
            let together = session
                .ask_each(&questions, &mut |i, answer, finish| {
                    assert_eq!(finish, Finish::Stop);
                    delivered[i] = Some(answer.to_owned());
                    true
                })
                .expect("answers");
            assert_eq!(together, alone, "{name}");
            assert_eq!(delivered.into_iter().map(|d| d.expect("each is told once")).collect::<Vec<_>>(), alone);
        }
    }
}

#[test]
fn a_batch_evaluates_the_image_once() {
    let embedding = first_picture();
    let questions = ["What color is the star?", "What color is the triangle?", COUNT, CAPTION];
    let mut session = about(&embedding, options());
    session.ask_each(&questions, &mut |_, _, _| true).expect("answers");
    let s = *session.statistics();
    let evaluated = s.prompt_tokens - s.reused_tokens;
    let mut alone = 0;
    for question in questions {
        let mut fresh = about(&embedding, options());
        ask(&mut fresh, question);
        alone += fresh.statistics().prompt_tokens;
    }
    assert_eq!(s.prompt_tokens, alone);
    assert_eq!(s.image_tokens, embedding.rows());
    assert!(evaluated < alone - 3 * embedding.rows(), "{evaluated} positions of {alone} evaluated");
    // A second batch finds the image in the KV cache.
    session.ask_each(&questions, &mut |_, _, _| true).expect("answers");
    let s = *session.statistics();
    assert!(s.prompt_tokens - s.reused_tokens < evaluated - embedding.rows());
}

#[test]
fn a_batch_larger_than_the_context_takes_turns() {
    let embedding = first_picture();
    let questions: Vec<String> = (0..40)
        .map(|i| match i % 4 {
            0 => COUNT.to_owned(),
            1 => format!("[vqa] What color is the {}?", ["star", "triangle", "circle"][i / 4 % 3]),
            2 => CAPTION.to_owned(),
            _ => TRUE_OR_FALSE.to_owned(),
        })
        .collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    let mut wide = about(&embedding, options());
    let expected = wide.ask_each(&questions, &mut |_, _, _| true).expect("answers");
    // Room for one question and answer at a time, then for about three.
    for context in [128, 300] {
        let mut narrow = about(&embedding, SessionOptions { context, ..options() });
        assert_eq!(narrow.ask_each(&questions, &mut |_, _, _| true).expect("answers"), expected, "context {context}");
    }
    let mut tight = about(&embedding, SessionOptions { context: 50, max_new_tokens: 300, ..SessionOptions::default() });
    let mut finishes = Vec::new();
    let answers = tight
        .ask_each(&[CAPTION, COUNT], &mut |_, _, finish| {
            finishes.push(finish);
            true
        })
        .expect("answers");
    assert_eq!(finishes[0], Finish::Context);
    assert!(expected[2].starts_with(&answers[0]) && answers[1] == expected[0], "{answers:?}");
}

#[test]
fn a_batch_leaves_the_conversation_as_it_was_and_may_be_ended() {
    let embedding = first_picture();
    let mut plain = about(&embedding, options());
    let expected = [ask(&mut plain, CAPTION), ask(&mut plain, COUNT)];
    let mut session = about(&embedding, options());
    let questions = [COUNT, CAPTION, TRUE_OR_FALSE];
    session.ask_each(&questions, &mut |_, _, _| true).expect("answers");
    let first = ask(&mut session, CAPTION);
    let mut told = 0;
    let texts = session
        .ask_each(&questions, &mut |_, _, _| {
            told += 1;
            false
        })
        .expect("an early end is no failure");
    assert_eq!((told, texts.iter().filter(|t| !t.is_empty()).count()), (1, 1));
    assert_eq!([first, ask(&mut session, COUNT)], expected);
    assert_eq!(session.ask_each(&[], &mut |_, _, _| true).expect("no answers"), Vec::<String>::new());
    assert!(message(session.ask_each(&[COUNT, ""], &mut |_, _, _| true)).contains("question is empty"));
    let handle = session.cancel_handle();
    let cancelled = session.ask_each(&questions, &mut |_, _, _| {
        handle.cancel();
        true
    });
    assert!(matches!(cancelled, Err(Error::Cancelled)), "{cancelled:?}");
    session.ask_each(&questions, &mut |_, _, _| true).expect("the session goes on");
}

#[test]
fn a_constraint_holds_for_every_question_of_a_batch() {
    let mut session = about(&first_picture(), options());
    session.set_constraint(Some(&answers(&["yes", "no"]))).expect("a list");
    let texts = session.ask_each(&[CAPTION, COUNT, "Is there a green star?"], &mut |_, _, _| true).expect("answers");
    assert!(texts.iter().all(|t| t == "yes" || t == "no"), "{texts:?}");
    assert_eq!(texts[2], "yes");
}

// ------------------------------------------------------------------ context

fn dropping(context: usize) -> SessionOptions {
    SessionOptions { context, when_full: WhenFull::DropOldest, ..options() }
}

#[test]
fn the_oldest_turns_go_and_the_image_stays() {
    let embedding = first_picture();
    let mut session = about(&embedding, dropping(160));
    let expected = ask(&mut about(&embedding, options()), COUNT);
    let mut dropped = 0;
    for round in 0..30 {
        let answer = ask(&mut session, COUNT);
        let s = *session.statistics();
        assert!(s.context_used <= s.context_size && s.finish == Finish::Stop, "round {round}: {s:?}");
        assert_eq!(answer, expected, "round {round}: the model still sees the picture");
        assert_eq!(s.dropped_images, 0);
        dropped += s.dropped_turns;
        if s.dropped_turns > 0 {
            assert!(s.reused_tokens >= embedding.rows(), "the image is not evaluated again: {s:?}");
        }
    }
    assert!(dropped > 10, "{dropped} turns were dropped");

    let mut strict = about(&embedding, SessionOptions { context: 160, ..options() });
    let failed = (0..30).find_map(|_| strict.ask(COUNT, &mut |_| true).err());
    assert!(matches!(failed, Some(Error::ContextFull { .. })), "without being asked nothing is dropped");
}

#[test]
fn a_conversation_after_dropping_is_the_same_as_without_the_dropped_turns() {
    let embedding = first_picture();
    let mut long = about(&embedding, dropping(150));
    for _ in 0..12 {
        ask(&mut long, COUNT);
    }
    let kept = long.statistics().context_used;
    // As many turns as are left, asked from the beginning: the same positions and the same next answer.
    let mut fresh = about(&embedding, SessionOptions { context: 150, ..options() });
    while fresh.statistics().context_used < kept {
        ask(&mut fresh, COUNT);
    }
    assert_eq!(fresh.statistics().context_used, kept);
    long.prefill("What color is the star?").expect("room");
    fresh.prefill("What color is the star?").expect("room");
    let gap = common::difference(long.logits(), fresh.logits());
    assert!(gap.largest < 1e-2, "{gap:?}");
}

#[test]
fn images_go_only_when_there_is_no_other_way_and_never_the_newest() {
    let pictures: Vec<Arc<Embedding>> =
        scenes().iter().map(|s| f16().embedding(s.embedding.clone()).expect("an embedding")).collect();
    let rows = pictures[0].rows();
    let mut session = session_with(f16(), dropping(6 * rows));
    let mut dropped = 0;
    for i in 0..16 {
        session.add_embedding(pictures[i % 8].clone()).expect("of this model");
        ask(&mut session, COUNT);
        let s = *session.statistics();
        assert!(s.context_used <= s.context_size);
        dropped += s.dropped_images;
    }
    assert!(dropped > 8, "{dropped}");
    // The last picture is still seen, in a turn without a new one.
    let count = ask(&mut session, "Describe this image.");
    assert!(!count.is_empty());
    let too_many = (0..7).try_for_each(|i| session.add_embedding(pictures[i].clone()));
    too_many.expect("of this model");
    let refused = session.ask(COUNT, &mut |_| true);
    assert!(matches!(refused, Err(Error::ContextFull { .. })), "the pictures of one question are never dropped");
}

// ------------------------------------------------------------------ templates

#[test]
fn a_template_of_the_caller_s_own_does_what_a_named_one_does() {
    let embedding = first_picture();
    let named = f16().templates().get(Some("benchmark")).expect("a template").clone();
    let own = SessionOptions {
        template_text: Some(named.turn.clone()),
        image_text: Some(named.image.clone()),
        system: Some(String::new()),
        ..options()
    };
    let by_name = SessionOptions { template: Some("benchmark".into()), ..options() };
    let (mut a, mut b) = (about(&embedding, own), about(&embedding, by_name));
    for question in [CAPTION, COUNT] {
        assert_eq!(ask(&mut a, question), ask(&mut b, question));
        assert_eq!(a.statistics().prompt_tokens, b.statistics().prompt_tokens);
    }
    let text_only = SessionOptions { template_text: Some("Q: {question}\nA:{images}".into()), ..options() };
    let mut session = session_with(f16(), text_only);
    session.ask("Why?", &mut |_| true).expect("a turn without an image");
    let prompt = f16().count_tokens("Q: Why?\nA:").expect("a count");
    assert_eq!(session.statistics().prompt_tokens, prompt, "no system text of another template");
}

#[test]
fn templates_without_their_marks_are_refused() {
    let try_with = |turn: Option<&str>, image: Option<&str>| {
        let options = SessionOptions {
            template_text: turn.map(str::to_owned),
            image_text: image.map(str::to_owned),
            ..SessionOptions::default()
        };
        message(Session::new(f16().clone(), &options).map(|_| ()))
    };
    assert!(try_with(Some("no marks"), None).contains("{images}"));
    assert!(try_with(Some("{images}{question}{question}"), None).contains("{question}"));
    assert!(try_with(Some("{images}{question}"), Some("<Img></Img>")).contains("{image}"));
    assert!(try_with(None, Some("{image}")).contains("template text"));
}
