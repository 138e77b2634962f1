//! Runs with scripted answers: scores worked out by hand, going on after a cut, items that cannot be answered.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use tinygptv_convert::output::Progress;
use tinygptv_eval::benchmark::Benchmark;
use tinygptv_eval::formats::Dataset;
use tinygptv_eval::results::{read, FileId, Header, Record, Results, Writer};
use tinygptv_eval::{runner, summary};

use crate::common::{Folder, Line, Script};
use Line::{Broken, Fails, Losses, Says};

fn file(name: &str) -> FileId {
    FileId { name: name.into(), sha256: format!("hash of {name}") }
}

fn header(benchmark: Benchmark, dataset: &Dataset) -> Header {
    let annotations = FileId { name: dataset.name.clone(), sha256: dataset.sha256.clone() };
    let models = [file("decoder.gguf"), file("vision.gguf")];
    Header::new(benchmark, annotations, dataset.items.len(), models, benchmark.template(), 20)
}

/// Answers the first `limit` items with the script.
fn run(
    benchmark: Benchmark,
    dataset: &Dataset,
    limit: usize,
    out: &Path,
    script: &mut Script,
    strict: bool,
) -> Result<()> {
    let (mut writer, known) = Writer::open(out, &header(benchmark, dataset))?;
    runner::run(&dataset.items[..limit], &known, script, &mut writer, strict, &Progress::new(true))
}

/// Runs a whole dataset and gives each item's score.
fn scores(
    benchmark: Benchmark,
    annotations: &str,
    content: &str,
    lines: Vec<(&'static str, Line)>,
) -> (Folder, Results) {
    let folder = Folder::new();
    folder.write(annotations, content);
    let dataset = folder.load(benchmark, annotations).unwrap();
    let out = folder.path("out.jsonl");
    run(benchmark, &dataset, dataset.items.len(), &out, &mut Script::new(lines), false).unwrap();
    let results = read(&out).unwrap();
    assert_eq!(results.header, header(benchmark, &dataset));
    (folder, results)
}

fn list(results: &Results) -> Vec<f64> {
    results.records.iter().map(|r| r.score.expect("a score")).collect()
}

/// The table's cells in the row after the heads: name, score, paper, answered, of, errors.
fn row(results: Results) -> Vec<String> {
    let table = summary::table(&[results]);
    let line = table.lines().nth(1).unwrap();
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).take(6).map(str::to_owned).collect()
}

const VSR: &str = r#"{"image": "a.jpg", "caption": "statement one", "label": 1}
{"image": "b.jpg", "caption": "statement two", "label": 0}
{"image": "a.jpg", "caption": "statement three", "label": 1}
"#;

fn vsr() -> (Folder, Dataset) {
    let folder = Folder::new();
    folder.write("t.jsonl", VSR);
    let dataset = folder.load(Benchmark::Vsr, "t.jsonl").unwrap();
    (folder, dataset)
}

fn vsr_lines() -> Vec<(&'static str, Line)> {
    vec![("one", Says("true")), ("two", Says("True")), ("three", Says("It is true."))]
}

fn vsr_script() -> Script {
    Script::new(vsr_lines())
}

#[test]
fn vsr_by_hand() {
    // "true" three times, against true, false, true; answered picture by picture: one, three, two.
    let (_folder, results) = scores(Benchmark::Vsr, "t.jsonl", VSR, vsr_lines());
    assert_eq!(list(&results), [1.0, 1.0, 0.0]);
    // 2 of 3.
    assert_eq!(row(results), ["vsr", "66.7 %", "54.7 %", "3", "3", "0"]);
}

#[test]
fn gqa_by_hand() {
    let questions = r#"{"1": {"imageId": "a", "question": "q1", "answer": "left"}, "2": {"imageId": "a", "question": "q2", "answer": "yes"},
        "3": {"imageId": "a", "question": "q3", "answer": "table"}, "4": {"imageId": "a", "question": "q4", "answer": "no"}}"#;
    // "left" in "on the Left"; "yes" not in "no"; "table" in "tables"; "no" in "snow", as the paper's rule has it.
    let lines = vec![("q1", Says("on the Left")), ("q2", Says("no")), ("q3", Says("tables")), ("q4", Says("snow"))];
    let (_folder, results) = scores(Benchmark::Gqa, "t.json", questions, lines);
    assert_eq!(list(&results), [1.0, 0.0, 1.0, 1.0]);
    assert_eq!(row(results), ["gqa", "75.0 %", "38.9 %", "4", "4", "0"]);
}

#[test]
fn iconvqa_by_hand() {
    let problems = r#"[{"image_id": "1", "question": "q1", "choices": ["odd", "even"], "answer": 1},
        {"image_id": "2", "question": "q2", "choices": ["4", "5", "6"], "answer": 0}]"#;
    // The lowest loss: even, which is right; and 6, where 4 is.
    let lines = vec![("q1", Losses(&[2.5, 0.5])), ("q2", Losses(&[1.0, 2.0, 0.25]))];
    let (_folder, results) = scores(Benchmark::Iconvqa, "t.json", problems, lines);
    assert_eq!(list(&results), [1.0, 0.0]);
    let second = &results.records[1];
    assert_eq!((second.answer.as_deref(), &second.label), (Some("6"), &"4".into()));
    assert_eq!(second.losses.as_deref(), Some(&[1.0, 2.0, 0.25][..]));
    assert_eq!(second.choices.as_deref(), Some(&["4".to_owned(), "5".into(), "6".into()][..]));
    assert_eq!(row(results), ["iconvqa", "50.0 %", "44.7 %", "2", "2", "0"]);
}

#[test]
fn vizwiz_by_hand() {
    let answers = |texts: [&str; 4]| texts.map(|t| format!(r#"{{"answer": "{t}"}}"#)).join(", ");
    let questions = format!(
        r#"[{{"image": "a.jpg", "question": "q1", "answers": [{}]}}, {{"image": "b.jpg", "question": "q2", "answers": [{}]}},
            {{"image": "c.jpg", "question": "q3", "answers": [{}]}}]"#,
        answers(["basil", "Basil leaves", "basil leaves", "herbs"]),
        answers(["unanswerable", "unanswerable", "dog", "blurry"]),
        answers(["10", "ten", "10 dollars", "bill"])
    );
    // "basil" equals one answer and is contained in two: 3 matches, 3/3. "unanswerable": 2/3. "ten dollars" contains "ten": 1/3.
    let lines = vec![("'q1'", Says("basil")), ("'q2'", Says("Unanswerable")), ("'q3'", Says("ten dollars"))];
    let (_folder, results) = scores(Benchmark::Vizwiz, "val.json", &questions, lines);
    assert_eq!(list(&results), [1.0, 2.0 / 3.0, 1.0 / 3.0]);
    // (1 + 2/3 + 1/3) / 3.
    assert_eq!(row(results), ["vizwiz", "66.7 %", "37.8 %", "3", "3", "0"]);
}

#[test]
fn hateful_memes_by_hand() {
    let line =
        |id, label| format!("{{\"id\": {id}, \"img\": \"{id}.png\", \"label\": {label}, \"text\": \"text {id}\"}}\n");
    let memes: String = [line(1, 1), line(2, 1), line(3, 0), line(4, 0)].concat();
    // Right; wrong; right; neither yes nor no, so wrong.
    let lines =
        vec![("text 1", Says("Yes.")), ("text 2", Says("no")), ("text 3", Says("No")), ("text 4", Says("maybe"))];
    let (_folder, results) = scores(Benchmark::HatefulMemes, "dev_seen.jsonl", &memes, lines);
    assert_eq!(list(&results), [1.0, 0.0, 1.0, 0.0]);
    assert_eq!(row(results), ["hateful-memes", "50.0 %", "54.0 %", "4", "4", "0"]);
}

#[test]
fn refcoco_by_hand() {
    let object = |n, bbox| {
        format!(
            r#"{{"img_id": "COCO_train2014_00000000000{n}_0", "sents": "phrase {n}", "bbox": {bbox}, "height": 200, "width": 100}}"#
        )
    };
    let objects =
        [object(1, "[10, 20, 19, 40]"), object(2, "[20, 20, 19, 40]"), object(3, "[0, 0, 10, 10]")].join(", ");
    // Of 100 × 200 pixels, percent are x 10–29 and y 20–60 both times: 20 × 41 = 820 pixels. The first box is the same; the
    // second is x 20–39, of which 10 × 41 = 410 pixels are common: 410 / (820 + 820 − 410) = 1/3. The third answer has no box.
    let lines = vec![
        ("phrase 1", Says("{<10><10><29><30>}")),
        ("phrase 2", Says("{<10><10><29><30>}")),
        ("phrase 3", Says("top left")),
    ];
    let (_folder, results) = scores(Benchmark::Refcocog, "t.json", &format!("[{objects}]"), lines);
    assert_eq!(list(&results), [1.0, 0.0, 0.0]);
    let ious: Vec<_> = results.records.iter().map(|r| r.iou).collect();
    assert_eq!(ious, [Some(1.0), Some(1.0 / 3.0), None]);
    assert_eq!(row(results), ["refcocog", "33.3 %", "not reported", "3", "3", "0"]);
}

#[test]
fn questions_about_one_picture_come_together() {
    let (folder, dataset) = vsr();
    let mut script = vsr_script();
    run(Benchmark::Vsr, &dataset, 3, &folder.path("out.jsonl"), &mut script, false).unwrap();
    let ask = |s| format!("[vqa] Based on the image, is this statement true or false? statement {s}");
    let (a, b) = (folder.path("images/a.jpg"), folder.path("images/b.jpg"));
    assert_eq!(script.asked, [(a.clone(), ask("one")), (a, ask("three")), (b, ask("two"))]);
}

#[test]
fn a_run_goes_on_behind_a_torn_line() {
    let (folder, dataset) = vsr();
    let whole = folder.path("whole.jsonl");
    run(Benchmark::Vsr, &dataset, 3, &whole, &mut vsr_script(), false).unwrap();
    let whole = fs::read(&whole).unwrap();
    let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, &b)| b == b'\n').map(|(i, _)| i + 1).collect();
    let [header, first, second, third] = ends[..] else { panic!("{} lines", ends.len()) };
    assert_eq!(third, whole.len());

    // Cut anywhere, as a power failure might do it: what is whole stays, what is not is asked again.
    let out = folder.path("out.jsonl");
    for cut in [0, 1, header - 1, header, header + 7, first - 1, first, second - 1, second, third - 1, third] {
        fs::write(&out, &whole[..cut]).unwrap();
        let kept = ends.iter().filter(|&&end| end <= cut).count().saturating_sub(1);
        let mut script = vsr_script();
        run(Benchmark::Vsr, &dataset, 3, &out, &mut script, false).unwrap();
        assert_eq!(script.asked.len(), 3 - kept, "cut at byte {cut}");
        let results = read(&out).unwrap();
        assert_eq!(list(&results), [1.0, 1.0, 0.0], "cut at byte {cut}");
        assert!(
            fs::read(&out).unwrap().starts_with(&whole[..ends[..=kept].last().copied().unwrap()]),
            "cut at byte {cut}"
        );
        assert_eq!(fs::read_to_string(&out).unwrap().lines().count(), 4, "cut at byte {cut}");
    }
}

#[test]
fn a_limited_run_is_told_and_goes_on() {
    let (folder, dataset) = vsr();
    let out = folder.path("out.jsonl");
    run(Benchmark::Vsr, &dataset, 2, &out, &mut vsr_script(), false).unwrap();
    let table = summary::table(&[read(&out).unwrap()]);
    assert!(table.contains("\nvsr: the score is of 2 of 3 items; the paper's figure is of all.\n"), "{table}");
    let mut script = vsr_script();
    run(Benchmark::Vsr, &dataset, 3, &out, &mut script, false).unwrap();
    assert_eq!(script.asked.len(), 1);
    let table = summary::table(&[read(&out).unwrap()]);
    assert_eq!(table.lines().count(), 2, "{table}");
}

#[test]
fn another_run_s_results_are_refused() {
    let (folder, dataset) = vsr();
    let out = folder.path("out.jsonl");
    run(Benchmark::Vsr, &dataset, 3, &out, &mut vsr_script(), false).unwrap();
    let before = fs::read(&out).unwrap();

    let mut other = header(Benchmark::Vsr, &dataset);
    other.decoder = file("other.gguf");
    other.max_new_tokens = 30;
    let error = Writer::open(&out, &other).unwrap_err().to_string();
    for part in ["out.jsonl", "decoder: decoder.gguf", "other.gguf", "token limit: 20 there, 30 now", "another file"] {
        assert!(error.contains(part), "'{part}' is not in: {error}");
    }
    assert!(!error.contains("vision"), "{error}");
    // A model file that was only renamed is the same.
    let mut renamed = header(Benchmark::Vsr, &dataset);
    renamed.decoder.name = "renamed.gguf".into();
    let (writer, known) = Writer::open(&out, &renamed).unwrap();
    assert_eq!(known.len(), 3);

    let error = Writer::open(&out, &renamed).unwrap_err().to_string();
    assert!(error.contains("in use by another run"), "{error}");
    drop(writer);
    assert_eq!(fs::read(&out).unwrap(), before);
}

#[test]
fn files_of_another_kind_are_left_alone() {
    let (folder, dataset) = vsr();
    let header = header(Benchmark::Vsr, &dataset);
    for content in [VSR, "notes", "notes\n"] {
        let path = folder.write("notes.txt", content);
        let error = Writer::open(&path, &header).unwrap_err().to_string();
        assert!(error.contains("notes.txt") && error.contains("another"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
        assert!(read(&path).is_err());
    }
    // A line in the middle that is damaged.
    let out = folder.path("out.jsonl");
    run(Benchmark::Vsr, &dataset, 1, &out, &mut vsr_script(), false).unwrap();
    OpenOptions::new().append(true).open(&out).unwrap().write_all(b"{\"id\": 1}\n").unwrap();
    assert!(read(&out).unwrap_err().to_string().contains("line 3"));
    assert!(Writer::open(&out, &header).unwrap_err().to_string().contains("line 3"));
}

#[test]
fn items_without_a_picture_are_counted_and_tried_again() {
    let (folder, dataset) = vsr();
    let out = folder.path("out.jsonl");
    let lines = || vec![("one", Says("true")), ("two", Broken), ("three", Says("false"))];
    run(Benchmark::Vsr, &dataset, 3, &out, &mut Script::new(lines()), false).unwrap();
    let results = read(&out).unwrap();
    let broken: Vec<&Record> = results.records.iter().filter(|r| r.error.is_some()).collect();
    assert_eq!((broken.len(), broken[0].id.as_str(), broken[0].score), (1, "2 b.jpg", None));
    assert_eq!(broken[0].error.as_deref(), Some("no picture"));
    let table = summary::table(&[read(&out).unwrap()]);
    assert!(table.contains("vsr: items with errors are not in the score"), "{table}");
    // 1 of the 2 that were answered.
    assert_eq!(row(results), ["vsr", "50.0 %", "54.7 %", "2", "3", "1"]);

    // Mended, it is answered by the next run, and its error is no longer counted.
    let mut script = vsr_script();
    run(Benchmark::Vsr, &dataset, 3, &out, &mut script, false).unwrap();
    assert_eq!(script.asked.len(), 1);
    // one: right. three: was wrong. two: true where false is right.
    assert_eq!(row(read(&out).unwrap()), ["vsr", "33.3 %", "54.7 %", "3", "3", "0"]);

    let strict = folder.path("strict.jsonl");
    let error = run(Benchmark::Vsr, &dataset, 3, &strict, &mut Script::new(lines()), true).unwrap_err();
    assert_eq!(error.to_string(), "item '2 b.jpg': no picture");
    assert_eq!(read(&strict).unwrap().records.len(), 2);
}

#[test]
fn a_model_that_fails_ends_the_run() {
    let (folder, dataset) = vsr();
    let out = folder.path("out.jsonl");
    let mut script = Script::new(vec![("one", Says("true")), ("two", Says("true")), ("three", Fails)]);
    let error = format!("{:#}", run(Benchmark::Vsr, &dataset, 3, &out, &mut script, false).unwrap_err());
    assert_eq!(error, "stopped at item '3 a.jpg': out of order");
    assert_eq!(read(&out).unwrap().records.len(), 1);
}
