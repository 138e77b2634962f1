//! Conversations: what is evaluated and what is reused, how answers end, what errors leave behind.

mod common;

use std::sync::mpsc;
use std::sync::Arc;

use common::{ask, ask_about, difference, f16, open_image, options, scenes, session, session_with, text, Scene};
use tinygptv::decoder::{Decoder, DecoderModel, DecoderOptions, Kernels, KvType, LoadOptions, Slot};
use tinygptv::gguf::Gguf;
use tinygptv::prompt::Segment;
use tinygptv::{Embedding, Error, Finish, Model, ModelOptions, Sampling, Session, SessionOptions};

const CAPTION: &str = "Describe this image.";
const COUNT: &str = "How many shapes are there?";
/// Largest difference of logits from the same evaluations.
const SAME_LOGITS: f64 = 1e-3;
/// The same for positions evaluated one by one and many at once: llama.cpp rounds to F16 in other places then, so this is
/// the limit that logits have against the reference.
const OTHER_PORTIONS: f64 = 1e-2;

fn embedding(scene: &Scene) -> Arc<Embedding> {
    f16().embedding(scene.embedding.clone()).expect("an embedding")
}

/// The first picture with several objects: its caption is long.
fn scene() -> Scene {
    scenes().into_iter().max_by_key(|s| text(&s.questions[0], "answer").len()).expect("a scene")
}

fn golden_caption(scene: &Scene) -> String {
    assert_eq!(text(&scene.questions[0], "question"), CAPTION);
    text(&scene.questions[0], "answer").to_owned()
}

/// A session with one image waiting.
fn session_about(scene: &Scene, options: SessionOptions) -> Session {
    let mut session = session_with(f16(), options);
    session.add_embedding(embedding(scene)).expect("of this model");
    session
}

fn tokens(text: &str) -> usize {
    f16().count_tokens(text).expect("a count")
}

/// Positions of one turn's prompt by the template: texts and images.
fn turn_positions(template: Option<&str>, first: bool, images: usize, question: &str) -> usize {
    let template = f16().templates().get(template).expect("a template");
    let segments = template.render(first.then_some(&template.system), images, question);
    segments
        .iter()
        .map(|s| match s {
            Segment::Text(text) => tokens(text),
            Segment::Image(_) => f16().info().image_tokens,
        })
        .sum()
}

#[test]
fn a_second_turn_evaluates_only_what_is_new() {
    let scene = scene();
    let mut session = session_about(&scene, options());
    ask(&mut session, CAPTION);
    let first = *session.statistics();
    assert_eq!(first.finish, Finish::Stop);
    assert_eq!((first.prompt_tokens, first.reused_tokens), (turn_positions(None, true, 1, CAPTION), 0));
    assert_eq!((first.image_tokens, first.context_size), (16, f16().info().context_length));
    assert_eq!(first.context_used, first.prompt_tokens + first.generated_tokens - 1, "the stop token is not kept");

    ask(&mut session, COUNT);
    let second = *session.statistics();
    assert_eq!(second.reused_tokens, first.context_used, "the first turn is not evaluated again");
    assert_eq!(second.prompt_tokens, first.context_used + turn_positions(None, false, 0, COUNT));
    assert_eq!(second.image_tokens, 0, "images of earlier turns do not count");
}

#[test]
fn a_new_conversation_about_the_same_embedding_reuses_the_image() {
    let scene = scene();
    let embedding = embedding(&scene);
    let mut session = session(f16());
    let first = ask_about(&mut session, &embedding, CAPTION);
    let again = ask_about(&mut session, &embedding, CAPTION);
    assert_eq!(again, first);
    let s = *session.statistics();
    assert_eq!(s.reused_tokens, s.prompt_tokens - 1, "all but the last position, whose logits are wanted");

    ask_about(&mut session, &embedding, COUNT);
    let beginning = tokens("###Human: <Img>") + embedding.rows();
    assert!(session.statistics().reused_tokens >= beginning, "{:?}", session.statistics());
}

#[test]
fn an_equal_embedding_from_elsewhere_is_not_taken_for_the_same() {
    let scene = scene();
    let mut session = session(f16());
    let first = ask_about(&mut session, &embedding(&scene), CAPTION);
    let again = ask_about(&mut session, &embedding(&scene), CAPTION);
    assert_eq!(again, first);
    assert_eq!(session.statistics().reused_tokens, tokens("###Human: <Img>"), "identity counts, not values");
}

#[test]
fn answers_and_logits_do_not_depend_on_reuse() {
    let mut reusing = session(f16());
    let mut worst = 0f64;
    for scene in scenes() {
        let embedding = embedding(&scene);
        for question in scene.questions.iter().map(|q| text(q, "question")) {
            let mut fresh = session(f16());
            fresh.add_embedding(embedding.clone()).expect("of this model");
            fresh.prefill(question).expect("a prompt");
            reusing.reset();
            reusing.add_embedding(embedding.clone()).expect("of this model");
            reusing.prefill(question).expect("a prompt");
            worst = worst.max(difference(reusing.logits(), fresh.logits()).largest);
            assert_eq!(ask(&mut reusing, question), ask(&mut fresh, question), "{}: {question}", scene.name);
        }
    }
    println!("largest difference of a logit: {worst:.1e}");
    assert!(worst < SAME_LOGITS, "logits differ by up to {worst}");
}

#[test]
fn a_conversation_is_the_same_as_one_long_prompt() {
    // The second turn's logits from the KV cache and from a new session that gets everything at once.
    for scene in scenes() {
        let [(first, answer), (second, _)] = scene.conversation.as_slice() else { panic!("two turns") };
        let mut turns = session_about(&scene, options());
        assert_eq!(ask(&mut turns, first), *answer);
        turns.prefill(second).expect("a prompt");
        let mut at_once = session_about(&scene, options());
        at_once.prefill(&format!("{first} ###Assistant: {answer}###Human: {second}")).expect("a prompt");
        let d = difference(turns.logits(), at_once.logits());
        println!("{}: logits differ by up to {:.1e}", scene.name, d.largest);
        assert!(d.largest < OTHER_PORTIONS, "{}: {d:?}", scene.name);
    }
}

#[test]
fn prefill_changes_nothing_but_the_logits() {
    let scene = scene();
    let mut session = session_about(&scene, options());
    session.prefill("Some other question, whatever it is?").expect("a prompt");
    session.prefill(CAPTION).expect("a prompt");
    assert_eq!(ask(&mut session, CAPTION), golden_caption(&scene));
    let s = *session.statistics();
    assert_eq!((s.image_tokens, s.reused_tokens), (16, s.prompt_tokens - 1));
}

#[test]
fn pieces_put_together_are_the_answer() {
    let scene = scene();
    let mut session = session_about(&scene, options());
    let mut pieces: Vec<String> = Vec::new();
    let answer = session.ask(CAPTION, &mut |piece| {
        pieces.push(piece.to_owned());
        true
    });
    assert_eq!(answer.expect("an answer"), pieces.concat());
    assert_eq!(pieces.concat(), golden_caption(&scene));
    assert!(pieces.len() > 5 && pieces.iter().all(|p| !p.is_empty()), "{pieces:?}");
}

#[test]
fn cancel_from_another_thread_stops_an_answer() {
    let scene = scene();
    let mut session = session_about(&scene, options());
    let cancel = session.cancel_handle();
    let (ask_to_cancel, asked) = mpsc::channel();
    let (done, is_done) = mpsc::channel();
    let canceller = std::thread::spawn(move || {
        for () in asked {
            cancel.cancel();
            done.send(()).expect("the asking thread waits");
        }
    });
    let mut pieces = 0;
    let result = session.ask(CAPTION, &mut |_| {
        pieces += 1;
        ask_to_cancel.send(()).expect("the canceller waits");
        is_done.recv().expect("the canceller answers");
        true
    });
    drop(ask_to_cancel);
    canceller.join().expect("no panic");
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    assert_eq!(pieces, 1, "nothing is delivered after a cancel");
    assert_eq!(ask(&mut session, CAPTION), golden_caption(&scene), "the image still waits");
    assert_eq!(session.statistics().image_tokens, 16);
}

#[test]
fn cancel_stops_the_evaluation_of_a_prompt() {
    let scene = scene();
    let mut session = session_about(&scene, options());
    let long = format!("{} {CAPTION}", "the red circle ".repeat(100));
    let cancel = session.cancel_handle();
    let (stop, stopped) = mpsc::channel::<()>();
    let canceller = std::thread::spawn(move || {
        while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
            cancel.cancel();
            std::thread::yield_now();
        }
    });
    // The other thread may not get a processor during one evaluation; during one of many it does.
    let cancelled = (0..200).any(|_| matches!(session.prefill(&long), Err(Error::Cancelled)));
    drop(stop);
    canceller.join().expect("no panic");
    assert!(cancelled, "200 evaluations ran to their end under a thread that cancels all the time");
    assert_eq!(ask(&mut session, CAPTION), golden_caption(&scene));
}

#[test]
fn cancel_from_another_thread_stops_an_image() {
    let scene = scene();
    let image = open_image(&scene.image);
    let mut session = session(f16());
    let cancel = session.cancel_handle();
    let (ask_to_cancel, asked) = mpsc::channel();
    let (done, is_done) = mpsc::channel();
    let canceller = std::thread::spawn(move || {
        for () in asked {
            cancel.cancel();
            done.send(()).expect("the encoding thread waits");
        }
    });
    let mut calls = 0;
    let result = session.add_image(
        &image,
        Some(&mut |_| {
            calls += 1;
            ask_to_cancel.send(()).expect("the canceller waits");
            is_done.recv().expect("the canceller answers");
            true
        }),
    );
    drop(ask_to_cancel);
    canceller.join().expect("no panic");
    assert!(matches!(result, Err(Error::Cancelled)), "{:?}", result.map(|_| ()));
    assert_eq!(calls, 1, "no progress after a cancel");
    session.add_image(&image, None).expect("the next one works");
    ask(&mut session, CAPTION);
    assert_eq!(session.statistics().image_tokens, 16, "the cancelled image does not wait");
}

#[test]
fn cancelling_when_nothing_runs_has_no_effect() {
    let scene = scene();
    let mut session = session(f16());
    session.cancel_handle().cancel();
    session.add_image(&open_image(&scene.image), None).expect("an image");
    session.cancel_handle().cancel();
    assert_eq!(ask(&mut session, CAPTION), golden_caption(&scene));
}

#[test]
fn progress_of_an_image_rises_to_one_and_can_stop() {
    let image = open_image(&scene().image);
    let mut session = session(f16());
    let mut seen = Vec::new();
    session
        .add_image(
            &image,
            Some(&mut |fraction| {
                seen.push(fraction);
                true
            }),
        )
        .expect("an image");
    assert!(seen.len() > 4 && seen.is_sorted(), "{seen:?}");
    assert!(seen[0] > 0.0 && seen.last() == Some(&1.0), "{seen:?}");

    session.reset();
    let mut calls = 0;
    let result = session.add_image(
        &image,
        Some(&mut |_| {
            calls += 1;
            calls < 3
        }),
    );
    assert!(matches!(result, Err(Error::Cancelled)) && calls == 3, "{calls} calls");
    ask(&mut session, COUNT);
    assert_eq!(session.statistics().image_tokens, 0);
}

#[test]
fn progress_of_loading_rises_to_one_and_can_stop() {
    let (decoder, vision) = (common::decoder_file("q4_k_m"), common::vision_file("q8_0"));
    let load = |progress: &mut dyn FnMut(f32) -> bool| {
        Model::load_with_progress(&decoder, Some(&vision), &ModelOptions::default(), progress).map(|_| ())
    };
    let mut seen = Vec::new();
    load(&mut |fraction| {
        seen.push(fraction);
        true
    })
    .expect("the demo model");
    assert!(seen.is_sorted() && seen.last() == Some(&1.0), "{seen:?}");
    for stop_at in [1, seen.len() / 2, seen.len()] {
        let mut calls = 0;
        let result = load(&mut |_| {
            calls += 1;
            calls < stop_at
        });
        assert!(
            matches!(result, Err(Error::Cancelled)) && calls == stop_at,
            "stopped at {stop_at}: {result:?}, {calls} calls"
        );
    }
}

#[test]
fn a_question_too_long_leaves_the_conversation_as_it_was() {
    let scene = scene();
    let small = SessionOptions { context: 110, ..options() };
    let mut untouched = session_about(&scene, small.clone());
    let mut disturbed = session_about(&scene, small);
    let long = "Is there a red circle? ".repeat(20);

    // With the image still waiting, then within the conversation.
    let error = disturbed.ask(&long, &mut |_| true);
    assert!(matches!(error, Err(Error::ContextFull { capacity: 110, used: 0, needed }) if needed > 110), "{error:?}");
    assert_eq!(ask(&mut disturbed, COUNT), ask(&mut untouched, COUNT));
    assert_eq!(disturbed.statistics().image_tokens, 16);
    let before = *disturbed.statistics();
    let error = disturbed.ask(&long, &mut |_| true);
    match error {
        Err(Error::ContextFull { capacity, used, needed }) => {
            assert_eq!((capacity, used), (110, before.context_used));
            assert_eq!(needed, turn_positions(None, false, 0, &long) + 1, "the question and room for an answer");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(*disturbed.statistics(), before, "statistics are of the last answer");

    disturbed.prefill(CAPTION).expect("a prompt");
    untouched.prefill(CAPTION).expect("a prompt");
    let worst = difference(disturbed.logits(), untouched.logits()).largest;
    assert!(worst < SAME_LOGITS, "logits differ by up to {worst}");
    assert_eq!(ask(&mut disturbed, CAPTION), ask(&mut untouched, CAPTION));
}

#[test]
fn an_empty_question_is_refused_and_the_image_waits_on() {
    let scene = scene();
    let mut session = session_about(&scene, options());
    for empty in ["", " ", "\n\t "] {
        assert!(matches!(session.ask(empty, &mut |_| true), Err(Error::InvalidArgument(_))), "{empty:?}");
    }
    assert_eq!(ask(&mut session, CAPTION), golden_caption(&scene));
}

#[test]
fn an_answer_can_fill_the_context_to_the_last_position() {
    let scene = scene();
    let prompt = turn_positions(None, true, 1, CAPTION);
    let context = prompt + 3;
    let mut session = session_about(&scene, SessionOptions { context, ..options() });
    let answer = ask(&mut session, CAPTION);
    let s = *session.statistics();
    assert_eq!((s.finish, s.prompt_tokens, s.context_size), (Finish::Context, prompt, context));
    assert_eq!(s.generated_tokens, 4, "the last one is told and not evaluated");
    assert!(!answer.is_empty() && golden_caption(&scene).starts_with(&answer), "{answer:?}");
    assert!(
        matches!(session.ask("Why?", &mut |_| true), Err(Error::ContextFull { .. })),
        "no room for a second question"
    );

    let again = ask_about(&mut session, &embedding(&scene), CAPTION);
    assert_eq!((again, session.statistics().finish), (answer, Finish::Context));
    session.reset();
    assert!(!ask(&mut session, COUNT).is_empty());
}

#[test]
fn the_context_is_never_told_to_be_more_than_full() {
    let scene = scene();
    let context = turn_positions(None, true, 1, CAPTION) + 3;
    let mut session = session_about(&scene, SessionOptions { context, ..options() });
    ask(&mut session, CAPTION);
    let s = *session.statistics();
    assert!(s.context_used <= s.context_size, "{} of {} positions", s.context_used, s.context_size);
}

#[test]
fn a_prompt_that_leaves_one_position_gets_an_answer() {
    let scene = scene();
    let prompt = turn_positions(None, true, 1, CAPTION);
    let too_small = session_about(&scene, SessionOptions { context: prompt, ..options() }).ask(CAPTION, &mut |_| true);
    assert!(matches!(too_small, Err(Error::ContextFull { .. })), "{too_small:?}");
    let mut session = session_about(&scene, SessionOptions { context: prompt + 1, ..options() });
    assert!(golden_caption(&scene).starts_with(&ask(&mut session, CAPTION)));
    assert_eq!(session.statistics().generated_tokens, 2);
}

#[test]
fn the_limit_on_new_tokens_holds() {
    let scene = scene();
    for limit in [1, 2, 5] {
        let mut session = session_about(&scene, SessionOptions { max_new_tokens: limit, ..options() });
        let answer = ask(&mut session, CAPTION);
        let s = *session.statistics();
        assert_eq!((s.generated_tokens, s.finish), (limit, Finish::Length));
        assert!(golden_caption(&scene).starts_with(&answer), "{answer:?}");
        assert!(!ask(&mut session, COUNT).is_empty(), "the conversation goes on");
    }
}

#[test]
fn stop_texts_cut_an_answer() {
    let scene = scene();
    let caption = golden_caption(&scene);
    let word = caption.split(' ').nth(4).expect("a long caption");
    let cut = caption.split(word).next().expect("a beginning").trim_end();
    let mut session = session_about(&scene, SessionOptions { stops: vec![word.into()], ..options() });
    assert_eq!(ask(&mut session, CAPTION), cut);
    assert_eq!(session.statistics().finish, Finish::Stop);

    // A stop text at the very beginning leaves nothing, and the conversation goes on.
    let first_word = caption.split(' ').next().expect("a word");
    let mut session =
        session_about(&scene, SessionOptions { stops: vec![first_word.into(), String::new()], ..options() });
    assert_eq!(ask(&mut session, CAPTION), "");
    assert!(!ask(&mut session, COUNT).is_empty());
}

#[test]
fn text_in_front_of_a_stop_text_within_a_token_is_kept() {
    let scene = scene();
    let caption = golden_caption(&scene);
    let word = caption.split(' ').nth(4).expect("a long caption");
    assert_eq!(tokens(&format!(" {word}")), 1, "{word:?} is one token");
    let (kept, stop) = word.split_at(2);
    let mut session = session_about(&scene, SessionOptions { stops: vec![stop.into()], ..options() });
    let answer = ask(&mut session, CAPTION);
    assert_eq!(answer, caption.split(stop).next().expect("a beginning"));
    assert!(answer.ends_with(kept), "{answer:?}");
    // The token that holds the stop text is not in the conversation; its beginning goes in front of the next turn.
    let first = *session.statistics();
    assert_eq!(first.context_used, first.prompt_tokens + first.generated_tokens - 1);
    session.ask(COUNT, &mut |_| true).expect("an answer");
    let template = f16().templates().get(None).expect("a template");
    let [Segment::Text(turn)] = &template.render(None, 0, COUNT)[..] else { panic!("one text") };
    assert_eq!(session.statistics().prompt_tokens, first.context_used + tokens(&format!(" {kept}{turn}")));
}

#[test]
fn a_callback_can_end_an_answer() {
    let scene = scene();
    let mut session = session_about(&scene, options());
    let mut pieces = Vec::new();
    let answer = session.ask(CAPTION, &mut |piece| {
        pieces.push(piece.to_owned());
        pieces.len() < 3
    });
    assert_eq!(answer.expect("an answer, not an error"), pieces.concat());
    assert_eq!((pieces.len(), session.statistics().finish), (3, Finish::Callback));
    assert!(golden_caption(&scene).starts_with(&pieces.concat()));
    let first = *session.statistics();
    assert!(!ask(&mut session, COUNT).is_empty());
    assert!(session.statistics().prompt_tokens > first.context_used, "what was told is part of the conversation");
}

#[test]
fn two_images_stand_where_the_template_puts_them() {
    let all = scenes();
    let (a, b) = (embedding(&all[1]), embedding(&all[2]));
    let mut session = session(f16());
    session.add_embedding(a.clone()).expect("of this model");
    session.add_embedding(b.clone()).expect("of this model");
    session.prefill(COUNT).expect("a prompt");
    let ours = session.logits().to_vec();

    // The same positions put together by hand.
    let file = Gguf::open(&common::decoder_file("f16")).expect("the decoder file");
    let model = Arc::new(DecoderModel::load(&file, &LoadOptions::default(), &mut |_| true).expect("the decoder"));
    let decoder_options =
        DecoderOptions { capacity: 256, threads: 1, kv_type: KvType::F16, kernels: Kernels::default() };
    let mut decoder = Decoder::new(model, &decoder_options, Arc::default()).expect("a context");
    let mut by_hand = |first: &Arc<Embedding>, second: &Arc<Embedding>| {
        let mut slots: Vec<Slot> = Vec::new();
        let put_text = |slots: &mut Vec<Slot>, text: &str| {
            slots.extend(f16().tokenizer().encode(text).expect("ids").into_iter().map(Slot::Token));
        };
        let put_image = |slots: &mut Vec<Slot>, e: &Arc<Embedding>| {
            slots.extend((0..e.rows()).map(|row| Slot::Image(e.clone(), row)));
        };
        put_text(&mut slots, "###Human: <Img>");
        put_image(&mut slots, first);
        put_text(&mut slots, "</Img> <Img>");
        put_image(&mut slots, second);
        put_text(&mut slots, &format!("</Img> {COUNT} ###Assistant:"));
        decoder.evaluate(&slots).expect("an evaluation");
        decoder.logits().to_vec()
    };
    let d = difference(&ours, &by_hand(&a, &b));
    assert!(d.largest < SAME_LOGITS, "{d:?}");
    let swapped = difference(&ours, &by_hand(&b, &a));
    assert!(swapped.largest > 0.1, "the order of the images counts: {swapped:?}");

    ask(&mut session, COUNT);
    let s = *session.statistics();
    assert_eq!((s.image_tokens, s.prompt_tokens), (32, turn_positions(None, true, 2, COUNT)));
}

#[test]
fn an_image_can_come_later_in_a_conversation() {
    let all = scenes();
    let mut session = session_about(&all[0], options());
    ask(&mut session, CAPTION);
    let used = session.statistics().context_used;
    session.add_embedding(embedding(&all[1])).expect("of this model");
    ask(&mut session, CAPTION);
    let s = *session.statistics();
    assert_eq!((s.image_tokens, s.reused_tokens), (16, used));
    assert_eq!(s.prompt_tokens, used + turn_positions(None, false, 1, CAPTION));
}

#[test]
fn a_turn_without_an_image_works() {
    let mut session = session(f16());
    let answer = ask(&mut session, "What color is the star?");
    assert!(!answer.is_empty());
    let s = *session.statistics();
    assert_eq!((s.image_tokens, s.prompt_tokens), (0, turn_positions(None, true, 0, "What color is the star?")));
}

#[test]
fn a_reset_forgets_the_conversation_and_waiting_images() {
    let scene = scene();
    let mut session = session_about(&scene, options());
    ask(&mut session, CAPTION);
    session.add_embedding(embedding(&scene)).expect("of this model");
    session.reset();
    assert_eq!(session.statistics().finish, Finish::None);
    ask(&mut session, COUNT);
    let s = *session.statistics();
    assert_eq!((s.image_tokens, s.prompt_tokens), (0, turn_positions(None, true, 0, COUNT)));
}

#[test]
fn templates_are_chosen_by_name() {
    let scene = scene();
    let templates = f16().templates();
    let names: Vec<&str> = templates.names().collect();
    for needed in ["chat", "benchmark", "rank", "instruct", "plain"] {
        assert!(names.contains(&needed), "{names:?}");
    }
    let mut prompts = Vec::new();
    for name in &names {
        let template = Some((*name).to_owned());
        let mut session =
            session_about(&scene, SessionOptions { template, max_new_tokens: 4, ..SessionOptions::default() });
        ask(&mut session, COUNT);
        assert_eq!(session.statistics().prompt_tokens, turn_positions(Some(name), true, 1, COUNT), "{name}");
        prompts.push(session.statistics().prompt_tokens);
    }
    prompts.sort_unstable();
    prompts.dedup();
    assert!(prompts.len() > 3, "templates differ: {prompts:?}");

    let unknown = SessionOptions { template: Some("nonsense".into()), ..SessionOptions::default() };
    match Session::new(f16().clone(), &unknown) {
        Err(Error::InvalidArgument(message)) => assert!(names.iter().all(|n| message.contains(n)), "{message}"),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[test]
fn a_system_text_stands_in_front_of_the_first_turn() {
    let scene = scene();
    let system = "Answer in one word.";
    let mut session = session_about(&scene, SessionOptions { system: Some(system.into()), ..options() });
    ask(&mut session, COUNT);
    let first = *session.statistics();
    let without = turn_positions(None, true, 1, COUNT);
    let head = tokens(&format!("{system}###Human: <Img>")) - tokens("###Human: <Img>");
    assert_eq!(first.prompt_tokens, without + head);
    ask(&mut session, COUNT);
    assert_eq!(session.statistics().prompt_tokens, first.context_used + turn_positions(None, false, 0, COUNT));
}

#[test]
fn a_question_may_hold_any_text() {
    let scene = scene();
    let mut session = session_about(&scene, options());
    for question in ["{question} {images} {image}", "###", "<|endoftext|>", "naïve 日本語 👩‍💻\u{0}", "<Img></Img>"]
    {
        session.ask(question, &mut |_| true).unwrap_or_else(|e| panic!("{question:?}: {e}"));
        session.reset();
        session.add_embedding(embedding(&scene)).expect("of this model");
    }
    assert_eq!(ask(&mut session, CAPTION), golden_caption(&scene));
}

/// Temperature so high that any token may come.
fn wild(seed: u32) -> SessionOptions {
    let sampling = Sampling { greedy: false, temperature: 8.0, seed, ..Sampling::default() };
    SessionOptions { sampling, max_new_tokens: 24, ..SessionOptions::default() }
}

#[test]
fn a_seed_repeats_an_answer_and_another_gives_another() {
    let scene = scene();
    let embedding = embedding(&scene);
    let answer = |seed: u32| {
        let mut session = session_with(f16(), wild(seed));
        ask_about(&mut session, &embedding, CAPTION)
    };
    assert_eq!(answer(1), answer(1));
    assert_ne!(answer(1), answer(2));
    let mut session = session_with(f16(), wild(1));
    let first = ask_about(&mut session, &embedding, CAPTION);
    let again = ask_about(&mut session, &embedding, CAPTION);
    assert_eq!(first, again, "each answer starts with the seed");
}

#[test]
fn sampling_can_change_between_questions() {
    let scene = scene();
    let embedding = embedding(&scene);
    let mut session = session_with(f16(), wild(3));
    assert_ne!(ask_about(&mut session, &embedding, CAPTION), golden_caption(&scene));
    session.set_sampling(Sampling::default()).expect("valid");
    assert_eq!(ask_about(&mut session, &embedding, CAPTION), golden_caption(&scene));
    let bad = Sampling { temperature: -1.0, ..Sampling::default() };
    assert!(matches!(session.set_sampling(bad), Err(Error::InvalidArgument(_))));
    assert_eq!(
        ask_about(&mut session, &embedding, CAPTION),
        golden_caption(&scene),
        "a refused change changes nothing"
    );
}

#[test]
fn the_reference_chat_s_sampling_is_in_the_file() {
    let s = f16().chat_sampling();
    assert_eq!(
        s,
        Sampling {
            greedy: false,
            temperature: 0.6,
            top_k: 50,
            top_p: 0.9,
            repeat_penalty: 1.05,
            ..Sampling::default()
        }
    );
}

#[test]
fn options_out_of_range_are_refused() {
    let refuse = |options: SessionOptions, word: &str| match Session::new(f16().clone(), &options) {
        Err(Error::InvalidArgument(message)) => assert!(message.contains(word), "{message}"),
        other => panic!("{word}: {:?}", other.map(|_| ())),
    };
    refuse(SessionOptions { context: 513, ..options() }, "513");
    refuse(SessionOptions { sampling: Sampling { top_p: 2.0, ..Sampling::default() }, ..options() }, "top_p");
    let mut session = session(f16());
    let narrow = Arc::new(Embedding::new(vec![0.5; 64], 2, 32).expect("an embedding"));
    assert!(matches!(session.add_embedding(narrow), Err(Error::InvalidArgument(_))));
    assert!(matches!(f16().embedding(vec![0.0; 255]), Err(Error::InvalidArgument(_))));
    assert!(matches!(f16().embedding(vec![f32::NAN; 256]), Err(Error::InvalidArgument(_))));
}

#[test]
fn the_number_of_threads_does_not_change_answers() {
    let scene = scene();
    let (decoder, vision) = (common::decoder_file("f16"), common::vision_file("f16"));
    let results = [1, 2].map(|threads| {
        let options = ModelOptions { threads, ..ModelOptions::default() };
        let model = Model::load(&decoder, Some(&vision), &options).expect("the demo model");
        assert_eq!(model.info().threads, threads);
        let mut session = common::session(&model);
        let embedding = session.add_image(&open_image(&scene.image), None).expect("an image");
        session.prefill(COUNT).expect("a prompt");
        let logits = session.logits().to_vec();
        (embedding.values().to_vec(), logits, ask(&mut session, COUNT))
    });
    let d = difference(&results[1].0, &results[0].0);
    assert!(d.relative < 1e-6, "image embeddings: {d:?}");
    let d = difference(&results[1].1, &results[0].1);
    assert!(d.largest < SAME_LOGITS, "logits: {d:?}");
    assert_eq!(results[1].2, results[0].2);
}

#[test]
fn sessions_of_one_model_work_side_by_side() {
    let scenes = scenes();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let scenes = &scenes;
            scope.spawn(move || {
                let mut session = session(f16());
                for scene in scenes.iter().cycle().skip(worker * 2).take(4) {
                    let embedding = session.add_image(&open_image(&scene.image), None).expect("an image");
                    for question in &scene.questions[..3] {
                        let answer = ask_about(&mut session, &embedding, text(question, "question"));
                        assert_eq!(answer, text(question, "answer"), "{}: {}", scene.name, question["question"]);
                    }
                    session.reset();
                }
            });
        }
    });
}

#[test]
fn a_session_can_move_to_another_thread() {
    let scene = scene();
    let mut session = session_about(&scene, options());
    let first = ask(&mut session, COUNT);
    let (again, mut session) = std::thread::spawn(move || {
        session.reset();
        (ask(&mut session, COUNT), session)
    })
    .join()
    .expect("no panic");
    assert!(!first.is_empty() && !again.is_empty());
    assert_eq!(ask_about(&mut session, &embedding(&scene), COUNT), first);
}
